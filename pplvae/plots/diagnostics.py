"""Figures of the diagnostics: ranks of true latents, KL per dimension, rate and distortion."""

from typing import Protocol, runtime_checkable

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from pplvae.plots.style import COLOURS, as_it_is, one_panel


@runtime_checkable
class _Calibration(Protocol):
    @property
    def latents(self) -> xr.Dataset: ...
    @property
    def outside(self) -> list[str]: ...


@runtime_checkable
class _LatentUse(Protocol):
    @property
    def rows(self) -> xr.Dataset: ...
    @property
    def latents(self) -> xr.Dataset: ...


_GREY = "#777777"
_NAMED = 12  # latents in a legend
_TICKS = 32  # bars with a name
_FEWEST_PLACES = 6  # for bars, so that one alone is not a wall
_STATUS = {"active": COLOURS[0], "constant": COLOURS[4], "collapsed": COLOURS[1], "inactive": COLOURS[3]}


def calibration_ecdf(calibration: _Calibration) -> Figure:
    """ECDF of the ranks minus that of uniform ranks, a line per latent, with the band that holds all of them at once.

    A line above zero on the left and below on the right: the guide is too narrow; the reverse: too wide; above
    everywhere: its draws are too high; below: too low.

    Args:
        calibration: from `calibrate`.
    """
    figure, axes = one_panel(3.6)
    summary = calibration.latents
    points = np.concatenate([[0.0], summary["point"].values, [1.0]])

    def with_ends(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], values, [0.0]])

    # Latents that are masked in some rows have fewer ranks and wider bands: the widest is drawn.
    lower, upper = summary["band_lower"].min("latent").values, summary["band_upper"].max("latent").values
    label = f"{100 * summary.attrs['level']:.0f} % band"
    axes.fill_between(points, with_ends(lower), with_ends(upper), color="#DDDDDD", linewidth=0, label=label)
    axes.axhline(0, color="black", linewidth=0.8)
    outside = calibration.outside
    inside = [name for name in summary["latent"].values.tolist() if name not in outside]
    for i, name in enumerate(inside):
        line = with_ends(summary["ecdf_difference"].sel(latent=name).values)
        text = f"inside ({len(inside)} of {len(inside) + len(outside)})" if i == 0 else None
        axes.plot(points, line, color=_GREY, linewidth=0.7, alpha=0.7, label=text)
    for i, name in enumerate(outside):
        latent = summary.sel(latent=name)
        text = f"{as_it_is(name)}: {latent['verdict'].item()}" if i < _NAMED else None
        style = ("-", "--", ":")[i // len(COLOURS) % 3]
        line = with_ends(latent["ecdf_difference"].values)
        axes.plot(points, line, color=COLOURS[i % len(COLOURS)], linestyle=style, linewidth=1.3, label=text)
    axes.set_xlim(0, 1)
    axes.set_xlabel("rank of the true latent among the guide's draws (share)")
    axes.set_ylabel("ECDF minus uniform")
    figure.legend(frameon=False, loc="outside right upper", title=_more(len(outside)), fontsize=8, title_fontsize=8)
    return figure


def kl_per_dimension(latent_use: _LatentUse) -> Figure:
    """Mean KL of each latent, largest first, coloured by its status; sites without single latents as a whole.

    Args:
        latent_use: from `latent_use`.
    """
    figure, axes = one_panel(3.2)
    names, kl, stderr, status = _bars(latent_use)
    order = np.argsort(-kl, kind="stable")
    place, width = np.arange(len(order)), 0.8 if len(names) <= _TICKS else 1.0
    for kind in dict.fromkeys(status[order].tolist()):
        mine = status[order] == kind
        colour = _STATUS.get(kind, _GREY)
        thin = {"elinewidth": 1.2 if len(names) <= _TICKS else 0.4, "ecolor": "#444444"}
        error = 2 * stderr[order][mine]
        axes.bar(place[mine], kl[order][mine], yerr=error, error_kw=thin, color=colour, width=width, label=kind)
    axes.set_ylabel("KL (nats per row, ± 2 standard errors)")
    if len(names) <= _TICKS:
        long = max(map(len, names)) * len(names) > 60  # characters that fit side by side
        axes.set_xticks(place, [as_it_is(name) for name in names[order]], rotation=90 if long else 0, fontsize=8)
        axes.set_xlabel("latent")
    else:
        axes.set_xlabel(f"{len(names)} latents, by KL")
    margin = 0.8 + max(0, _FEWEST_PLACES - len(names)) / 2
    axes.set_xlim(-margin, len(names) - 1 + margin)
    figure.legend(frameon=False, loc="outside upper center", ncols=4)
    return figure


def rate_distortion(latent_use: _LatentUse) -> Figure:
    """Distortion against rate, a point per row; rows on a dotted line have the same ELBO.

    Args:
        latent_use: from `latent_use`.
    """
    figure, axes = one_panel(4.2)
    rate, distortion = latent_use.rows["rate"].values, latent_use.rows["distortion"].values
    finite = np.isfinite(rate) & np.isfinite(distortion)
    rate, distortion = rate[finite], distortion[finite]
    size = 12 if len(rate) < 2000 else 3
    axes.scatter(rate, distortion, s=size, color=COLOURS[0], alpha=0.5, linewidth=0, label="row")
    mean = (rate.mean(), distortion.mean())
    axes.scatter(*mean, s=70, marker="X", color=COLOURS[1], edgecolor="white", label="mean of the rows", zorder=3)
    axes.margins(0.05)
    limits = axes.get_xlim(), axes.get_ylim()
    axes.axline(mean, slope=-1, color="black", linewidth=0.8, linestyle=":", label=f"ELBO {-sum(mean):.2f}")
    axes.set_xlim(limits[0])
    axes.set_ylim(limits[1])
    axes.set_xlabel("rate: KL(q(h | v) || p(h)) (nats)")
    axes.set_ylabel("distortion: -E log p(v | h) (nats)")
    axes.legend(frameon=False)
    return figure


def _more(outside: int) -> str | None:
    return f"{outside} outside, {_NAMED} of them named" if outside > _NAMED else None


def _bars(use: _LatentUse) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Names, mean KL, its standard error and status: of latents, or of sites whose latents have no KL of their own."""
    known = use.latents.isel(latent=np.flatnonzero(use.latents["kl"].notnull().values))
    names, kl = known["latent"].values.tolist(), known["kl"].values.tolist()
    stderr, status = known["kl_stderr"].values.tolist(), known["status"].values.tolist()
    totals = {str(site): use.rows["site_kl"].sel(site=site).values for site in use.rows["site"].values}
    whole = {
        name: values
        for name, values in totals.items()
        if np.isfinite(values).all() and not any(n == name or n.startswith(f"{name}[") for n in names)
    }
    if not names and not whole:
        whole = {"all latents (rate)": use.rows["rate"].values}
    for name, values in whole.items():
        names.append(name)
        kl.append(float(values.mean()))
        stderr.append(float(values.std(ddof=1) / np.sqrt(len(values))))
        status.append("whole site")
    return np.array(names), np.array(kl), np.array(stderr), np.array(status)
