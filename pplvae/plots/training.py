"""Figures of fits: learning curves, gaps over training, and the noise of gradients."""

from typing import Any

import numpy as np
from matplotlib.axes import Axes

from pplvae.plots.style import as_it_is, axes_for, legend_above, lines_high, look, look_of, taken

_FEW_EPOCHS = 10


def learning_curves(fit: Any, *, ax: Axes | None = None) -> Axes:
    """Objective on the training rows and ELBO on the validation rows, by epoch.

    Args:
        fit: from `fit`, or its `history`.
        ax: where to draw; by default a figure of its own.
    """
    history = taken(fit, "history", "epoch", "objective", "elbo_validation", "elbo_validation_stderr")
    axes = axes_for(ax)
    epochs, objective, validation = (history[name].values for name in ("epoch", "objective", "elbo_validation"))
    train, valid = (look_of(name) for name in ("train", "valid"))
    axes.plot(epochs, objective, color=train.colour, linestyle=train.line, label="training objective")
    if np.isfinite(validation).any():
        error = history["elbo_validation_stderr"].values
        axes.plot(
            epochs,
            validation,
            color=valid.colour,
            linestyle=valid.line,
            label="validation ELBO (± 1 standard error over rows)",
        )
        axes.fill_between(epochs, validation - error, validation + error, color=valid.colour, alpha=0.25, linewidth=0)
    shown = np.concatenate([objective, validation])
    shown = shown[np.isfinite(shown)]
    if len(shown) > _FEW_EPOCHS:  # the first epochs would squeeze everything else
        low, high = np.quantile(shown, 0.05), shown.max()
        axes.set_ylim(low - 0.1 * (high - low), high + 0.1 * (high - low))
    axes.set_xlabel("epoch")
    axes.set_ylabel("nats per row")
    axes.legend(loc="lower right")
    return axes


def gap_curves(fit: Any, *, ax: Axes | None = None) -> Axes:
    """The amortisation gap of the same train and validation rows, by epoch: an encoder that overfits parts the two.

    Args:
        fit: from `fit(compare_every=...)`, or its `history`.
        ax: where to draw; by default a figure of its own.

    Raises:
        ValueError: a fit that has not looked at its gap.
    """
    history = taken(fit, "history", "epoch")
    if "train_gap" not in history:
        raise ValueError("This fit has not looked at its gap: fit with `compare_every=5`, say, and pass that fit.")
    axes = axes_for(ax)
    for part in ("train", "validation"):
        if f"{part}_gap" not in history:
            continue
        gap, error = history[f"{part}_gap"].values, history[f"{part}_gap_stderr"].values
        seen, shown = np.isfinite(gap), look_of(part)
        axes.errorbar(
            history["epoch"].values[seen],
            gap[seen],
            yerr=error[seen],
            color=shown.colour,
            linestyle=shown.line,
            marker=shown.marker,
            label=f"{part} rows (± 1 standard error over rows)",
        )
    axes.axhline(0, color="0.5", linewidth=0.8, zorder=0)
    axes.set_xlabel("epoch")
    axes.set_ylabel("amortisation gap, nats per row")
    legend_above(axes, 1)
    return axes


def gradient_noise(noise: Any, *, ax: Axes | None = None) -> Axes:
    """Variance of the gradient under each objective, on a logarithmic scale.

    Args:
        noise: from `gradient_noise`; or one side of several such datasets, which have been joined along another
            dimension, such as the stages of a fit. It has `variance` and `variance_stderr` over "objective" and one
            more dimension, whose entries have a marker each. Where the attribute "unit" stands, that is their unit.
        ax: where to draw; by default a figure of its own.
    """
    noise = taken(noise, "noise", "variance", "variance_stderr", "objective")
    noise = noise[["variance", "variance_stderr"]].transpose("objective", ...)
    names, (other,) = noise["objective"].values, [dim for dim in noise.dims if dim != "objective"]
    axes = axes_for(ax, lines_high(4.5 + len(names)))
    for k, entry in enumerate(noise[other].values):
        line, shown = noise.isel({other: k}), look(k)
        places = np.arange(len(names)) + 0.3 * ((k + 0.5) / noise.sizes[other] - 0.5)
        axes.errorbar(line["variance"].values, places, xerr=2 * line["variance_stderr"].values, fmt=shown.marker,
                      color=shown.colour, label=as_it_is(entry))  # fmt: skip
    axes.set_xscale("log")
    axes.set_yticks(np.arange(len(names)), [as_it_is(name) for name in names])
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.grid(axis="y", alpha=0.3)
    unit = f"in units of the {as_it_is(noise.attrs['unit'])}" if "unit" in noise.attrs else "summed over parameters"
    axes.set_xlabel(f"variance of the gradient (± 2 standard errors)\n{unit}")
    legend_above(axes, noise.sizes[other])
    return axes
