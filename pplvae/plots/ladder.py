"""The ladder from the encoder's guide to log p(v), the same as a stack of gaps, and gaps by cause."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib import rcParams
from matplotlib.axes import Axes

from pplvae.plots.style import (
    as_it_is,
    axes_for,
    legend_above,
    lines_high,
    look,
    looks_of_parts,
    reference,
    taken,
)

_NOT_COUNTED = ("nonfinite", "skipped")
_FAMILY = "elbo_local_"
_STACK = ("amortisation_gap", "approximation_gap")
_LOWEST_LINES = 4.0  # lines of text around a list: axis, legend


def ladder(comparison: Any, parts: str | Sequence[str] | None = None, *, ax: Axes | None = None) -> Axes:
    """The rungs from the encoder's guide to log p(v) as far as they were measured, all parts on one scale.

    The place of a rung is its mean over rows above the encoder's guide, with 2 standard errors of that difference,
    paired by row.

    Args:
        comparison: from `compare` or `amortisation_gap`, or its `rows`.
        parts: names of those that are drawn; by default all.
        ax: where to draw; by default a figure of its own.
    """
    rows = taken(comparison, "rows", "amortisation_gap", "elbo_amortised", "status")
    looks = _chosen(rows, parts)
    gains = {name: rungs_of(rows, name) for name in looks}
    rungs = list(dict.fromkeys(rung for found in gains.values() for rung in found))
    height = 0.35 * (len(looks) - 1) + 1
    axes = axes_for(ax, lines_high(_LOWEST_LINES + (len(looks) > 1) + height * len(rungs)))
    axes.axvline(0, **reference())
    for k, (name, shown) in enumerate(looks.items()):
        shift = 0.7 * ((k + 0.5) / len(looks) - 0.5) if len(looks) > 1 else 0.0
        means, errors = np.array([gains[name].get(rung, (np.nan, np.nan)) for rung in rungs]).T
        places = np.arange(len(rungs)) + shift
        axes.plot(means, places, color=shown.colour, linestyle=shown.line, linewidth=rcParams["axes.linewidth"])
        axes.errorbar(
            means, places, xerr=2 * errors, fmt=shown.marker, color=shown.colour, label=as_it_is(name), zorder=3
        )
    axes.set_yticks(np.arange(len(rungs)), [as_it_is(rung) for rung in rungs])
    axes.set_ylim(-0.6, len(rungs) - 0.4)
    axes.set_xlabel("nats per row above the encoder's guide\n(± 2 standard errors)")
    legend_above(axes, len(looks))
    return axes


def decomposition(comparison: Any, *, ax: Axes | None = None) -> Axes:
    """The mean gaps of each part as a stack: its end is the inference gap.

    Each error bar, 2 standard errors, belongs to the end at which it stands: that of the amortisation gap to its own,
    that at the end of the stack to the inference gap, whose rows are paired too.

    Args:
        comparison: from `compare` or `amortisation_gap`, or its `summary()`.
        ax: where to draw; by default a figure of its own.
    """
    summary = taken(comparison, "summary", "mean", "stderr", "term", "part")
    summary = summary if "part" in summary.dims else summary.expand_dims("part")
    terms = [term for term in _STACK if term in summary["term"].values]
    parts = summary["part"].values
    axes = axes_for(ax, lines_high(_LOWEST_LINES + 1 + 1.3 * len(parts)))
    places, end = np.arange(len(parts)), np.zeros(len(parts))
    for k, (term, ending) in enumerate(zip(terms, ("amortisation_gap", "inference_gap"), strict=False)):
        shown, mean = look(k), summary["mean"].sel(term=term).values
        axes.barh(places, mean, left=end, height=0.6, color=shown.colour, hatch=shown.hatch, alpha=0.75,
                  edgecolor=rcParams["axes.facecolor"], linewidth=0, label=term.replace("_", " "))  # fmt: skip
        whole = summary.sel(term=ending)
        # Not quite at the same height: where the second gap is small, both bars can be seen.
        at = places + (0.1 * (2 * k - 1) if len(terms) > 1 else 0.0)
        axes.errorbar(
            whole["mean"].values,
            at,
            xerr=2 * whole["stderr"].values,
            fmt="none",
            ecolor=rcParams["text.color"],
            capsize=rcParams["lines.markersize"] / 2,
        )
        end = end + mean
    axes.set_yticks(places, [as_it_is(part) for part in parts])
    axes.set_ylim(len(parts) - 0.4, -0.6)
    axes.axvline(0, **reference())
    axes.set_xlabel("nats per row (± 2 standard errors of each end)")
    legend_above(axes, len(terms))
    return axes


def causes(attribution: Any, *, ax: Axes | None = None) -> Axes:
    """The nats that each cause is to blame for; in another colour what its remedy wins on held-out rows.

    Args:
        attribution: from `attribute`, or its `causes`.
        ax: where to draw; by default a figure of its own.
    """
    found = taken(attribution, "causes", "nats", "stderr", "held_out", "held_out_stderr", "cause")
    names = [str(name) for name in found["cause"].values]
    axes = axes_for(ax, lines_high(_LOWEST_LINES + 1 + 1.3 * len(names)))
    axes.axvline(0, **reference())
    sides = (("nats", "stderr", "gap by cause"), ("held_out", "held_out_stderr", "won on held-out rows"))
    for k, (value, error, label) in enumerate(sides):
        shown, known = look(k), np.isfinite(found[value].values)
        if known.any():
            places = np.flatnonzero(known) + 0.3 * (k - 0.5)
            axes.errorbar(found[value].values[known], places, xerr=2 * found[error].values[known], fmt=shown.marker,
                          color=shown.colour, label=label)  # fmt: skip
    axes.set_yticks(np.arange(len(names)), [as_it_is(name.replace("_", " ")) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_xlabel("nats per row (± 2 standard errors)")
    legend_above(axes, len(sides))
    return axes


def _chosen(rows: xr.Dataset, parts: str | Sequence[str] | None) -> dict[str, Any]:
    looks = looks_of_parts(rows)
    asked = list(looks) if parts is None else [parts] if isinstance(parts, str) else list(parts)
    unknown = [name for name in asked if name not in looks]
    if unknown:
        raise ValueError(f"There is no part {unknown[0]!r}; the comparison has {', '.join(map(repr, looks))}.")
    return {name: looks[name] for name in asked}


def _counted(rows: xr.Dataset, part: str) -> xr.Dataset:
    """The rows of a part that means are taken over."""
    counted = (rows["part"].values == part) & ~np.isin(rows["status"].values, _NOT_COUNTED)
    return rows.isel(row=np.flatnonzero(counted))


def rungs_of(rows: xr.Dataset, part: str) -> dict[str, tuple[float, float]]:
    """Mean gain of every rung over the encoder's guide on the rows of a part, with its standard error over rows."""
    rows = _counted(rows, part)
    families = [name for name in map(str, rows.data_vars) if name.startswith(_FAMILY) and not name.endswith("_stderr")]
    gains = {"encoder's guide": np.zeros(rows.sizes["row"]), "row's own guide": rows["amortisation_gap"].values}
    for name in families:
        gains[name.removeprefix(_FAMILY).replace("_", " ")] = rows[name].values - rows["elbo_amortised"].values
    if "inference_gap" in rows:
        gains["log p(v)"] = rows["inference_gap"].values
    return {rung: _mean_and_stderr(values) for rung, values in gains.items()}


def _mean_and_stderr(values: np.ndarray) -> tuple[float, float]:
    if not len(values):
        return np.nan, np.nan
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else np.nan
