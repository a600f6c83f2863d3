"""`posterior_means`: E[h | v_i] of every row, corrected by Pareto-smoothed weights of its own guide or its modes."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from pplvae.data import as_parts
from pplvae.evidence.gaussian_space import most_starts
from pplvae.evidence.log_evidence import check_local, doubted
from pplvae.evidence.paths import space_of
from pplvae.programs.noise import Stream
from pplvae.programs.pieces import rows_with_draws
from pplvae.programs.reading import Program
from pplvae.programs.widening import widened
from pplvae.results.arviz import smoothed_weights
from pplvae.results.base import Result
from pplvae.scoring.chunks import Chunk, over_chunks
from pplvae.scoring.tables import Columns, merged
from pplvae.search.optimum import Schedule
from pplvae.statistics.evidence import posterior_lines, posterior_summary, posterior_warnings

_DRAWS = "draws of "  # a column's name begins with
_OF_A_SITE = ("_stderr", "_guide", " moved")  # names of what else there is of a site end with
_OTHERS = ("pareto_k", "row", "part", "label", "key", "chain", "draw")  # columns and dimensions that are no site


@dataclass(frozen=True, eq=False, repr=False)
class PosteriorMeans(Result):
    """Posterior means of the latents.

    Attributes:
        rows: over dimension "row" (coordinates: id, part, and label where there is one): for each latent site `<site>`
            (its elements along the dimension "element of <site>") the corrected mean, `<site>_stderr` its Monte Carlo
            error, `<site>_guide` the mean under the guide alone; and `pareto_k`: above 0.7 the correction cannot be
            trusted. A site of yours whose name is one of these, such as `h_guide` beside `h`, is called "site h_guide".
        posterior: where draws were asked for, each site over "chain" (one), "draw", "row" and its elements: draws from
            p(h | v_i), resampled by the same weights. The group of that name in `to_arviz()`.
    """

    kind: ClassVar[str] = "posterior means"
    essential: ClassVar[str] = "pareto_k"
    figures: ClassVar[tuple[str, ...]] = ("corrected_means",)

    posterior: xr.Dataset = field(default_factory=xr.Dataset)

    def summary(self) -> xr.Dataset:
        """Means over rows, latent by latent.

        Returns:
            Over dimensions "part" and "latent" (an element of a site): `mean` of the corrected means, `stderr` over
            rows, `mc_stderr`, the part of it that more draws would remove, `count` and `left_out`; `moved`, the root
            mean square over rows of corrected mean - mean under the guide. Per part `unreliable`, the share of rows
            whose k-hat is above 0.7.
        """
        return posterior_summary(self.rows)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return posterior_warnings(self.summary())

    def _lines(self) -> list[str]:
        return posterior_lines(self.summary())


def posterior_means(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    draws: int = 0,
    particles: int = 1000,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    seed: int = 0,
    chunk_size: int = 1000,
    memory: int | str | None = None,
    store: str | Path | None = None,
    progress: bool = False,
) -> PosteriorMeans:
    """Posterior means of the latents, by importance weighting the row's own guide with a Pareto-smoothed tail.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. It needs a data plate: the README says what a
            pair needs.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Several sets, which are all of a mapping or the train and test rows of a whole `Data`, are measured side by
            side.
        draws: of each row's posterior to keep, resampled from the particles by their weights: the same particle may
            stand there several times, one after the other. Where k-hat is above 0.7 they are no better than the means.
        particles: Monte Carlo draws per row. At least 25, for a tail to be fitted.
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
        A `PosteriorMeans`.

    Raises:
        DataError: rows that cannot be used; ShapeError if their numbers differ.
        ProgramError: a pair that cannot be compared row by row, or latents that are discrete or belong to all rows.

    References:
        Pareto smoothed importance sampling (Vehtari et al., 2024), arXiv 1507.02646.
    """
    if particles < 25:
        raise ValueError(f"`particles` must be at least 25 for a tail to be fitted, got {particles}.")
    if draws < 0:
        raise ValueError(f"`draws` is a number of draws to keep, 0 or more; got {draws}.")

    def measure(chunk: Chunk) -> Columns:
        check_local(chunk)
        return _means(chunk, particles, draws)

    schedule = Schedule(tolerance=tolerance, max_steps=max_steps)
    asked = schedule.settings() | {"draws": draws, "particles": particles, "seed": seed}
    walk: dict[str, Any] = {"chunk_size": chunk_size, "memory": memory, "store": store, "progress": progress}
    about: dict[str, Any] = {"kind": PosteriorMeans.kind, "asked": asked}
    return _parted(over_chunks(measure, model, guide, as_parts(rows), schedule, **about, seed=seed, **walk))


def _means(chunk: Chunk, particles: int, draws: int) -> Columns:
    everyone, at_once = torch.arange(len(chunk.batch)), rows_with_draws(chunk.batch.tensors, particles)
    groups = chunk.modes.alike(everyone) if chunk.modes is not None else [everyone]
    pieces = [index for some in groups for index in some.split(at_once)]
    found = merged([(index, _means_of(chunk, index, particles, draws)) for index in pieces], len(everyone))
    return found if chunk.modes is None else doubted(found, chunk.modes.incomplete(most_starts(particles)))


def _means_of(chunk: Chunk, index: Tensor, particles: int, draws: int) -> Columns:
    """Of some rows of a chunk, all with one mode or all with several."""
    offsets = {key: offset[index] for key, offset in chunk.optimum.offsets.items()}
    space: Any = chunk.guides(index, particles).space(offsets)
    with torch.no_grad():
        u, log_q = space.draw((chunk.own.seed, Stream.EVIDENCE))
        of_guide = {site: value.mean(0) for site, value in space.values(u).items()}
        if chunk.modes is not None and chunk.modes.has_several(index):  # which a guide of one mode cannot weigh
            space = space_of(chunk, index, "guide", particles)
            u, log_q = space.draw((chunk.own.seed, Stream.EVIDENCE))
        log_weights, pareto_k = smoothed_weights(widened(space.log_joint(u) - log_q))
        values = space.values(u)
    weights = log_weights.softmax(0)
    columns: Columns = {"pareto_k": pareto_k}
    called = _told_apart(list(values))
    for site, value in values.items():
        name = called[site]
        mean, stderr = _weighted(weights, value)
        columns |= {name: mean, f"{name}_stderr": stderr, f"{name}_guide": of_guide[site]}
        if draws:
            columns[f"{_DRAWS}{name}"] = _resampled(weights, value, draws).movedim(1, 0)
    return columns


def _told_apart(sites: Sequence[str]) -> dict[str, str]:
    """What each site's columns are called, so that none has a name of something else."""
    of_others = {*_OTHERS, *(f"{site}{what}" for site in sites for what in _OF_A_SITE)}
    found = {site: site for site in sites if site not in of_others and not site.startswith(_DRAWS)}
    for site in sites:
        name = site
        while site not in found:
            name = f"site {name}"
            if not {name, *(f"{name}{what}" for what in _OF_A_SITE)} & {*sites, *of_others}:
                found[site] = name
    return found


def _weighted(weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Self-normalised mean over draws, and its error by the delta method."""
    share = weights.unsqueeze(-1).to(values)
    mean = (share * values).sum(0)
    return mean, (share * (values - mean)).square().sum(0).sqrt()


def _resampled(weights: Tensor, values: Tensor, draws: int) -> Tensor:
    """So many of the values, each about as often as its weight says (systematic resampling)."""
    places = (torch.arange(draws, device=weights.device) + 0.5) / draws
    ends = weights.cumsum(0).T.contiguous()
    chosen = torch.searchsorted(ends, places.to(ends).expand(len(ends), -1).contiguous())
    chosen = chosen.clamp_max(len(values) - 1).T.unsqueeze(-1)  # rounding may leave the last end below 1
    return values.gather(0, chosen.expand(-1, -1, values.shape[-1]))


def _parted(found: xr.Dataset) -> PosteriorMeans:
    """The means of a site over the same elements, so that one can be subtracted from another; and the draws."""
    names = [str(name) for name in found.data_vars]
    sites = [name for name in names if f"{name}_stderr" in found and f"{name}_guide" in found]
    site_of = {f"{site}{what}": site for site in sites for what in ("", "_stderr", "_guide")}
    rows = {
        name: (("row", f"element of {site_of[name]}"), found[name].values) if name in site_of else found[name]
        for name in names
        if not name.startswith(_DRAWS)
    }
    drawn = {site: found[f"{_DRAWS}{site}"] for site in sites if f"{_DRAWS}{site}" in found}
    posterior = {
        site: (("chain", "draw", "row", f"element of {site}"), draws.values.swapaxes(0, 1)[None])
        for site, draws in drawn.items()
    }
    means = xr.Dataset(rows, coords=found.coords, attrs=found.attrs)
    if not posterior:
        return PosteriorMeans(means)
    return PosteriorMeans(means, xr.Dataset(posterior, coords={**found.coords, "chain": [0]}))
