"""`compare` and `amortisation_gap`: where the nats of each row go."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int64
from torch import Tensor
from tqdm.auto import tqdm

from pplvae.comparison.arviz import pareto_k
from pplvae.comparison.estimates import influence, log_mean_exp, mean_and_stderr
from pplvae.comparison.localise import LocalGuides, Offsets
from pplvae.comparison.optimise import Optimum, Schedule, Status, optimise
from pplvae.comparison.result import Comparison, pictures_of
from pplvae.data import Rows, as_parts
from pplvae.errors import UnknownNameError, in_users_words
from pplvae.inspection import inspect_pair
from pplvae.isolate import evaluation_mode, isolated, validation
from pplvae.rows import Batch, Layout, Program

_SCORE = 3  # the stream of noise for scoring; `optimise` uses 1 and 2
_BLOCK = 50  # draws of every row of a chunk in memory at once while scoring; even
_EVIDENCE = ("importance",)


def amortisation_gap(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    seed: int = 0,
    particles: int = 1000,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    chunk_size: int = 500,
    progress: bool = False,
) -> Comparison:
    """What one shared encoder costs: a guide of its own is optimised for every row, the decoder held fixed.

    The gap of row i is the highest ELBO of the guide's own family at that row, minus the ELBO of the amortised guide.
    Both are estimated from the same fresh draws, independent of those that the local guide was optimised with. The
    programs run in eval mode, without plate scales; parameters come from the programs and the param store as they are.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`, with a data plate.
        guide: q(h; lambda_phi(v)), called as `guide(*rows)`, continuous and reparameterised.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), the whole of it (train and test
            are then compared side by side), or a mapping from names to any of these.
        seed: names all noise. The same seed gives the same bits, and a row's answer does not depend on the others.
        particles: draws per row for scoring; even.
        tolerance: nats; see `Schedule.tolerance`.
        max_steps: optimisation steps per row at most.
        chunk_size: rows optimised at once; changes memory and speed, not the result.
        progress: show a progress bar, on a terminal.

    Returns:
        A `Comparison`. Its `rows` hold `elbo_amortised`, `elbo_local`, `amortisation_gap`, in nats per row, each with
        `<name>_stderr` (Monte Carlo), and the `status` and `steps` of each row's optimisation.

    Raises:
        DataError: rows that cannot be used; ShapeError if their numbers differ.
        ProgramError: a pair that cannot be compared row by row; the message says what to change.

    References:
        Inference suboptimality in variational autoencoders (Cremer, Li and Duvenaud, 2018), arXiv 1801.03558.
    """
    schedule = Schedule(tolerance=tolerance, max_steps=max_steps)
    return _compare(model, guide, as_parts(rows), None, schedule, seed, particles, chunk_size, progress)


def compare(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    evidence: str | None = "importance",
    seed: int = 0,
    particles: int = 1000,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    chunk_size: int = 500,
    progress: bool = False,
) -> Comparison:
    """The amortisation gap, and what is lost beyond it: an estimate of log p(v) for every row.

    Args:
        model: see `amortisation_gap`, as for all arguments that are not listed here.
        guide: the same.
        rows: the same.
        evidence: how log p(v) is estimated: "importance" weights the scoring draws of the row's own guide (a lower
            bound in expectation, so the approximation gap is under-estimated); None leaves it out.
        seed: see `amortisation_gap`.
        particles: draws per row for scoring, and for the importance weights.
        tolerance: see `amortisation_gap`.
        max_steps: the same.
        chunk_size: the same.
        progress: the same.

    Returns:
        A `Comparison` whose `rows` also hold `log_evidence`, `approximation_gap` = log_evidence - elbo_local and
        `inference_gap` = log_evidence - elbo_amortised, each with `<name>_stderr`, and `pareto_k_amortised` and
        `pareto_k_local` (below 0.5 good, above 0.7 the importance weights cannot be trusted).

    Raises:
        UnknownNameError: an unknown `evidence`.
        DataError: see `amortisation_gap`.
        ProgramError: see `amortisation_gap`.
    """
    if evidence is not None and evidence not in _EVIDENCE:
        raise UnknownNameError("estimator of the evidence", evidence, _EVIDENCE)
    schedule = Schedule(tolerance=tolerance, max_steps=max_steps)
    return _compare(model, guide, as_parts(rows), evidence, schedule, seed, particles, chunk_size, progress)


def _compare(
    model: Program,
    guide: Program,
    parts: Mapping[str, Rows],
    evidence: str | None,
    schedule: Schedule,
    seed: int,
    particles: int,
    chunk_size: int,
    progress: bool,
) -> Comparison:
    if particles < 4 or particles % 2:
        raise ValueError(f"`particles` must be even (draws come in mirrored pairs) and at least 4, got {particles}.")
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    total = sum(len(part) for part in parts.values())
    labelled = all(part.labels is not None for part in parts.values())
    found: list[xr.Dataset] = []
    free: tuple[str, ...] = ()
    with tqdm(total=total, desc="comparing", unit="row", disable=None if progress else True) as bar:
        for part in parts.values():
            dtype = next((t.dtype for t in part.tensors if t.is_floating_point()), None)
            with isolated(seed, dtype=dtype), evaluation_mode(model, guide):
                layout = inspect_pair(model, guide, part.tensors)
                free = layout.free
                with validation(False):  # the pair has been checked on every row
                    whole = Batch.of(part.tensors)
                    for start in range(0, len(part), chunk_size):
                        chunk = slice(start, start + chunk_size)
                        solver = _Chunk(model, guide, layout, whole.take(chunk), schedule, seed)
                        columns = solver.columns(particles, evidence)
                        found.append(_dataset(columns, part[chunk], labelled))
                        bar.update(len(found[-1]["row"]))
    settings = {
        "seed": seed,
        "particles": particles,
        "tolerance": schedule.tolerance,
        "max_steps": schedule.max_steps,
        "evidence": evidence or "none",
        "lambda": ", ".join(free),
    }
    rows = xr.concat(found, dim="row").assign_attrs(settings)
    return Comparison(rows, pictures_of(rows, parts))


class _Chunk:
    """Rows that are optimised together and scored in blocks of draws."""

    def __init__(
        self, model: Program, guide: Program, layout: Layout, batch: Batch, schedule: Schedule, seed: int
    ) -> None:
        self._model, self._guide, self._layout = model, guide, layout
        self._batch = batch
        self._schedule, self._seed = schedule, seed

    def columns(self, particles: int, evidence: str | None) -> dict[str, Any]:
        """Everything that `rows` will hold for this chunk."""
        with in_users_words("pair of model and guide", self._batch.tensors):
            optimum = optimise(self._local, len(self._batch), self._schedule, self._seed)
            amortised, own = self._score(optimum, particles)
        columns: dict[str, Any] = {}
        _add(columns, "elbo_amortised", *mean_and_stderr(amortised))
        _add(columns, "elbo_local", *mean_and_stderr(own))
        _add(columns, "amortisation_gap", *mean_and_stderr(own - amortised))
        finite = (amortised.isfinite() & own.isfinite()).all(0).tolist()
        ended = [s if ok else Status.NONFINITE for s, ok in zip(optimum.status, finite, strict=True)]
        columns["status"] = np.array([status.name.lower() for status in ended])
        columns["steps"] = optimum.steps.cpu().numpy()
        if evidence is not None:
            self._add_evidence(columns, amortised, own)
        return columns

    def _local(self, index: Int64[Tensor, " active"], particles: int) -> LocalGuides:
        return LocalGuides(self._model, self._guide, self._layout, self._batch.take(index).times(particles))

    def _score(
        self, optimum: Optimum, particles: int
    ) -> tuple[Float[Tensor, "particle row"], Float[Tensor, "particle row"]]:
        """Log weights of the amortised and of the local guides, from the same fresh draws."""
        zeros: Offsets = {key: torch.zeros_like(offset) for key, offset in optimum.offsets.items()}
        scores = ([], [])
        for draws in _blocks(particles):
            batch = LocalGuides(self._model, self._guide, self._layout, self._batch.times(len(draws)))
            for offsets, score in zip((zeros, optimum.offsets), scores, strict=True):
                with torch.no_grad():
                    weights = batch.log_weights(offsets, (self._seed, _SCORE, draws.start))
                score.append(weights.to(torch.float64).unflatten(0, (2, -1)))
        amortised, own = (torch.cat(score, dim=1).flatten(0, 1) for score in scores)  # the mirrored draws last
        return amortised, own

    @staticmethod
    def _add_evidence(columns: dict[str, Any], amortised: Tensor, own: Tensor) -> None:
        value, stderr = log_mean_exp(own)
        error = influence(own)
        _add(columns, "log_evidence", value, stderr)
        for name, draws in (("approximation_gap", own), ("inference_gap", amortised)):
            # The gap's error is that of a mean of these draws, since both terms come from the same noise.
            _, gap_stderr = mean_and_stderr(error - (draws - draws.mean(0)))
            _add(columns, name, value - draws.mean(0), gap_stderr)
        columns["pareto_k_amortised"], columns["pareto_k_local"] = pareto_k(amortised), pareto_k(own)


def _blocks(particles: int) -> list[range]:
    """Draws in blocks whose size depends on nothing but their number: the noise of a draw is named by its block."""
    return [range(start, min(start + _BLOCK, particles)) for start in range(0, particles, _BLOCK)]


def _add(columns: dict[str, Any], name: str, value: Tensor, stderr: Tensor) -> None:
    columns[name], columns[f"{name}_stderr"] = value.cpu().numpy(), stderr.cpu().numpy()


def _dataset(columns: dict[str, Any], rows: Rows, labelled: bool) -> xr.Dataset:
    variables = {name: ("row", values) for name, values in columns.items()}
    coordinates = {"row": rows.ids, "part": ("row", np.array([rows.name] * len(rows)))}
    if labelled:
        coordinates["label"] = ("row", rows.labels)
    dataset = xr.Dataset(variables, coords=coordinates)
    for name in columns:
        if name not in ("status", "steps", "pareto_k_amortised", "pareto_k_local"):
            dataset[name].attrs["units"] = "nats"
    return dataset
