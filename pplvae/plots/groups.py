"""Figures of comparisons between sets of rows: groups, two runs, inside and outside."""

from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from pplvae.plots.style import COLOURS, as_it_is, one_panel


@runtime_checkable
class _Groups(Protocol):
    def summary(self) -> xr.Dataset: ...


@runtime_checkable
class _Paired(Protocol):
    @property
    def parts(self) -> list[str]: ...
    def summary(self) -> xr.Dataset: ...


@runtime_checkable
class _Outliers(Protocol):
    @property
    def scores(self) -> list[str]: ...
    def summary(self) -> xr.Dataset: ...
    def roc(self, score: str) -> xr.Dataset: ...


_FEW = 30  # groups that are listed at full size


def gaps_by_group(groups: _Groups | xr.Dataset) -> Figure:
    """Mean of each group with its interval, largest on top; those that differ from the other rows in another colour.

    Args:
        groups: from `gap_by_group`, or its `summary()`.
    """
    groups = groups if isinstance(groups, xr.Dataset) else groups.summary()
    order = np.argsort(-np.nan_to_num(groups["mean"].values, nan=-np.inf), kind="stable")
    groups = groups.isel(group=order)
    count = groups.sizes["group"]
    place, mean = np.arange(count), groups["mean"].values
    space, size = (0.26, 9) if count <= _FEW else (0.13, 6)
    figure, axes = one_panel(1.3 + space * count)
    differs = groups["differs"].values
    for chosen, colour, label in (
        (~differs, COLOURS[0], "not shown to differ from the other rows"),
        (differs, COLOURS[1], "differs (Holm-adjusted)"),
    ):
        drawn = chosen & np.isfinite(mean)
        if drawn.any():
            below, above = (np.abs(groups[end].values - mean)[drawn] for end in ("low", "high"))
            axes.errorbar(mean[drawn], place[drawn], xerr=np.stack([below, above]), fmt="o", markersize=size / 2,
                          linewidth=1.2, color=colour, label=label)  # fmt: skip
    axes.axvline(groups.attrs["mean"], color="black", linewidth=0.8, label="mean of all rows")
    figure.legend(frameon=False, loc="outside upper center", ncols=3, fontsize=8)
    names = [
        f"{as_it_is(name)} (n = {n})" for name, n in zip(groups["group"].values, groups["count"].values, strict=True)
    ]
    axes.set_yticks(place, names, fontsize=size)
    axes.set_ylim(count - 0.4, -0.6)
    term, level = groups.attrs["term"].replace("_", " "), 100 * groups.attrs["level"]
    axes.set_xlabel(f"{term} (nats per row, {level:g} % intervals)")
    return figure


def paired_differences(paired: _Paired) -> Figure:
    """Second minus first for every term: the mean with 2 standard errors, over the quantiles of the rows.

    Args:
        paired: from `compare_runs`.
    """
    summary, parts = paired.summary(), paired.parts
    terms = [str(term) for term in summary["term"].values]
    figure, axes = one_panel(1.4 + 0.3 * len(terms) * len(parts))
    axes.axvline(0, color="black", linewidth=0.8)
    places, labels = [], []
    for i, part in enumerate(parts):
        colour = COLOURS[i % len(COLOURS)]
        for j, term in enumerate(terms):
            line, place = summary.sel(part=part, term=term), j * (len(parts) + 0.6) + i
            low, lower, _, upper, high = line["quantiles"].values
            axes.plot([low, high], [place] * 2, color=colour, alpha=0.35, linewidth=1.5, solid_capstyle="butt")
            axes.plot([lower, upper], [place] * 2, color=colour, alpha=0.35, linewidth=6, solid_capstyle="butt")
            axes.errorbar(float(line["mean"]), place, xerr=2 * float(line["stderr"]), fmt="o", markersize=4, capsize=3,
                          color=colour, label=as_it_is(part) if j == 0 else None)  # fmt: skip
            places.append(place)
            labels.append(term.replace("_", " ") if i == 0 else "")
    axes.set_yticks(places, labels)
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.set_xlabel("second minus first (nats per row)\nmean ± 2 standard errors over 25–75 % and 5–95 % of the rows")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(parts))
    return figure


def outlier_roc(outliers: _Outliers) -> Figure:
    """ROC curve of every score, with the area under it.

    Args:
        outliers: from `outlier_scores`.
    """
    summary = outliers.summary()
    figure, axes = one_panel(4.8)
    axes.axline((0, 0), slope=1, color="black", linewidth=0.8, linestyle=":")
    for i, score in enumerate(outliers.scores):
        curve, line = outliers.roc(score), summary.sel(score=score)
        area = f"{score.replace('_', ' ')}: {float(line['auc']):.3f} ± {float(line['stderr']):.3f}"
        axes.plot(curve["false_positives"], curve["true_positives"], color=COLOURS[i], label=area)
    axes.set_aspect("equal")
    axes.set_xlim(-0.01, 1.01)
    axes.set_ylim(-0.01, 1.01)
    axes.set_xlabel(f"share of “{as_it_is(summary.attrs['inside'])}” taken for outside")
    axes.set_ylabel(f"share of “{as_it_is(summary.attrs['outside'])}” taken for outside")
    axes.legend(frameon=False, loc="lower right", title="area under the curve ± standard error", fontsize=9)
    return figure
