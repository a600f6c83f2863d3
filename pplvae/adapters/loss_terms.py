"""A user's loss and the two terms of a pair's ELBO, on the same batches of rows."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyro.poutine as poutine
import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch import distributions as td

from pplvae.errors import DataError, ProgramError
from pplvae.isolate import evaluation_mode, isolated, reseed
from pplvae.programs.failures import in_users_words
from pplvae.programs.opening import floating_dtype

_LARGEST = 64  # rows of a batch
_FEWEST = 8  # rows at all
_EACH = 4  # batches of each size and order of rows


@dataclass(frozen=True)
class Terms:
    """Terms by draw and batch, in nats per row, as the pair has them; and the loss as it came.

    Attributes:
        sizes: rows of each batch.
        loss: what the user's function gave.
        reconstruction: -log p(v | h).
        kl: KL(q(h | v) || p(h)) in closed form; where there is none, of the draws.
        drawn_kl: log q(h | v) - log p(h) of the draws.
        log_factorials: sum of log v!, which losses of counts leave out; 0 where values are no counts.
    """

    sizes: Float[Tensor, " batch"]
    loss: Float[Tensor, "draw batch"]
    reconstruction: Float[Tensor, "draw batch"]
    kl: Float[Tensor, "draw batch"]
    drawn_kl: Float[Tensor, "draw batch"]
    log_factorials: Float[Tensor, "draw batch"]


def terms_of(model: Any, guide: Any, loss: Callable[..., Any], tensors: Sequence[Tensor], draws: int) -> Terms:
    """Run the loss and the pair on batches of two sizes, from the same states of the random generator.

    A loss that draws as the pair does, one normal number for each latent, then has the same noise.

    Args:
        model: p(v, h).
        guide: q(h | v).
        loss: called as `loss(*rows)`.
        tensors: the rows.
        draws: how often each batch is run.

    Raises:
        DataError: too few rows.
        ProgramError: the loss fails, or is no number.
    """
    if len(tensors[0]) < _FEWEST:
        raise DataError(f"To compare the loss, {_FEWEST} rows or more are needed, got {len(tensors[0])}.")
    with isolated(0, dtype=floating_dtype(tensors)), evaluation_mode(model, guide):
        by_row = _of_pair(model, guide, tensors)
        batches = list(_batches(by_row[:, 0], by_row[:, 1]))
        found = torch.stack(
            [
                torch.stack([_of_batch(model, guide, loss, _some(tensors, index), draw) for index in batches])
                for draw in range(draws)
            ]
        )
    sizes = torch.tensor([len(index) for index in batches], dtype=torch.float64)
    return Terms(sizes, *found.unbind(-1))


def _some(tensors: Sequence[Tensor], index: Tensor) -> list[Tensor]:
    return [tensor[index.to(tensor.device)] for tensor in tensors]


def _batches(reconstruction: Tensor, kl: Tensor) -> Iterator[Int64[Tensor, " row"]]:
    """Rows of each batch: neighbours by either term, so that the terms differ between batches, and some at random."""
    rows = len(kl)
    order = torch.randperm(rows, generator=torch.Generator().manual_seed(0))
    for size in (min(_LARGEST, rows // 2), max(2, min(_LARGEST, rows // 2) // 2)):
        for rank in (reconstruction.argsort(), kl.argsort(), order):
            for start in torch.linspace(0, rows - size, _EACH).long():
                yield rank[start : start + size]


def _of_batch(model: Any, guide: Any, loss: Callable[..., Any], tensors: Sequence[Tensor], draw: int) -> Tensor:
    reseed(draw)
    with in_users_words("loss", tensors):
        value = number(loss(*tensors))
    return torch.cat([torch.tensor([value], dtype=torch.float64), _of_pair(model, guide, tensors, draw).mean(0)])


@torch.no_grad()
def _of_pair(model: Any, guide: Any, tensors: Sequence[Tensor], draw: int = 0) -> Float[Tensor, "row 4"]:
    """Reconstruction, KL, drawn KL and log factorials of each row."""
    q: Any = poutine.trace(guide).get_trace(*tensors).nodes["h"]["fn"]
    reseed(draw)  # now, since an encoder may draw something itself, which the user's loss then goes on with
    h = q()
    models: Any = poutine.trace(poutine.condition(model, {"h": h})).get_trace(*tensors).nodes
    p, seen = models["h"]["fn"], models["v"]
    v = seen["value"]
    drawn = q.log_prob(h) - p.log_prob(h)
    counts = bool((v == v.round()).all() and (v >= 0).all())
    factorials = torch.lgamma(v + 1).flatten(1).sum(1) if counts else torch.zeros_like(drawn)
    columns = (-seen["fn"].log_prob(v), _closed(q, p, drawn), drawn, factorials)
    return torch.stack([column.double().cpu() for column in columns], 1)


def _closed(q: Any, p: Any, drawn: Tensor) -> Tensor:
    try:
        return td.kl_divergence(q, p)
    except NotImplementedError:
        return drawn


def number(loss: Any) -> float:
    """A loss as a number: a tensor of one, or of one for each row, a dictionary with "loss", or first of a tuple.

    Raises:
        ProgramError: it is none of these.
    """
    if isinstance(loss, Mapping) and "loss" in loss:
        return number(loss["loss"])
    if isinstance(loss, tuple | list) and loss:
        return number(loss[0])
    if isinstance(loss, Tensor) and loss.ndim <= 1:
        return float(loss.detach().double().sum())
    if isinstance(loss, int | float):
        return float(loss)
    raise ProgramError(
        f"The loss gives {type(loss).__name__}, where one number for a batch is expected, or a dictionary with it "
        "under 'loss'. Wrap it: `loss=lambda *rows: ...`."
    )
