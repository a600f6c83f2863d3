"""`compare` and `amortisation_gap`: where the nats of each row go."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pplvae.comparison.annealed import Annealing
from pplvae.comparison.arviz import pareto_k
from pplvae.comparison.chunks import Chunk, Columns, Draws, add, over_chunks, spread
from pplvae.comparison.estimates import influence, log_mean_exp, mean_and_stderr
from pplvae.comparison.evidence import annealed_evidence, check_local, check_method
from pplvae.comparison.ladder import families_of, rung_columns
from pplvae.comparison.localise import Offsets
from pplvae.comparison.optimise import Schedule, Status
from pplvae.comparison.result import Comparison, pictures_of
from pplvae.comparison.richer import Family
from pplvae.data import as_parts
from pplvae.rows import Program

_SCREEN = 0.1  # nats


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
        guide: q(h; lambda_phi(v)), called as `guide(*rows)`; see the README for what a pair needs.
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
    asked = _Asked(particles=particles, schedule=Schedule(tolerance=tolerance, max_steps=max_steps))
    return _compare(model, guide, rows, asked, seed, chunk_size, progress)


def compare(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    families: Sequence[Any] = (),
    evidence: str | None = "importance",
    annealing: Annealing | None = None,
    screen: bool | float = False,
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
        families: richer families in which each row's optimum is sought as well, started from the row's own guide:
            "full_covariance", "flow", "mixture", or yours (see `Transport`).
        evidence: how log p(v) is estimated: "importance" weights the scoring draws of the row's own guide (a lower
            bound in expectation, so the approximation gap is under-estimated); "ais" anneals from the row's own guide
            (see `log_evidence`); None leaves it out.
        annealing: settings of "ais".
        screen: optimise only the rows whose gap may exceed so many nats (True: 0.1). Importance weights of the
            encoder's guide bound a row's gap from above where their k-hat is below 0.7; a row whose bound is lower is
            skipped: its `status` is "skipped", its gaps are NaN, and `amortisation_gap_bound` says what it may lose at
            most.
        seed: see `amortisation_gap`.
        particles: draws per row for scoring, and for the importance weights.
        tolerance: see `amortisation_gap`.
        max_steps: the same.
        chunk_size: the same.
        progress: the same.

    Returns:
        A `Comparison` whose `rows` also hold `log_evidence`, `approximation_gap` = log_evidence - elbo_local and
        `inference_gap` = log_evidence - elbo_amortised, each with `<name>_stderr` (with "ais" also what `log_evidence`
        says of its weights, as `pareto_k_ais` and so on), and `pareto_k_amortised` and
        `pareto_k_local` (below 0.5 good, above 0.7 the importance weights cannot be trusted). For each family, whose
        members include the row's own guide, `elbo_local_<family>` and `family_gap_<family>` = elbo_local_<family> -
        elbo_local, what the guide's own family costs against it: below -3 standard errors the search has failed.

    Raises:
        UnknownNameError: an unknown `evidence` or family.
        DataError: see `amortisation_gap`.
        ProgramError: see `amortisation_gap`.
    """
    if evidence is not None:
        check_method(evidence)
    if screen is True:
        screen = _SCREEN
    asked = _Asked(
        particles=particles,
        schedule=Schedule(tolerance=tolerance, max_steps=max_steps),
        evidence=evidence,
        annealing=annealing or Annealing(),
        ladder=families_of(families),
        screen=None if screen is False else screen,
    )
    return _compare(model, guide, rows, asked, seed, chunk_size, progress)


@dataclass(frozen=True)
class _Asked:
    """What a comparison was asked for."""

    particles: int
    schedule: Schedule
    evidence: str | None = None
    annealing: Annealing = field(default_factory=Annealing)
    ladder: Sequence[Family] = ()
    screen: float | None = None

    def measure(self, chunk: Chunk) -> Columns:
        """Everything that the rows will hold for a chunk."""
        amortised = chunk.log_weights(chunk.zeros, self.particles)
        if self.screen is None:
            return self._refine(chunk, amortised)
        bound, worth = _worth_refining(amortised, self._weights(chunk, chunk.zeros, amortised), self.screen)
        kept = torch.nonzero(worth).flatten()
        columns: Columns = {"amortisation_gap_bound": bound}
        add(columns, "elbo_amortised", *mean_and_stderr(amortised))
        if len(kept) == 0:
            nothing = torch.full_like(bound, torch.nan)
            for name in ("elbo_local", "amortisation_gap"):
                add(columns, name, nothing, nothing)
            return columns | {"status": np.full(len(bound), "skipped"), "steps": torch.zeros(len(bound)).long()}
        return spread(self._refine(chunk.take(kept), amortised[:, kept]), kept, len(bound)) | columns

    def _weights(self, chunk: Chunk, offsets: Offsets, draws: Draws) -> Draws:
        """The same draws as weights for evidence: others only where states of discrete latents are summed over."""
        return chunk.log_weights(offsets, self.particles, evidence=True) if chunk.layout.states else draws

    def _refine(self, chunk: Chunk, amortised: Draws) -> Columns:
        own = chunk.log_weights(chunk.optimum.offsets, self.particles)
        columns = _gap_columns(chunk, amortised, own) | _parameter_columns(chunk)
        if self.evidence is not None:
            check_local(chunk)
            weights = self._weights(chunk, chunk.zeros, amortised)
            own_weights = self._weights(chunk, chunk.optimum.offsets, own)
            columns |= {"pareto_k_amortised": pareto_k(weights), "pareto_k_local": pareto_k(own_weights)}
            if self.evidence == "importance":
                columns |= _importance_columns(amortised, own, own_weights)
            else:
                columns |= _annealed_columns(columns, annealed_evidence(chunk, self.annealing))
        for family in self.ladder:
            columns |= rung_columns(chunk, family, own)
        return columns


def _compare(
    model: Program, guide: Program, rows: Any, asked: _Asked, seed: int, chunk_size: int, progress: bool
) -> Comparison:
    if asked.particles < 4 or asked.particles % 2:
        raise ValueError(
            f"`particles` must be even (draws come in mirrored pairs) and at least 4, got {asked.particles}."
        )
    parts = as_parts(rows)
    options = {"seed": seed, "chunk_size": chunk_size, "progress": progress}
    found = over_chunks(asked.measure, model, guide, parts, asked.schedule, **options)
    settings = {
        "seed": seed,
        "particles": asked.particles,
        "tolerance": asked.schedule.tolerance,
        "max_steps": asked.schedule.max_steps,
        "evidence": asked.evidence or "none",
        "families": ", ".join(family.name for family in asked.ladder),
        "screen": "none" if asked.screen is None else asked.screen,
    }
    found, parameters = _parted(found.assign_attrs(settings))
    return Comparison(found, pictures_of(found, parts), parameters)


def _worth_refining(amortised: Draws, weights: Draws, screen: float) -> tuple[Tensor, Tensor]:
    """An upper bound on each row's gap, and the rows whose gap may exceed the screen.

    Log p(v) less the amortised ELBO is more than the gap; the importance-weighted estimate of it can be trusted where
    k-hat is low.
    """
    evidence, stderr = log_mean_exp(weights)
    bound = evidence - amortised.mean(0) + 2 * stderr
    trusted = torch.from_numpy(pareto_k(weights) < 0.7).to(bound.device)
    bound = torch.where(trusted, bound, torch.inf)
    return bound, ~(bound < screen)


_PARAMETER = "lambda "


def _parameter_columns(chunk: Chunk) -> Columns:
    """Lambda of the encoder and of the row's own guide, one line per row."""
    guides = chunk.guides(slice(None), 2)
    both = [guides.parameters(offsets) for offsets in (chunk.zeros, chunk.optimum.offsets)]
    return {
        f"{_PARAMETER}{key}": torch.stack([lam[key].reshape(len(lam[key]), -1) for lam in both], 1).to(torch.float64)
        for key in both[0]
    }


def _parted(found: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The columns with one number per row, and lambda over (row, guide, element)."""
    names = [str(name) for name in found.data_vars if str(name).startswith(_PARAMETER)]
    parameters = xr.Dataset(coords=found.coords if names else None)
    for name in names:
        key = name.removeprefix(_PARAMETER)
        parameters[key] = (("row", "guide", f"element of {key}"), found[name].values)
    if names:
        parameters = parameters.assign_coords(guide=["amortised", "local"])
    return found.drop_vars(names), parameters


def _gap_columns(chunk: Chunk, amortised: Draws, own: Draws) -> Columns:
    columns: Columns = {}
    add(columns, "elbo_amortised", *mean_and_stderr(amortised))
    add(columns, "elbo_local", *mean_and_stderr(own))
    add(columns, "amortisation_gap", *mean_and_stderr(own - amortised))
    finite = (amortised.isfinite() & own.isfinite()).all(0).tolist()
    ended = [s if ok else Status.NONFINITE for s, ok in zip(chunk.optimum.status, finite, strict=True)]
    columns["status"] = np.array([status.name.lower() for status in ended])
    columns["steps"] = chunk.optimum.steps
    return columns


def _importance_columns(amortised: Draws, own: Draws, own_weights: Draws) -> Columns:
    """Evidence from the very draws that scored the row's own guide."""
    columns: Columns = {}
    value, stderr = log_mean_exp(own_weights)
    error = influence(own_weights)
    add(columns, "log_evidence", value, stderr)
    for name, draws in (("approximation_gap", own), ("inference_gap", amortised)):
        # The gap's error is that of a mean of these draws, since both terms come from the same noise.
        _, gap_stderr = mean_and_stderr(error - (draws - draws.mean(0)))
        add(columns, name, value - draws.mean(0), gap_stderr)
    return columns


def _annealed_columns(gaps: Columns, annealed: Columns) -> Columns:
    """Evidence from chains of its own, so that errors are independent of those of the ELBOs."""
    columns: Columns = {}
    value, stderr = annealed["log_evidence"], annealed["log_evidence_stderr"]
    add(columns, "log_evidence", value, stderr)
    for name, elbo in (("approximation_gap", "elbo_local"), ("inference_gap", "elbo_amortised")):
        add(columns, name, value - gaps[elbo], stderr.hypot(gaps[f"{elbo}_stderr"]))
    kept = ("pareto_k", "acceptance", "effective_sample_size", "jensen_slack")
    return columns | {f"{name}_ais": annealed[name] for name in kept}
