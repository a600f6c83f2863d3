"""Figures of comparisons between sets of rows: groups, two runs, inside and outside."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import rcParams
from matplotlib.axes import Axes

from pplvae.plots.style import (
    as_it_is,
    axes_for,
    escaped,
    legend_above,
    lines_high,
    look,
    looks_of_parts,
    reference,
    taken,
)

_FEW = 30  # groups that are listed at full size
_AROUND = 5.0  # lines of text that axis and legend take


def gaps_by_group(groups: Any, *, ax: Axes | None = None) -> Axes:
    """Mean of each group with its interval, largest on top; those that differ from the other rows in another colour.

    Args:
        groups: from `gap_by_group`, or its `summary()`.
        ax: where to draw; by default a figure of its own.
    """
    table = taken(groups, "summary", "mean", "low", "high", "differs", "count", "group")
    order = np.argsort(-np.nan_to_num(table["mean"].values, nan=-np.inf), kind="stable")
    table = table.isel(group=order)
    count = table.sizes["group"]
    place, mean = np.arange(count), table["mean"].values
    crowded = count > _FEW
    axes = axes_for(ax, lines_high(_AROUND + (1.0 if crowded else 1.6) * count))
    differs = table["differs"].values
    for k, (chosen, label) in enumerate(
        ((~differs, "not shown to differ from the other rows"), (differs, "differs (Holm-adjusted)"))
    ):
        drawn, shown = chosen & np.isfinite(mean), look(k)
        if drawn.any():
            below, above = (np.abs(table[end].values - mean)[drawn] for end in ("low", "high"))
            axes.errorbar(mean[drawn], place[drawn], xerr=np.stack([below, above]), fmt=shown.marker,
                          markersize=rcParams["lines.markersize"] * (0.5 if crowded else 0.8), color=shown.colour,
                          label=label)  # fmt: skip
    axes.axvline(table.attrs["mean"], label="mean of all rows", **reference())
    legend_above(axes, 2)
    names = [
        f"{as_it_is(name)} (n = {n})" for name, n in zip(table["group"].values, table["count"].values, strict=True)
    ]
    axes.set_yticks(place, names, fontsize="x-small" if crowded else rcParams["ytick.labelsize"])
    axes.set_ylim(count - 0.4, -0.6)
    term, level = as_it_is(table.attrs["term"].replace("_", " ")), 100 * table.attrs["level"]
    axes.set_xlabel(f"{term} {escaped(f'(nats per row, {level:g} % intervals)')}")
    return axes


def paired_differences(paired: Any, *, ax: Axes | None = None) -> Axes:
    """Second minus first for every term: the mean with 2 standard errors, over the quantiles of the rows.

    Args:
        paired: from `compare_runs`, or its `summary()`.
        ax: where to draw; by default a figure of its own.
    """
    summary = taken(paired, "summary", "mean", "stderr", "quantiles", "part", "term")
    terms, looks = [str(term) for term in summary["term"].values], looks_of_parts(summary)
    axes = axes_for(ax, lines_high(_AROUND + 1.2 * len(terms) * len(looks)))
    axes.axvline(0, **reference())
    places, labels = [], []
    for i, (part, shown) in enumerate(looks.items()):
        for j, term in enumerate(terms):
            line, place = summary.sel(part=part, term=term), j * (len(looks) + 0.6) + i
            _spread(axes, line, place, shown.colour)
            axes.errorbar(float(line["mean"]), place, xerr=2 * float(line["stderr"]), fmt=shown.marker,
                          color=shown.colour, label=as_it_is(part) if j == 0 else None)  # fmt: skip
            places.append(place)
            labels.append(as_it_is(term.replace("_", " ")) if i == 0 else "")
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    spread = escaped("mean ± 2 standard errors over 25–75 % and 5–95 % of the rows")
    axes.set_xlabel(f"second minus first (nats per row)\n{spread}")
    legend_above(axes, len(looks))
    return axes


def outlier_roc(outliers: Any, *, ax: Axes | None = None) -> Axes:
    """ROC curve of every score, with the area under it.

    Args:
        outliers: from `outlier_scores`, or one curve, its `roc(score)`.
        ax: where to draw; by default a figure of its own.
    """
    axes = axes_for(ax, rcParams["figure.figsize"][0] * 0.75)
    axes.axline((0, 0), slope=1, **reference(linestyle=":"))
    if isinstance(outliers, xr.Dataset):
        curves, sides = {"": taken(outliers, "roc", "false_positives", "true_positives")}, ("inside", "outside")
    else:
        summary = taken(outliers, "summary", "auc", "stderr", "score")
        curves = {_area(summary.sel(score=score)): outliers.roc(score) for score in summary["score"].values.tolist()}
        sides = tuple(f"“{as_it_is(summary.attrs[side])}”" for side in ("inside", "outside"))
    for k, (label, curve) in enumerate(curves.items()):
        shown = look(k)
        axes.plot(
            curve["false_positives"], curve["true_positives"], color=shown.colour, linestyle=shown.line, label=label
        )
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_xlabel(f"share of rows of {sides[0]} taken for outside")
    axes.set_ylabel(f"share of rows of {sides[1]} taken for outside")
    if any(curves):
        axes.legend(loc="lower right", title="area under the curve ± standard error")
    return axes


def _spread(axes: Axes, line: xr.Dataset, place: float, colour: Any) -> None:
    """Quantiles of the rows as a thin bar and a thick one."""
    low, lower, _, upper, high = line["quantiles"].values
    for ends, thick in (((low, high), 1), ((lower, upper), 4)):
        width = thick * rcParams["lines.linewidth"]
        axes.plot(ends, [place] * 2, color=colour, alpha=0.35, linewidth=width, solid_capstyle="butt")


def _area(line: xr.Dataset) -> str:
    score = str(line["score"].item()).replace("_", " ")
    return f"{score}: {float(line['auc']):.3f} ± {float(line['stderr']):.3f}"
