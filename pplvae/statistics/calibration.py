"""What ranks of true latents among draws say, latent by latent, and the text."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from pplvae.statistics.uniformity import UniformRanks

LEVELS = (0.5, 0.8, 0.9, 0.95)
_LINES = 20  # latents printed


class Compared(NamedTuple):
    """True latents against draws; every array over (simulation, latent)."""

    names: list[str]
    below: np.ndarray
    ties: np.ndarray
    used: np.ndarray
    lost: np.ndarray
    truth: np.ndarray
    mean: np.ndarray
    variance: np.ndarray


def latents_of(ranks: xr.Dataset, compared: Compared) -> xr.Dataset:
    """What `Calibration.latents` holds.

    Args:
        ranks: `Calibration.rows`.
        compared: what they are made of.
    """
    particles, seed, latents = ranks.attrs["particles"], ranks.attrs["seed"], ranks.sizes["latent"]
    alpha = (1 - ranks.attrs["level"]) / latents  # Bonferroni
    points = np.arange(1, particles + 1) / (particles + 1)
    margin = np.round((particles + 1) * (1 - np.array(LEVELS)) / 2)  # ranks left out on each side
    nominal = 1 - 2 * margin / (particles + 1)
    found: dict[str, list[Any]] = {}
    for i in range(latents):
        used = compared.used[:, i]
        rank, z_score = ranks["rank"].values[used, i], ranks["z_score"].values[used, i]
        count = len(rank)
        uniform = UniformRanks.of(count, particles, alpha, seed)
        below = np.searchsorted(np.sort(rank), np.arange(particles), side="right")
        difference = below / max(count, 1) - points
        lower, upper = uniform.band
        inside = (rank[:, None] >= margin) & (rank[:, None] <= particles - margin)
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
    return xr.Dataset(columns | {"nominal": ("level", nominal)}, coords=coordinates, attrs=dict(ranks.attrs))


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


def calibration_lines(summary: xr.Dataset) -> list[str]:
    """The summary as text without warnings, a line each."""
    outside = summary["verdict"].values != "inside"
    levels = [f"{100 * level:.0f} %" for level in summary["level"].values]
    width = max(len("latent"), *(len(str(name)) for name in summary["latent"].values))
    lines = [
        f"Ranks of {summary.attrs['simulated']} simulated rows among {summary.attrs['particles']} draws: "
        f"{outside.sum()} of {len(outside)} outside the {100 * summary.attrs['level']:.0f} % band "
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
    return lines
