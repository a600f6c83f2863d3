"""Simulation-based calibration: is the guide's uncertainty honest on rows whose latents are known?"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pplvae.data import as_rows
from pplvae.errors import in_users_words
from pplvae.isolate import validation
from pplvae.programs.batch import Batch
from pplvae.programs.elements import element_names, refuse_global_latents, rows_first
from pplvae.programs.noise import Stream
from pplvae.programs.opening import opened
from pplvae.programs.reading import Layout, Program, counted, log_model, run_guide, run_model, values_of
from pplvae.programs.simulation import simulate, told_apart
from pplvae.statistics.uniformity import UniformRanks

LEVELS = (0.5, 0.8, 0.9, 0.95)
LOG_JOINT = "log_joint"
_LINES = 20  # latents printed


@dataclass(frozen=True)
class Calibration:
    """Ranks of true latents among a guide's draws, and what they say.

    Attributes:
        ranks: over dimensions "simulation" and "latent": `rank`, how many of the guide's draws lie below the latent
            that the row was made from (0 to `draws`; NaN where the latent is masked in that row, or something is NaN);
            `z_score`, (mean of the draws - true latent) / standard deviation of the draws. Coordinate `row`: the id of
            the template.
        summary: per latent `count`, how many ranks there are, and `lost`, how many more there would be without NaN;
            over dimension "point" `ecdf_difference`, the ranks' ECDF minus that of uniform ranks, with `band_lower` and
            `band_upper`: the bands hold all points of all latents at once with probability `confidence` if every rank
            is uniform; `p_value` of each latent's largest departure, not adjusted for the number of latents; `verdict`:
            "inside" its band, or in what way outside ("too narrow", "too wide", "too low", "too high": of the guide;
            else "wrong shape"); over dimension "level" `coverage` of central intervals, the `nominal` it should have,
            and `coverage_stderr`, binomial, if the nominal is true; `z_mean` and `z_rms` of the z-scores;
            `contraction`, 1 - mean posterior variance / prior variance.
    """

    ranks: xr.Dataset
    summary: xr.Dataset

    @property
    def outside(self) -> list[str]:
        """The latents whose ranks are not uniform."""
        verdict = self.summary["verdict"]
        return verdict["latent"].values[verdict.values != "inside"].tolist()

    def __str__(self) -> str:
        return "\n".join(_lines(self.summary))

    def __repr__(self) -> str:
        return str(self)


def calibrate(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    simulations: int | None = None,
    draws: int = 199,
    confidence: float = 0.95,
    seed: int = 0,
    chunk_size: int = 80,
) -> Calibration:
    """Check a guide against its own model: simulate latents h and rows v, and rank h among draws from q(h | v).

    If q(h | v) is the posterior of the model, every rank is uniform. The converse does not hold: a factorised guide
    can have uniform ranks in each dimension and still be wrong about how latents go together, and a guide that ignores
    v and draws from the prior passes for every h. Therefore log p(h, v) is ranked as well, as an extra latent
    "log_joint", which shows both. The check speaks of rows that the model makes, not of the data.

    Args:
        model: p(v, h; theta), called as `model(*rows)`; it must be possible to simulate from it (`draw_rows`).
        guide: q(h; lambda_phi(v)), called as `guide(*rows)`.
        rows: templates: covariates and masks are kept, what the model observes is replaced. A tensor or array, a tuple
            of them, or rows from `load_data`.
        simulations: how many rows to simulate, as many as there are rows by default; another number takes rows at even
            distances, or several times.
        draws: from the guide per simulated row. With 199, central intervals of 50, 80, 90 and 95 % have exactly that
            nominal coverage.
        confidence: with which the bands hold all ranks of a calibrated guide, over points and latents together.
        seed: names all noise.
        chunk_size: rows simulated at once. Changes memory and speed, and the result only where the program draws
            numbers whose noise cannot be keyed by row (Poisson counts, say).

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
    _check_arguments(simulations, draws, confidence, chunk_size)
    some = as_rows(rows)
    index = np.arange(simulations or len(some)) * len(some) // (simulations or len(some))
    with opened(model, guide, some.tensors, seed) as layout, torch.no_grad():
        refuse_global_latents(layout, "Calibration")
        whole = told_apart(Batch.of(some.tensors).take(torch.from_numpy(index)))
        with validation(False):  # the pair has been checked on every row
            chunks = [
                _compared(model, guide, layout, whole.take(slice(start, start + chunk_size)), draws, seed)
                for start in range(0, len(whole), chunk_size)
            ]
    found = _joined(chunks)
    ranks = _ranks_from(found, seed).assign_coords(row=("simulation", some.ids[index]))
    settings = {"draws": draws, "confidence": confidence, "seed": seed}
    ranks = ranks.assign_attrs(settings)
    return Calibration(ranks, _summary(ranks, found))


class _Compared(NamedTuple):
    """True latents against draws; every array over (simulation, latent)."""

    names: list[str]
    below: np.ndarray
    ties: np.ndarray
    used: np.ndarray
    lost: np.ndarray
    truth: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def _compared(model: Program, guide: Program, layout: Layout, batch: Batch, draws: int, seed: int) -> _Compared:
    """Simulate some rows, draw from the guide, and compare latent by latent."""
    made = simulate(model, layout, batch, (seed, Stream.SIMULATE))
    tiled = made.batch.times(draws)
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
    true, among = torch.cat(truth, 1).double(), torch.cat(drawn, 1).double().unflatten(0, (draws, -1))
    below, ties, missing = (among < true).sum(0), (among == true).sum(0), true.isnan() | among.isnan().any(0)
    counts = torch.cat(used, 1)
    arrays: list[Tensor] = [below, ties, counts & ~missing, counts & missing, true, among.mean(0), among.var(0)]
    return _Compared([LOG_JOINT, *names], *(array.cpu().numpy() for array in arrays))


def _joined(chunks: list[_Compared]) -> _Compared:
    """All simulations; without latents that are masked in every row."""
    whole = {key: np.concatenate([getattr(chunk, key) for chunk in chunks]) for key in _Compared._fields[1:]}
    counted_somewhere = np.flatnonzero((whole["used"] | whole["lost"]).any(0))
    names = [chunks[0].names[i] for i in counted_somewhere]
    return _Compared(names, **{key: array[:, counted_somewhere] for key, array in whole.items()})


def _ranks_from(found: _Compared, seed: int) -> xr.Dataset:
    # Equal numbers (discrete latents, rounding) are put in an order at random: the rank is uniform then as well.
    place = np.random.default_rng(seed).uniform(size=found.below.shape)
    rank = np.where(found.used, found.below + np.floor(place * (found.ties + 1)), np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):  # a guide without spread, infinite densities
        z_score = np.where(found.used, (found.mean - found.truth) / np.sqrt(found.variance), np.nan)
    dims = ("simulation", "latent")
    return xr.Dataset({"rank": (dims, rank), "z_score": (dims, z_score)}, coords={"latent": found.names})


def _summary(ranks: xr.Dataset, compared: _Compared) -> xr.Dataset:
    draws, seed, latents = ranks.attrs["draws"], ranks.attrs["seed"], ranks.sizes["latent"]
    alpha = (1 - ranks.attrs["confidence"]) / latents  # Bonferroni
    points = np.arange(1, draws + 1) / (draws + 1)
    margin = np.round((draws + 1) * (1 - np.array(LEVELS)) / 2)  # ranks left out on each side
    nominal = 1 - 2 * margin / (draws + 1)
    found: dict[str, list[Any]] = {}
    for i in range(latents):
        used = compared.used[:, i]
        rank, z_score = ranks["rank"].values[used, i], ranks["z_score"].values[used, i]
        count = len(rank)
        uniform = UniformRanks.of(count, draws, alpha, seed)
        below = np.searchsorted(np.sort(rank), np.arange(draws), side="right")
        difference = below / max(count, 1) - points
        lower, upper = uniform.band
        inside = (rank[:, None] >= margin) & (rank[:, None] <= draws - margin)
        prior = compared.truth[used, i].var(ddof=1) if count > 1 else np.nan
        p_value = uniform.p_value(below)
        line = {
            "count": count,
            "lost": int(compared.lost[:, i].sum()),
            "ecdf_difference": difference,
            "band_lower": lower / max(count, 1) - points,
            "band_upper": upper / max(count, 1) - points,
            "p_value": p_value,
            "verdict": "inside" if p_value > alpha else _shape_of(difference),
            "coverage": inside.mean(0) if count else np.full(len(LEVELS), np.nan),
            "coverage_stderr": np.sqrt(nominal * (1 - nominal) / max(count, 1)),
            "z_mean": z_score.mean() if count else np.nan,
            "z_rms": np.sqrt((z_score**2).mean()) if count else np.nan,
            "contraction": 1 - compared.variance[used, i].mean() / prior if count > 1 else np.nan,
        }
        for key, value in line.items():
            found.setdefault(key, []).append(value)
    over = {"ecdf_difference": "point", "band_lower": "point", "band_upper": "point"}
    over |= {"coverage": "level", "coverage_stderr": "level"}
    columns = {key: (("latent", over[key]) if key in over else ("latent",), np.array(v)) for key, v in found.items()}
    coordinates = {"latent": ranks["latent"].values, "point": points, "level": list(LEVELS)}
    attributes = {**ranks.attrs, "simulations": ranks.sizes["simulation"]}
    return xr.Dataset(columns | {"nominal": ("level", nominal)}, coords=coordinates, attrs=attributes)


def _shape_of(difference: np.ndarray) -> str:
    """In what way ranks are not uniform, from their ECDF minus the uniform one."""
    half = len(difference) // 2
    one_sided = difference.sum()
    crossing = difference[:half].sum() - difference[-half:].sum()
    if max(abs(one_sided), abs(crossing)) < 0.5 * np.abs(difference).sum():
        return "wrong shape"
    if abs(one_sided) > 1.5 * abs(crossing):  # which is half as large by chance, and not 0 after a large shift
        return "too high" if one_sided > 0 else "too low"
    return "too narrow" if crossing > 0 else "too wide"


def _check_arguments(simulations: int | None, draws: int, confidence: float, chunk_size: int) -> None:
    for name, value, least in (("simulations", simulations, 1), ("draws", draws, 9), ("chunk_size", chunk_size, 1)):
        if value is not None and value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    if not 0 < confidence < 1:
        raise ValueError(f"`confidence` must lie between 0 and 1, got {confidence}.")


def _lines(summary: xr.Dataset) -> list[str]:
    outside = summary["verdict"].values != "inside"
    levels = [f"{100 * level:.0f} %" for level in summary["level"].values]
    width = max(len("latent"), *(len(str(name)) for name in summary["latent"].values))
    lines = [
        f"Ranks of {summary.attrs['simulations']} simulated rows among {summary.attrs['draws']} draws: "
        f"{outside.sum()} of {len(outside)} outside the {100 * summary.attrs['confidence']:.0f} % band "
        "(simultaneous over latents).",
        "",
        f"{'latent':<{width}}  {'verdict':<11}  p-value  coverage of " + " ".join(f"{x:>5}" for x in levels),
    ]
    for i in np.argsort(summary["p_value"].values, kind="stable")[:_LINES]:
        line = summary.isel(latent=i)
        coverage = " ".join(f"{100 * float(c):>5.1f}" for c in line["coverage"])
        lines.append(
            f"{line['latent'].item():<{width}}  {line['verdict'].item():<11}  {float(line['p_value']):<7.4f}"
            f"              {coverage}"
        )
    if len(outside) > _LINES:
        lines.append(f"... and {len(outside) - _LINES} more.")
    lost = int(summary["lost"].max())
    if lost:
        lines.append(f"{lost} of the simulated rows have no rank, because a draw or a density is NaN.")
    return lines
