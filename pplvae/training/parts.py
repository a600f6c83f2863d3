"""Whether a batch may be taken in parts, on one rank or on several: what its loss is must be a sum over its rows."""

from collections.abc import Callable
from contextlib import suppress

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from pplvae.data import Rows
from pplvae.errors import ProgramError
from pplvae.objectives import Objective
from pplvae.programs.batch import Batch
from pplvae.programs.capture import agree
from pplvae.training.preparation import Start
from pplvae.training.replays import Found, differs
from pplvae.training.steps import Steps

_ALIKE = 1e-4  # relative to the largest number: sums in another order differ by less in single precision
_ROWS = 64  # that are looked at


def check_parts(objective: Objective, start: Start, steps: Steps, rows: Rows, size: int, parts: int, seed: int) -> None:
    """Refuse what cannot be taken in parts; it would be computed without a word, and be something else.

    Args:
        objective: what is maximised.
        start: of the fit.
        steps: of the fit.
        rows: to train on.
        size: rows of a batch.
        parts: in which a batch is taken, on all ranks together.
        seed: names the noise.

    Raises:
        ProgramError: with the reason, and what to do.
        ValueError: fewer rows than parts.
    """
    if min(size, len(rows)) < parts:
        raise ValueError(
            f"A batch of {min(size, len(rows))} rows cannot be taken in {parts} parts (ranks times `accumulate`). "
            "Raise `batch_size`, or take fewer parts."
        )
    if start.layout is None:
        raise _refused("the pair cannot be scored row by row")
    index = torch.arange(min(size, len(rows), _ROWS))
    tensors = [tensor[index.to(tensor.device)] for tensor in rows.tensors]
    batch = Batch.of_step(tensors, index.to(tensors[0].device), (seed, 0), 0)
    reason = objective.reason_against_parts or _of_modules(start)
    if not reason:
        with suppress(Exception):  # the fit will meet it in its first step, and say where it comes from
            reason = reason_against_parts(steps.looked_at, batch)
    if reason:
        raise _refused(reason)


def _of_modules(start: Start) -> str:
    over_rows = [module for module in start.modules if isinstance(module, _BatchNorm) and module.training]
    return f"{over_rows[0]} normalises over the rows of a batch while it is in train mode" if over_rows else ""


def _refused(reason: str) -> ProgramError:
    return ProgramError(
        f"This fit cannot be shared by several ranks, nor its batches be taken in pieces: {reason}. Fit in one process "
        "with `accumulate=1`; or use `TraceMeanField_ELBO` or `IWAE`, whose terms are each of one row, and no module "
        "that mixes rows in train mode (LayerNorm or GroupNorm in place of BatchNorm)."
    )


def reason_against_parts(look: Callable[[Batch, int], Found], batch: Batch) -> str:
    """Why a batch cannot be taken in parts, in a clause, as far as one batch shows it; "" where it can.

    Args:
        look: what a step would find on some rows, as means over them; of such a seed.
        batch: rows whose noise is keyed.
    """
    whole, again = look(batch, 0), look(batch, 1)
    if differs(whole, again, _ALIKE):
        return "it draws random numbers that do not belong to rows, such as NumPy's, or torch's beside those of latents"
    middle = (len(batch) + 1) // 2
    parts = [batch.take(slice(0, middle)), batch.take(slice(middle, None))]
    found = [look(part, 0) for part in parts if len(part)]
    weights = [len(part) / len(batch) for part in parts if len(part)]
    loss = torch.stack([one.loss * weight for one, weight in zip(found, weights, strict=True)]).sum()
    if not agree(loss, whole.loss, _ALIKE):
        return "the loss of a batch is no sum over its rows"
    slopes = [
        None if slope is None else sum(one.slopes[k] * w for one, w in zip(found, weights, strict=True))  # type: ignore[operator]
        for k, slope in enumerate(whole.slopes)
    ]
    if differs(Found(loss, slopes), whole, _ALIKE):  # type: ignore[arg-type]
        return "the gradient of a batch is no sum over its rows"
    return ""
