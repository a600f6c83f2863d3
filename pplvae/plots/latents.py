"""Figures of the latents: how much of them is used, and where the rows lie in them."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib import rcParams
from matplotlib.axes import Axes

from pplvae.plots.style import (
    as_it_is,
    axes_for,
    legend_above,
    look,
    reference,
    scatter,
    taken,
)

_TICKS = 32  # bars with a name
_FEWEST_PLACES = 6  # for bars, so that one alone is not a wall
_STATUS = ("active", "collapsed", "constant", "inactive", "whole site")
_LETTERS = 60  # that fit side by side
_MOST_LABELS = 20  # groups of rows that are told apart


def kl_per_dimension(latent_use: Any, *, ax: Axes | None = None) -> Axes:
    """Mean KL of each latent, largest first, coloured by its status; sites without single latents as a whole.

    Args:
        latent_use: from `latent_use`, or its `latents`, which know no whole sites.
        ax: where to draw; by default a figure of its own.
    """
    axes = axes_for(ax)
    names, kl, stderr, status = _bars(
        taken(latent_use, "latents", "kl", "kl_stderr", "status"), getattr(latent_use, "rows", None)
    )
    order = np.argsort(-kl, kind="stable")
    place, named = np.arange(len(order)), len(names) <= _TICKS
    for kind in dict.fromkeys(status[order].tolist()):
        mine, shown = status[order] == kind, look(_STATUS.index(kind))
        error = {"elinewidth": rcParams["lines.linewidth"] * (0.8 if named else 0.3), "ecolor": rcParams["text.color"]}
        axes.bar(place[mine], kl[order][mine], yerr=2 * stderr[order][mine], error_kw=error, color=shown.colour,
                 hatch=shown.hatch, edgecolor=rcParams["axes.facecolor"], linewidth=0, width=0.8 if named else 1.0,
                 label=kind)  # fmt: skip
    axes.set_ylabel("KL (nats per row, ± 2 standard errors)")
    if named:
        texts = [as_it_is(name) for name in names[order]]
        long = max(map(len, texts)) * len(texts) > _LETTERS
        axes.set_xticks(place, texts, rotation=90 if long else 0)
        axes.set_xlabel("latent")
    else:
        axes.set_xlabel(f"{len(names)} latents, by KL")
    margin = 0.8 + max(0, _FEWEST_PLACES - len(names)) / 2
    axes.set_xlim(-margin, len(names) - 1 + margin)
    axes.set_ylim(bottom=min(0.0, float(kl.min())))
    legend_above(axes, 4)
    return axes


def rate_distortion(latent_use: Any, *, ax: Axes | None = None) -> Axes:
    """Distortion against rate, a point per row; rows on a dotted line have the same ELBO.

    Args:
        latent_use: from `latent_use`, or its `rows`.
        ax: where to draw; by default a figure of its own.
    """
    rows = taken(latent_use, "rows", "rate", "distortion")
    axes = axes_for(ax, rcParams["figure.figsize"][0] * 0.65)
    rate, distortion = rows["rate"].values, rows["distortion"].values
    finite = np.isfinite(rate) & np.isfinite(distortion)
    rate, distortion = rate[finite], distortion[finite]
    scatter(axes, rate, distortion, look(0), "row")
    mean, shown = (rate.mean(), distortion.mean()), look(1)
    axes.scatter(*mean, s=2 * rcParams["lines.markersize"] ** 2, marker="X", color=shown.colour,
                 edgecolor=rcParams["axes.facecolor"], label="mean of the rows", zorder=3)  # fmt: skip
    limits = axes.get_xlim(), axes.get_ylim()
    axes.axline(mean, slope=-1, label=f"ELBO {-sum(mean):.2f}", **reference(linestyle=":"))
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    axes.set_xlabel("rate: KL(q(h | v) || p(h)) (nats per row)")
    axes.set_ylabel("distortion: -E log p(v | h) (nats per row)")
    axes.legend()
    return axes


def latent_map(
    means: Any, latents: tuple[int, int] = (0, 1), *, site: str | None = None, ax: Axes | None = None
) -> Axes:
    """Where the rows lie in two latents, a point at each posterior mean; rows of one label look alike.

    Args:
        means: from `posterior_means`, or its `rows`.
        latents: positions of the two elements of the site.
        site: whose; by default the first one with two elements.
        ax: where to draw; by default a figure of its own.

    Raises:
        ValueError: no such site or elements.
    """
    rows = taken(means, "rows", "pareto_k")
    wide = [str(name) for name in rows.data_vars if f"{name}_stderr" in rows and rows[name].ndim == 2]
    known = [name for name in wide if rows[name].shape[1] > max(latents)]
    if (site or next(iter(known), None)) not in known:
        raise ValueError(
            f"A map needs a latent site with the elements {latents}; those of {site!r} are not there. "
            f"Sites and numbers of elements: { {name: rows[name].shape[1] for name in wide} }."
        )
    name = site or known[0]
    x, y = (rows[name].values[:, k] for k in latents)
    axes = axes_for(ax, rcParams["figure.figsize"][0] * 0.7)
    for k, (text, mine) in enumerate(_by_label(rows).items()):
        scatter(axes, x[mine], y[mine], look(k), text or None)
        if text:  # for print without colour, and for readers who look at the points and not at a legend
            axes.annotate(text, (np.median(x[mine]), np.median(y[mine])), ha="center", va="center", weight="bold")
    axes.set_xlabel(f"E[{as_it_is(name)}[{latents[0]}] | v]")
    axes.set_ylabel(f"E[{as_it_is(name)}[{latents[1]}] | v]")
    if axes.get_legend_handles_labels()[1]:
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False)
    return axes


def corrected_means(means: Any, *, ax: Axes | None = None) -> Axes:
    """Corrected posterior means against those of the guide, a point per row and element; on the line: not moved.

    Args:
        means: from `posterior_means`, or its `rows`.
        ax: where to draw; by default a figure of its own.
    """
    rows = taken(means, "rows", "pareto_k")
    axes = axes_for(ax, rcParams["figure.figsize"][0] * 0.75)
    sites = [str(name) for name in rows.data_vars if f"{name}_stderr" in rows and f"{name}_guide" in rows]
    for k, site in enumerate(sites):
        scatter(axes, rows[f"{site}_guide"].values.flatten(), rows[site].values.flatten(), look(k), as_it_is(site))
    low, high = axes.get_xlim()
    axes.axline((low, low), slope=1, label="not moved", **reference())
    axes.set_xlim(low, high)
    axes.set_xlabel("E[h], of the guide alone")
    axes.set_ylabel("E[h | v], corrected")
    axes.legend(loc="upper left")
    return axes


def _by_label(rows: xr.Dataset) -> dict[str, np.ndarray]:
    """Positions of the rows of each label; under "" all of them where there are no labels, or too many."""
    everyone = {"": np.arange(rows.sizes["row"])}
    if "label" not in rows.coords:
        return everyone
    texts = np.array([as_it_is(label) for label in rows["label"].values.tolist()])
    names = sorted(set(texts.tolist()))
    return {name: np.flatnonzero(texts == name) for name in names} if 1 < len(names) <= _MOST_LABELS else everyone


def _bars(latents: xr.Dataset, rows: xr.Dataset | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names, mean KL, its standard error and status: of latents, or of sites whose latents have no KL of their own."""
    known = latents.isel(latent=np.flatnonzero(latents["kl"].notnull().values))
    names, kl = known["latent"].values.tolist(), known["kl"].values.tolist()
    stderr, status = known["kl_stderr"].values.tolist(), known["status"].values.tolist()
    for name, values in _whole_sites(rows, names).items() if rows is not None else ():
        names.append(name)
        kl.append(float(values.mean()))
        stderr.append(float(values.std(ddof=1) / np.sqrt(len(values))))
        status.append("whole site")
    return np.array(names), np.array(kl), np.array(stderr), np.array(status)


def _whole_sites(rows: xr.Dataset, names: list[str]) -> dict[str, np.ndarray]:
    """KL of the sites of which no element has one of its own; if nothing has, that of all latents together."""
    totals = {str(site): rows["site_kl"].sel(site=site).values for site in rows["site"].values}
    whole = {
        site: values
        for site, values in totals.items()
        if np.isfinite(values).all() and not any(name == site or name.startswith(f"{site}[") for name in names)
    }
    return whole if names or whole else {"all latents (rate)": rows["rate"].values}
