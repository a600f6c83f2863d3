"""Figures of a comparison: where the nats go."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure

from pplvae.plots.style import COLOURS, WIDTH, as_it_is, one_panel


def gap_histogram(rows: xr.Dataset) -> Figure:
    """Distribution of the amortisation gap over rows, one outline per part, with the means.

    Args:
        rows: `Comparison.rows`.
    """
    figure, axes = one_panel(3.2)
    gaps = rows["amortisation_gap"].values
    gaps = gaps[np.isfinite(gaps)]
    last = np.quantile(gaps, 0.995) if len(gaps) else 1.0  # one extreme row would squeeze all others
    bins = np.linspace(min(gaps.min(initial=0.0), 0.0), last + 1e-9, 41)
    for name, colour in _parts(rows):
        values = finite_of(rows, name)["amortisation_gap"].values
        style = {"density": True, "histtype": "stepfilled", "alpha": 0.35, "color": colour}
        axes.hist(np.clip(values, None, last), bins.tolist(), **style)
        axes.axvline(values.mean(), color=colour, linewidth=1.5, label=f"{as_it_is(name)}: mean {values.mean():.3f}")
    axes.set_xlabel("amortisation gap (nats per row; the last bin holds all beyond)")
    axes.set_ylabel("density over rows")
    if len(gaps):
        axes.legend(frameon=False)
    return figure


def elbo_scatter(rows: xr.Dataset) -> Figure:
    """Local against amortised ELBO, a point per row; the distance to the diagonal is the gap.

    Args:
        rows: `Comparison.rows`.
    """
    figure, axes = one_panel(4.6)
    for name, colour in _parts(rows):
        part = finite_of(rows, name)
        size = 12 if part.sizes["row"] < 2000 else 3
        axes.scatter(
            part["elbo_amortised"],
            part["elbo_local"],
            s=size,
            color=colour,
            alpha=0.5,
            label=as_it_is(name),
            linewidth=0,
        )
    low, high = axes.get_xlim()
    axes.axline((low, low), slope=1, color="black", linewidth=0.8, label="no gap")
    axes.set_xlim(low, high)
    axes.set_xlabel("amortised ELBO (nats)")
    axes.set_ylabel("ELBO of the row's own guide (nats)")
    axes.legend(frameon=False, loc="upper left")
    return figure


def decomposition(summary: xr.Dataset) -> Figure:
    """Mean gaps per part as bars with their standard errors.

    Args:
        summary: `Comparison.summary()`.
    """
    terms = [t for t in ("amortisation_gap", "approximation_gap") if t in summary["term"].values]
    parts = summary["part"].values
    figure, axes = one_panel(0.9 + 0.6 * len(parts))
    left = np.zeros(len(parts))
    for term, colour in zip(terms, COLOURS, strict=False):
        mean, error = (summary[key].sel(term=term).values for key in ("mean", "stderr"))
        axes.barh(np.arange(len(parts)), mean, left=left, xerr=2 * error, color=colour, height=0.55, capsize=3,
                  label=term.replace("_", " "))  # fmt: skip
        left = left + mean
    axes.set_yticks(np.arange(len(parts)), [as_it_is(part) for part in parts])
    axes.invert_yaxis()
    axes.set_xlabel("nats per row (± 2 standard errors)")
    figure.legend(frameon=False, loc="outside upper center", ncols=len(terms))
    return figure


def ladder(summary: xr.Dataset, part: str) -> Figure:
    """The rungs from the amortised ELBO to log p(v) as far as they were measured, in nats above the first.

    A family's error is that of its step from the row's own guide.

    Args:
        summary: `Comparison.summary()`.
        part: whose rows.
    """
    lines = summary.sel(part=part)
    gains = {"encoder's guide": (0.0, 0.0), "row's own guide": _bar(lines, "amortisation_gap")}
    for term in lines["term"].values:
        if str(term).startswith("family_gap_"):
            gain, error = _bar(lines, str(term))
            name = str(term).removeprefix("family_gap_").replace("_", " ")
            gains[name] = (gains["row's own guide"][0] + gain, error)
    if "inference_gap" in lines["term"].values:
        gains["log p(v)"] = _bar(lines, "inference_gap")
    figure, axes = one_panel(0.9 + 0.4 * len(gains))
    heights, errors = zip(*gains.values(), strict=True)
    axes.errorbar(heights, np.arange(len(gains)), xerr=2 * np.array(errors), fmt="o", color=COLOURS[0], capsize=3)
    axes.set_yticks(np.arange(len(gains)), [as_it_is(name) for name in gains])
    axes.set_xlabel(f"nats per row above the encoder's guide ({as_it_is(part)}; ± 2 standard errors)")
    return figure


def lambda_scatter(parameters: xr.Dataset, most: int = 4) -> Figure:
    """Lambda of the encoder against that of each row's own guide, a point per row and element.

    Args:
        parameters: `Comparison.parameters`.
        most: parameters shown, side by side.
    """
    names = [str(name) for name in parameters.data_vars][:most]
    figure = Figure(figsize=(WIDTH, WIDTH / max(2, len(names)) + 0.4), layout="constrained")
    for k, name in enumerate(names):
        axes = figure.add_subplot(1, len(names), k + 1)
        amortised, own = (parameters[name].sel(guide=guide).values.flatten() for guide in ("amortised", "local"))
        axes.scatter(amortised, own, s=3, color=COLOURS[k % len(COLOURS)], alpha=0.4, linewidth=0, rasterized=True)
        middle = float(np.nanmean(own))
        axes.axline((middle, middle), slope=1, color="black", linewidth=0.8)
        axes.set_title(as_it_is(name), fontsize=9)
        axes.set_xlabel("encoder's", fontsize=8)
        axes.set_ylabel("row's own" if k == 0 else "", fontsize=8)
        axes.tick_params(labelsize=7)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def learning_curves(history: xr.Dataset) -> Figure:
    """Objective on the training rows and ELBO on the validation rows, by epoch.

    Args:
        history: `Fit.history`.
    """
    figure, axes = one_panel(3.2)
    epochs = history["epoch"].values
    axes.plot(epochs, history["objective"], color=COLOURS[0], label="training objective")
    validation = history["elbo_validation"].values
    if np.isfinite(validation).any():
        error = history["elbo_validation_stderr"].values
        axes.plot(epochs, validation, color=COLOURS[1], label="validation ELBO (± standard error over rows)")
        axes.fill_between(epochs, validation - error, validation + error, color=COLOURS[1], alpha=0.25, linewidth=0)
    shown = np.concatenate([history["objective"].values, validation])
    shown = shown[np.isfinite(shown)]
    if len(shown) > 10:  # the first epochs would squeeze everything else
        low, high = np.quantile(shown, 0.05), shown.max()
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per row")
    axes.legend(frameon=False, loc="lower right")
    return figure


def picture_grid(images: np.ndarray, titles: Sequence[str], columns: int = 8) -> Figure:
    """Pictures in a grid, each with its title.

    Args:
        images: shape (picture, height, width).
        titles: one per picture.
        columns: pictures side by side.
    """
    lines = -(-len(images) // columns)
    figure = Figure(figsize=(WIDTH * 1.25, 1.25 * lines), layout="constrained")
    low, high = float(images.min()), float(images.max())
    for i, (image, title) in enumerate(zip(images, titles, strict=True)):
        axes = figure.add_subplot(lines, columns, i + 1)
        axes.imshow(image, cmap="gray_r", vmin=low, vmax=high, interpolation="nearest")
        axes.set_title(as_it_is(title), fontsize=8)
        axes.set_axis_off()
    return figure


def _bar(lines: xr.Dataset, term: str) -> tuple[float, float]:
    return float(lines["mean"].sel(term=term)), float(lines["stderr"].sel(term=term))


def finite_of(rows: xr.Dataset, part: str) -> xr.Dataset:
    """The rows of one part whose gap is finite."""
    return rows.isel(row=np.flatnonzero((rows["part"].values == part) & np.isfinite(rows["amortisation_gap"].values)))


def _parts(rows: xr.Dataset) -> list[tuple[str, str]]:
    names = dict.fromkeys(rows["part"].values.tolist())
    kept = [name for name in names if finite_of(rows, name).sizes["row"]]
    return [(name, COLOURS[i % len(COLOURS)]) for i, name in enumerate(kept)]
