"""`log_evidence`: log p(v_i) of every row, with its error and the side of the truth on which it lies."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from jaxtyping import Bool
from torch import Tensor

from pplvae.data import as_parts
from pplvae.errors import ProgramError, UnknownNameError
from pplvae.evidence.annealing import Annealer, Annealing, AnnealingPath
from pplvae.evidence.gaussian_space import most_starts
from pplvae.evidence.paths import per_path
from pplvae.evidence.proposal import Proposal, around_gaussians, around_guide
from pplvae.programs.estimates import log_mean_exp, with_rounding
from pplvae.programs.latents import LatentSpace
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Program
from pplvae.programs.shapes import PerDraw, PerRow
from pplvae.results.arviz import pareto_k
from pplvae.results.base import Result
from pplvae.scoring.chunks import Chunk, over_chunks
from pplvae.scoring.precision import FEWEST_WEIGHTS, Precision
from pplvae.scoring.tables import Columns, add, merged
from pplvae.search.gaussian import Gaussians
from pplvae.search.optimum import Schedule
from pplvae.search.other_modes import Modes
from pplvae.statistics.evidence import evidence_lines, evidence_summary, evidence_warnings

METHODS = ("importance", "ais")
_PILOT_WEIGHTS = 200
_MOST_WEIGHTS = 20_000  # log p(v) is what is asked for here: rows with heavy weights need more than a gap does


@dataclass(frozen=True, eq=False, repr=False)
class Evidence(Result):
    """Estimates of log p(v).

    Attributes:
        rows: over dimension "row", in nats: `log_evidence` with `log_evidence_stderr` (Monte Carlo) and
            `log_evidence_bias`, about how much too low it is for being the logarithm of a mean; `jensen_slack`, by how
            much it exceeds the mean log weight (what one draw would give); `effective_sample_size` of the weights;
            `pareto_k` of their tail; `draws`, how many were used; for annealing `acceptance`, the mean over all moves,
            and the number of `temperatures`. The attribute `bound` says on which side of the truth the estimate lies in
            expectation.
    """

    kind: ClassVar[str] = "evidence"
    essential: ClassVar[str] = "log_evidence"
    figures: ClassVar[tuple[str, ...]] = ("row_histogram",)

    def summary(self) -> xr.Dataset:
        """Means over rows.

        Returns:
            Over dimensions "part" and "term" (`log_evidence`, `jensen_slack`): `mean` in nats per row, `stderr` over
            rows, `mc_stderr`, the part of it that more draws would remove, `count` and `left_out`. Per part
            `unreliable`, the share of rows whose k-hat is above 0.7.
        """
        return evidence_summary(self.rows)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return evidence_warnings(self.summary())

    def _lines(self) -> list[str]:
        return evidence_lines(self.summary())


def log_evidence(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    method: str = "importance",
    annealing: Annealing | None = None,
    particles: int | None = None,
    stderr: float = 0.01,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    seed: int = 0,
    chunk_size: int = 1000,
    memory: int | str | None = None,
    store: str | Path | None = None,
    progress: bool = False,
) -> Evidence:
    """Estimate log p(v_i) of every row from its own optimised guide, by an estimator declared beforehand.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. It needs a data plate: the README says what a
            pair needs.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Several sets, which are all of a mapping or the train and test rows of a whole `Data`, are measured side by
            side.
        method: "importance", the importance-weighted bound (Burda et al., 2016), from a mixture around the row's own
            guide that has heavier tails and the prior in it, or from the guide itself where latents are discrete or
            masked; "ais", annealed importance sampling with Hamiltonian moves.
        annealing: settings of annealed importance sampling. For "ais", which takes its number of draws from there.
        particles: Monte Carlo draws per row. An even number, for "importance"; by default as many as `stderr` needs.
        stderr: the largest Monte Carlo standard error of a row that is asked for, in nats. For "importance": a row
            takes 1000 draws, or that doubled so often that by a pilot sample its error will not be larger, 20 000 at
            most. The pilot's draws are not used for anything else, so that nothing is biased. Without effect where
            `particles` is given.
        tolerance: nats per row; a row has converged if the upper 95 % end of its `shortfall` is below that.
        max_steps: steps of the search for each row's own guide, at most.
        seed: names all noise: the same seed gives the same bits. A row's answer does not depend on the other rows.
        chunk_size: rows at once, at most. Memory and speed depend on it, numbers do not.
        memory: what the process may take beside the rows: a number of bytes, or text such as "2GiB". Rows at once are
            fewer where they would need more. By default half of what there is, 8 GiB at most.
        store: a folder that rows are written to as they are measured, chunk by chunk; what is there from an interrupted
            call is not computed again.
        progress: show a progress bar, on a terminal.

    Returns:
        An `Evidence`. Both methods give a lower bound in expectation: low by about half the squared standard error
        (`log_evidence_bias`) while k-hat is below 0.7, and by more than that above. Other modes are looked for
        beforehand, from draws of the prior, unless latents are discrete, masked or, where the guide is not Gaussian,
        more than 200. Where 250 tries did not come to an end of new ones, k-hat is infinite. Neither method sees a mode
        that was not found, nor does its standard error. Rounding decides whether a move of a chain is accepted, and
        differs with the size of a chunk: by annealing, `chunk_size` changes numbers within their standard errors.

    Raises:
        UnknownNameError: an unknown method.
        DataError: rows that cannot be used; ShapeError if their numbers differ.
        ProgramError: a pair that cannot be compared row by row; the message says what to change.

    References:
        Importance weighted autoencoders (Burda et al., 2016), arXiv 1509.00519; On the quantitative analysis of
        decoder-based generative models (Wu et al., 2017), arXiv 1611.04273.
    """
    check_method(method)
    precision = Precision.of(particles, stderr, FEWEST_WEIGHTS, _MOST_WEIGHTS)
    settings = annealing or Annealing()

    def measure(chunk: Chunk) -> Columns:
        check_local(chunk)
        if method == "ais":
            return annealed_evidence(chunk, settings)
        return importance_evidence(chunk, precision)

    schedule = Schedule(tolerance=tolerance, max_steps=max_steps)
    asked = {"method": method, "annealing": str(settings) if method == "ais" else "none"}
    asked |= precision.settings() if method == "importance" else {}
    asked |= schedule.settings() | {"seed": seed, "bound": "lower"}
    walk: dict[str, Any] = {"chunk_size": chunk_size, "memory": memory, "store": store, "progress": progress}
    about: dict[str, Any] = {"kind": Evidence.kind, "asked": asked}
    return Evidence(over_chunks(measure, model, guide, as_parts(rows), schedule, **about, seed=seed, **walk))


def check_method(method: str) -> None:
    """Refuse an unknown estimator."""
    if method not in METHODS:
        raise UnknownNameError("estimator of the evidence", method, METHODS)


def check_local(chunk: Chunk) -> None:
    """Refuse a pair whose rows have no evidence of their own."""
    held = chunk.own.layout.held
    if held:
        raise ProgramError(
            f"The latents {list(held)} belong to all rows at once: p(v) is no product over rows, and no row has a log "
            "evidence of its own. Pass `evidence=None`; or condition both programs on one value of them."
        )
    check_density(chunk)


def check_density(chunk: Chunk) -> None:
    """Refuse a guide whose draws have no importance weights."""
    points = chunk.own.layout.points
    if points:
        raise ProgramError(
            f"The guide has point masses (`Delta`) at {list(points)}: it has no density there, so its draws have no "
            "importance weights, and no estimate of log p(v) or bound on a gap follows from them. Pass `evidence=None` "
            "(and no `screen`); or draw these latents from a distribution with a density."
        )


def importance_evidence(chunk: Chunk, precision: Precision) -> Columns:
    """The importance-weighted bound, from a mixture around each row's own guide, or from it if there can be none."""
    modes, precision = chunk.modes, replace(precision, pilot=_PILOT_WEIGHTS)
    weigh = mixture(chunk, chunk.optimum.gaussians, modes) or _around_guide(chunk, modes) or _own_guide(chunk)
    everyone = torch.arange(len(chunk.batch))
    groups: list[tuple[Tensor, Columns]] = []
    for some in modes.alike(everyone) if modes is not None else [everyone]:
        pilot = None if precision.is_exact else _weighed(weigh(precision.pilot, some, Stream.PILOT))
        for count, index in precision.groups(some, pilot):
            groups.append((index, _weighed(weigh(count, index, Stream.EVIDENCE))))
    found = merged(groups, len(chunk.batch))
    return found if modes is None else doubted(found, modes.incomplete())


def doubted(found: Columns, where: Bool[Tensor, " row"]) -> Columns:
    """The same with an infinite k-hat where modes may be missing, which the weights themselves would not show."""
    return found | {"pareto_k": np.where(where.cpu().numpy(), np.inf, found["pareto_k"])}


Drawn = tuple[PerDraw, tuple[PerRow, PerRow]]  # log weights; log of their mean, and its standard error
Weigh = Callable[[int, Tensor, Stream], Drawn]  # from a number of draws, positions of rows, and the noise's name


def mixture(chunk: Chunk, around: Gaussians | None, modes: Modes | None) -> Weigh | None:
    """Weights from a mixture around Gaussian guides of a chunk's rows and their modes; None for other guides."""
    encoded, own = chunk.encoded, chunk.own.gaussian
    if own is None or encoded is None or around is None or modes is None:
        return None

    def draw(particles: int, index: Tensor, stream: Stream) -> Drawn:
        batch, density = chunk.batch.take(index), own.density
        guides = around.take(index), encoded.gaussians.take(index)
        components = around_gaussians(density, *guides, modes.take(index), batch)
        weights = Proposal(components, lambda u: density.value(u, batch), chunk.own.seed)(particles, stream)
        return weights.log_weights, weights.estimate()

    return draw


def around_encoder(chunk: Chunk) -> Weigh | None:
    """Weights from a mixture around the encoder's guides of a chunk's rows; None where they are not Gaussian."""
    encoded = chunk.encoded
    if encoded is None:
        return None
    return mixture(chunk, encoded.gaussians, Modes.one(encoded.gaussians, encoded.curvature))


def _around_guide(chunk: Chunk, modes: Modes | None) -> Weigh | None:
    """Weights from a mixture around guides of any family whose latents are vectors; None where they are not."""
    offsets = chunk.optimum.offsets

    def space(index: Tensor, particles: int) -> LatentSpace:
        return chunk.guides(index, particles).space({key: offset[index] for key, offset in offsets.items()})

    try:
        used = space(torch.arange(len(chunk.batch)), 2).used
    except ProgramError:  # discrete latents, point masses
        return None
    if not bool(used.all()):
        return None

    def draw(particles: int, index: Tensor, stream: Stream) -> Drawn:
        batch, spaces = chunk.batch.take(index), cache(partial(space, index))
        known = [] if modes is None else modes.take(index)
        components = around_guide(spaces, known, batch, (chunk.own.seed, Stream.PILOT, 2))
        weights = Proposal(components, lambda u: spaces(len(u)).log_joint(u), chunk.own.seed)(particles, stream)
        return weights.log_weights, weights.estimate()

    return draw


def _own_guide(chunk: Chunk) -> Weigh:
    scores = chunk.scores("local")

    def draw(particles: int, index: Tensor, stream: Stream) -> Drawn:
        log_weights = scores(particles, index=index, stream=stream).log_weights
        return log_weights, log_mean_exp(log_weights)

    return draw


def annealed_evidence(chunk: Chunk, settings: Annealing) -> Columns:
    """Annealed importance sampling from each row's own guide, or from the prior."""
    found = per_path(chunk, settings, lambda annealer, path, _: forward_columns(annealer, path))
    if settings.start != "guide" or chunk.modes is None:
        return found
    return doubted(found, chunk.modes.incomplete(most_starts(settings.particles)))


def forward_columns(annealer: Annealer, path: AnnealingPath) -> Columns:
    """What the forward run of some rows says."""
    weights, acceptance = annealer.forward(path)
    count = torch.full_like(acceptance, len(path.temperatures) - 1, dtype=torch.int64)
    # As of independent chains: the ten or so that begin at one of several modes tell their own spread too badly.
    found = _weighed((weights, log_mean_exp(weights, mirrored=False)))
    return found | {"acceptance": acceptance, "temperatures": count}


def _weighed(drawn: Drawn) -> Columns:
    log_weights, (value, stderr) = drawn
    stderr = with_rounding(stderr, log_weights)
    relative = (log_weights - value).exp()
    columns: Columns = {}
    add(columns, "log_evidence", value, stderr)
    return columns | {
        "log_evidence_bias": -0.5 * stderr.square(),
        "jensen_slack": value - log_weights.mean(0),
        "effective_sample_size": relative.sum(0).square() / relative.square().sum(0),
        "pareto_k": torch.from_numpy(pareto_k(log_weights)).to(value),
        "draws": torch.full_like(value, len(log_weights), dtype=torch.int64),
    }
