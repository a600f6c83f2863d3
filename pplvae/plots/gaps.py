"""Figures of numbers row by row: how a gap is distributed, and both guides against each other."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pplvae.plots.style import (
    Look,
    as_it_is,
    axes_for,
    look_of,
    looks_of_parts,
    new_figure,
    reference,
    scatter,
    taken,
)

_BINS = 30
_SHOWN = 0.995  # quantile at which the axis ends: one extreme row would squeeze all others


def gap_histogram(comparison: Any, *, ax: Axes | None = None) -> Axes:
    """Distribution of the amortisation gap over rows, one outline per part, with the means.

    Args:
        comparison: from `compare` or `amortisation_gap`, or its `rows`.
        ax: where to draw; by default a figure of its own.
    """
    rows = taken(comparison, "rows", "amortisation_gap", "part")
    gaps = _finite(rows["amortisation_gap"].values)
    last = np.quantile(gaps, _SHOWN) if len(gaps) else 1.0
    axes = _outlines(rows, "amortisation_gap", (min(gaps.min(initial=0.0), 0.0), last), axes_for(ax))
    axes.set_xlabel("amortisation gap (nats per row; the last bin holds all beyond)")
    axes.set_ylabel("density over rows (per nat)")
    return axes


def row_histogram(result: Any, column: str | None = None, *, ax: Axes | None = None) -> Axes:
    """Distribution of one of a result's numbers over rows, one outline per part, with the means.

    Args:
        result: any result, or its `rows`.
        column: of the rows, in nats; by default the one that the result is made for, such as `log_evidence`, and of a
            dataset `amortisation_gap`.
        ax: where to draw; by default a figure of its own.
    """
    chosen = column or getattr(result, "essential", "amortisation_gap")
    rows = taken(result, "rows", chosen, "part")
    values = _finite(rows[chosen].values)
    ends = np.quantile(values, (1 - _SHOWN, _SHOWN)) if len(values) else (0.0, 1.0)
    axes = _outlines(rows, chosen, (ends[0], ends[1]), axes_for(ax))
    axes.set_xlabel(f"{as_it_is(chosen.replace('_', ' '))} (nats per row; the outer bins hold all beyond)")
    axes.set_ylabel("density over rows (per nat)")
    return axes


def elbo_scatter(comparison: Any, *, ax: Axes | None = None) -> Axes:
    """ELBO of the row's own guide against that of the encoder's, a point per row; above the diagonal by the gap.

    Args:
        comparison: from `compare` or `amortisation_gap`, or its `rows`.
        ax: where to draw; by default a figure of its own.
    """
    rows = taken(comparison, "rows", "elbo_amortised", "elbo_local", "amortisation_gap", "part")
    axes = axes_for(ax, rcParams["figure.figsize"][0] * 0.75)
    for name, shown in _measured_parts(rows).items():
        part = finite_of(rows, name)
        scatter(axes, part["elbo_amortised"], part["elbo_local"], shown, as_it_is(name))
    low, high = axes.get_xlim()
    axes.axline((low, low), slope=1, label="no gap", **reference())
    axes.set_xlim(low, high)
    axes.set_xlabel("ELBO of the encoder's guide (nats per row)")
    axes.set_ylabel("ELBO of the row's own guide (nats per row)")
    axes.legend(loc="upper left")
    return axes


def lambda_scatter(comparison: Any, most: int = 4, *, figure: Figure | None = None) -> Figure:
    """Lambda of the encoder against that of each row's own guide, a point per row and element.

    Args:
        comparison: from `compare` or `amortisation_gap`, or its `parameters`.
        most: parameters shown, side by side.
        figure: an empty one to draw on; by default a new one.
    """
    parameters = taken(comparison, "parameters", "guide")
    names = [str(name) for name in parameters.data_vars][:most]
    height = rcParams["figure.figsize"][0] / max(2, len(names)) + 0.5
    figure = figure or new_figure(height)
    for k, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), k + 1)
        amortised, own = (parameters[name].sel(guide=guide).values.flatten() for guide in ("amortised", "local"))
        scatter(axes, amortised, own, look_of("local"))
        middle = float(np.nanmean(own))
        axes.axline((middle, middle), slope=1, **reference())
        axes.set_title(as_it_is(name))
        axes.set_xlabel("encoder's guide")
        axes.set_ylabel("row's own guide" if k == 0 else "")
    return figure


def finite_of(rows: xr.Dataset, part: str, column: str = "amortisation_gap") -> xr.Dataset:
    """The rows of one part whose gap, or another number, is finite."""
    return rows.isel(row=np.flatnonzero((rows["part"].values == part) & np.isfinite(rows[column].values)))


def _measured_parts(rows: xr.Dataset, column: str = "amortisation_gap") -> dict[str, Look]:
    """The parts that have a row to show."""
    return {name: shown for name, shown in looks_of_parts(rows).items() if finite_of(rows, name, column).sizes["row"]}


def _outlines(rows: xr.Dataset, column: str, ends: tuple[float, float], axes: Axes) -> Axes:
    """A histogram of each part on the same bins, between two ends, and its mean."""
    bins = np.linspace(ends[0], ends[1] + 1e-9, _BINS + 1).tolist()
    parts = _measured_parts(rows, column)
    for name, shown in parts.items():
        values = finite_of(rows, name, column)[column].values
        drawn = np.clip(values, *ends)
        axes.hist(drawn, bins, density=True, histtype="stepfilled", alpha=0.15, color=shown.colour)
        axes.hist(drawn, bins, density=True, histtype="step", color=shown.colour, linestyle=shown.line)
        axes.axvline(values.mean(), color=shown.colour, linestyle=shown.line, label=_mean_in_words(name, values))
    if parts:
        axes.legend(title="mean ± standard error")
    return axes


def _finite(values: np.ndarray) -> np.ndarray:
    return values[np.isfinite(values)]


def _mean_in_words(name: str, values: np.ndarray) -> str:
    stderr = values.std(ddof=1) / np.sqrt(len(values)) if len(values) > 1 else np.nan
    return f"{as_it_is(name)}: {values.mean():.3f} ± {stderr:.3f}"
