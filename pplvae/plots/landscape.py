"""Figures of one row's ELBO and posterior over two latents.

References:
    Iterative amortized inference (Marino, Yue and Mandt, 2018), arXiv 1807.09356, figure 1.
"""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import rcParams
from matplotlib.axes import Axes

from pplvae.plots.style import as_it_is, axes_for, escaped, look, look_of, neutral, taken

_DEPTHS = (0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000, 3000, 10_000)  # of contours, nats below the optimum
_MASSES = (0.5, 0.9)
_AROUND = np.linspace(0, 2 * np.pi, 181)
_LARGE = 2  # times a usual marker
_NAMES = {"amortised": "encoder's guide", "local": "row's own guide"}
_LINES = {"amortised": "-.", "local": "--"}  # the posterior's are solid


def optimisation_path(landscape: Any, *, ax: Axes | None = None) -> Axes:
    """The ELBO of one row over two means as contours, in nats below its optimum, and the ways to it.

    A line shows how gradient ascent goes without amortisation, a diamond what the encoder says at once, a star the
    row's own optimum: what is left between diamond and star is the amortisation gap, as far as the means cause it.

    Args:
        landscape: from `elbo_landscape`.
        ax: where to draw; by default a figure of its own.
    """
    found = taken(landscape, "rows", "elbo", "path", "mean", "first", "second")
    axes = axes_for(ax, rcParams["figure.figsize"][0] * 0.7)
    below = np.ma.masked_invalid(found["elbo"].transpose("second", "first").values) - float(
        found["guide_elbo"].sel(guide="local")
    )
    levels = [-depth for depth in reversed(_DEPTHS) if below.min() < -depth]
    if levels:
        lines = axes.contour(found["first"], found["second"], below, levels=levels, colors=[neutral()], alpha=0.5,
                             linestyles="solid", linewidths=rcParams["axes.linewidth"])  # fmt: skip
        axes.clabel(lines, fmt="%g", fontsize="small")
    path, shown = found["path"].values, look(2)
    axes.plot(*path.T, color=shown.colour, marker=shown.marker, markersize=rcParams["lines.markersize"] / 2,
              label="gradient ascent without the encoder")  # fmt: skip
    for guide, marker, label in (("amortised", "D", "encoder's estimate"), ("local", "*", "row's own optimum")):
        size = rcParams["lines.markersize"] * (_LARGE if marker == "*" else _LARGE / 1.7)
        axes.plot(*found["mean"].sel(guide=guide).values, marker, color=look_of(guide).colour, markersize=size,
                  markeredgecolor=neutral(), label=label, zorder=4)  # fmt: skip
    _name_axes(axes, found, "mean of {}")
    axes.legend(title="contours: nats below the optimum")
    return axes


def posterior_contours(landscape: Any, *, ax: Axes | None = None) -> Axes:
    """The posterior of one row over its two latents, by a grid, and both guides: regions of 50 % and of 90 %.

    Args:
        landscape: from `elbo_landscape`, of a pair with two latents.
        ax: where to draw; by default a figure of its own.

    Raises:
        ValueError: a landscape of more latents, whose posterior no grid over two of them holds.
    """
    found = taken(landscape, "rows", "mean", "covariance", "first", "second")
    if "log_joint" not in found:
        raise ValueError(
            "Contours of the posterior need a pair with two latents: of more, a grid over two of them says nothing "
            "about the others. `optimisation_path` draws the ELBO over two."
        )
    axes = axes_for(ax, rcParams["figure.figsize"][0] * 0.7)
    log_joint = found["log_joint"].transpose("second", "first").values
    density = np.exp(log_joint - np.nanmax(log_joint))
    levels = sorted({level_of(density, mass) for mass in _MASSES})
    axes.contourf(found["first"], found["second"], density, levels=[*levels, 1.0 + 1e-9], colors=[neutral()],
                  alpha=0.15)  # fmt: skip
    axes.contour(found["first"], found["second"], density, levels=levels, colors=[neutral()])
    axes.plot([], [], color=neutral(), label="posterior")
    for guide, name in _NAMES.items():
        mean, shown = found["mean"].sel(guide=guide).values, look_of(guide)
        root = np.linalg.cholesky(found["covariance"].sel(guide=guide).values)
        circle = root @ np.stack([np.cos(_AROUND), np.sin(_AROUND)])
        for k, mass in enumerate(_MASSES):
            ellipse = mean[:, None] + np.sqrt(-2 * np.log1p(-mass)) * circle
            axes.plot(*ellipse, color=shown.colour, linestyle=_LINES[guide], label=None if k else name)
        axes.plot(*mean, shown.marker, color=shown.colour)
    _name_axes(axes, found, "{}")
    axes.legend(title=escaped("regions of 50 % and 90 %"))
    return axes


def level_of(density: np.ndarray, mass: float) -> float:
    """The density at the edge of the smallest region of a grid that holds a share of the whole."""
    ordered = np.sort(density[np.isfinite(density)])[::-1]
    return float(ordered[np.searchsorted(np.cumsum(ordered), mass * ordered.sum())])


def _name_axes(axes: Axes, found: xr.Dataset, words: str) -> None:
    first, second = (words.format(as_it_is(name)) for name in found["axis"].values.tolist())
    axes.set_xlabel(first)
    axes.set_ylabel(second)
