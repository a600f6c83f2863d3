"""Simulation-based calibration: is the guide's uncertainty honest on rows whose latents are known?"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pplvae.isolate import validation
from pplvae.programs.batch import Batch
from pplvae.programs.elements import element_names, refuse_global_latents, rows_first
from pplvae.programs.failures import in_users_words
from pplvae.programs.noise import Stream
from pplvae.programs.opening import one_set, opened
from pplvae.programs.pieces import check_chunk_size, walk
from pplvae.programs.reading import Layout, Program, log_model, run_guide, run_model
from pplvae.programs.simulation import simulate, told_apart
from pplvae.programs.sites import counted, values_of
from pplvae.programs.widening import widened
from pplvae.results.base import Result
from pplvae.scoring.kept import keeping, some_of
from pplvae.statistics.calibration import Compared, calibration_lines, latents_of

LOG_JOINT = "log_joint"


@dataclass(frozen=True, eq=False, repr=False)
class Calibration(Result):
    """Ranks of true latents among a guide's draws, and what they say.

    Attributes:
        rows: over dimensions "row", an entry per simulated row (coordinates: id, part, and label where there is one, of
            its template, which may stand there several times), and "latent": `rank`, how many of the guide's draws lie
            below the latent that the row was made from (0 to `particles`; NaN where the latent is masked in that row,
            or something is NaN); `z_score`, (mean of the draws - true latent) / standard deviation of the draws.
        latents: per latent `count`, how many ranks there are, and `lost`, how many more there would be without NaN;
            over dimension "point" `ecdf_difference`, the ranks' ECDF minus that of uniform ranks, with `band_lower` and
            `band_upper`: the bands hold all points of all latents at once with probability `level` if every rank is
            uniform; `p_value` of each latent's largest departure, not adjusted for the number of latents; `verdict`:
            "inside" its band, or in what way outside ("too narrow", "too wide", "too low", "too high": of the guide;
            else "wrong shape"); over dimension "level" `coverage` of central intervals, the `nominal` it should have,
            and `coverage_stderr`, binomial, if the nominal is true; `z_mean` and `z_rms` of the z-scores;
            `contraction`, 1 - mean posterior variance / prior variance.
    """

    kind: ClassVar[str] = "calibration"
    essential: ClassVar[str] = "rank"
    figures: ClassVar[tuple[str, ...]] = ("calibration_ecdf",)

    latents: xr.Dataset

    @property
    def outside(self) -> list[str]:
        """The latents whose ranks are not uniform."""
        verdict = self.latents["verdict"]
        return verdict["latent"].values[verdict.values != "inside"].tolist()

    def summary(self) -> xr.Dataset:
        """Verdicts, latent by latent: `latents` without what is over dimension "point"."""
        return self.latents.drop_dims("point")

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        lost = int(self.latents["lost"].max())
        return [f"{lost} of the simulated rows have no rank, because a draw or a density is NaN."] if lost else []

    def _lines(self) -> list[str]:
        return calibration_lines(self.summary())


def calibrate(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    simulated: int | None = None,
    level: float = 0.95,
    particles: int = 199,
    seed: int = 0,
    chunk_size: int = 1000,
    store: str | Path | None = None,
    progress: bool = False,
) -> Calibration:
    """Check a guide against its own model: simulate latents h and rows v, and rank h among draws from q(h | v).

    If q(h | v) is the posterior of the model, every rank is uniform. The converse does not hold: a factorised guide
    can have uniform ranks in each dimension and still be wrong about how latents go together, and a guide that ignores
    v and draws from the prior passes for every h. Therefore log p(h, v) is ranked as well, as an extra latent
    "log_joint", which shows both. The check speaks of rows that the model makes, not of the data.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. It must be possible to simulate from it.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one. They serve as templates: covariates and masks are kept, what the model observes
            is replaced.
        simulated: rows to simulate from the model. As many as there are rows by default; another number takes rows at
            even distances, or several times.
        level: probability of an interval. Here it is that of bands which hold all ranks of a calibrated guide, over
            points and latents together.
        particles: Monte Carlo draws per row. With 199, central intervals of 50, 80, 90 and 95 % have exactly that
            nominal coverage.
        seed: names all noise: the same seed gives the same bits.
        chunk_size: rows at once, at most. Memory and speed depend on it, numbers only where the program draws some
            whose noise cannot be keyed by row (Poisson counts, say).
        store: a folder that rows are written to as they are measured, chunk by chunk; what is there from an interrupted
            call is not computed again.
        progress: show a progress bar, on a terminal.

    Returns:
        A `Calibration`.

    Raises:
        DataError: rows that cannot be used.
        ProgramError: a pair that cannot be compared row by row, a model that cannot be simulated from, global latents.

    References:
        Validating Bayesian inference algorithms with simulation-based calibration (Talts et al., 2018), arXiv
        1804.06788; Graphical test for discrete uniformity (Säilynoja, Bürkner and Vehtari, 2022), arXiv 2103.10522, for
        the bands; Simulation-based calibration checking for Bayesian computation (Modrák et al., 2023), arXiv
        2211.02383, for the rank of the joint density.
    """
    _check_arguments(simulated, particles, level)
    check_chunk_size(chunk_size)
    some = one_set(rows)
    index = np.arange(simulated or len(some)) * len(some) // (simulated or len(some))
    settings = {"simulated": len(index), "particles": particles, "level": level, "seed": seed}
    request = {"kind": Calibration.kind, **settings, "chunk_size": chunk_size}
    shown = {"doing": "simulating", "progress": progress}
    chunks: list[Compared] = []
    with (
        keeping(store, request, {some.name: some}) as kept,
        opened(model, guide, some.tensors, seed) as layout,
        torch.no_grad(),
    ):
        refuse_global_latents(layout, "Calibration")
        whole = told_apart(Batch.of(some.tensors).take(torch.from_numpy(index)))
        compared = partial(_compared, model, guide, layout, seed=seed)
        with validation(False):  # the pair has been checked on every row
            told = compared(whole.take(some_of(len(whole))), particles=2)
            kept.check_pair(0, lambda: told.mean)
            for piece in walk(some.tensors, particles, rows=len(whole), chunk_size=chunk_size, **shown):
                columns = partial(_columns, compared, whole.take(piece), particles)
                chunks.append(Compared(told.names, **kept.columns(0, piece.start, columns)))
    found = _joined(chunks)
    ranks = _ranks_from(found, seed).assign_coords(some[index].coordinates()).assign_attrs(settings)
    return Calibration(ranks, latents_of(ranks, found))


def _columns(compared: Callable[..., Compared], batch: Batch, particles: int) -> dict[str, np.ndarray]:
    """What `Compared` holds of some rows, by name."""
    found = compared(batch, particles=particles)._asdict()
    del found["names"]
    return found


def _compared(model: Program, guide: Program, layout: Layout, batch: Batch, particles: int, seed: int) -> Compared:
    """Simulate some rows, draw from the guide, and compare latent by latent."""
    made = simulate(model, layout, batch, (seed, Stream.SIMULATE))
    tiled = made.batch.times(particles)
    with in_users_words("pair of model and guide", made.tensors):
        model_sites = run_model(model, made.batch, made.values)
        guide_sites = run_guide(guide, tiled, layout.guide, (seed, Stream.SCORE))
        latents = {name: axis for name, axis in layout.axes.items() if name in made.values}
        true_joint, _ = log_model(model, made.batch, {name: made.values[name] for name in latents}, layout)
        log_joint, _ = log_model(model, tiled, values_of(guide_sites), layout)
    names, truth, drawn, used = [], [true_joint.unsqueeze(1)], [log_joint.unsqueeze(1)], []
    for name, axis in latents.items():
        names += element_names(name, made.values[name], axis)
        truth.append(rows_first(made.values[name], axis))
        drawn.append(rows_first(guide_sites[name]["value"], axis))
        masks = [rows_first(counted(sites[name]), axis)[: len(batch)] for sites in (model_sites, guide_sites)]
        used.append(masks[0] & masks[1])
    used.insert(0, torch.ones_like(used[0][:, :1]))
    true, among = widened(torch.cat(truth, 1)), widened(torch.cat(drawn, 1)).unflatten(0, (particles, -1))
    below, ties, missing = (among < true).sum(0), (among == true).sum(0), true.isnan() | among.isnan().any(0)
    counts = torch.cat(used, 1)
    arrays: list[Tensor] = [below, ties, counts & ~missing, counts & missing, true, among.mean(0), among.var(0)]
    return Compared([LOG_JOINT, *names], *(array.cpu().numpy() for array in arrays))


def _joined(chunks: list[Compared]) -> Compared:
    """All simulations; without latents that are masked in every row."""
    whole = {key: np.concatenate([getattr(chunk, key) for chunk in chunks]) for key in Compared._fields[1:]}
    counted_somewhere = np.flatnonzero((whole["used"] | whole["lost"]).any(0))
    names = [chunks[0].names[i] for i in counted_somewhere]
    return Compared(names, **{key: array[:, counted_somewhere] for key, array in whole.items()})


def _ranks_from(found: Compared, seed: int) -> xr.Dataset:
    # Equal numbers (discrete latents, rounding) are put in an order at random: the rank is uniform then as well.
    place = np.random.default_rng(seed).uniform(size=found.below.shape)
    rank = np.where(found.used, found.below + np.floor(place * (found.ties + 1)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # a guide without spread, infinite densities
        z_score = np.where(found.used, (found.mean - found.truth) / np.sqrt(found.variance), np.nan)
    dims = ("row", "latent")
    return xr.Dataset({"rank": (dims, rank), "z_score": (dims, z_score)}, coords={"latent": found.names})


def _check_arguments(simulated: int | None, particles: int, level: float) -> None:
    for name, value, least in (("simulated", simulated, 1), ("particles", particles, 9)):
        if value is not None and value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    if not 0 < level < 1:
        raise ValueError(f"`level` is a probability between 0 and 1, such as 0.95; got {level}.")
