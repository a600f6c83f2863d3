"""Rows as pictures: grids of samples, and rows of pictures side by side, such as reconstructions and traversals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from pplvae.plots.style import as_it_is, look, new_figure


def picture_grid(
    images: Any, titles: Sequence[Any] | None = None, columns: int = 8, *, figure: Figure | None = None
) -> Figure:
    """Pictures in a grid, each with its title if there are titles.

    Args:
        images: of shape (picture, height, width), or (picture, column) for rows that are drawn as lines.
        titles: one per picture.
        columns: pictures side by side.
        figure: an empty one to draw on; by default a new one.
    """
    images = np.asarray(images)
    lines = -(-len(images) // columns)
    labels = [""] * len(images) if titles is None else [as_it_is(title) for title in titles]
    high = rcParams["figure.figsize"][0] / columns + (0.0 if titles is None else 2 * rcParams["font.size"] / 72)
    figure = figure or new_figure(high * lines)
    panels = figure.subplots(lines, columns, squeeze=False).flatten()
    limits = _limits(images)
    for panel in panels[len(images) :]:
        panel.set_axis_off()
    for panel, image, label in zip(panels, images, labels, strict=False):
        _draw(panel, image, limits)
        panel.set_title(label, fontsize="small")
    return figure


def picture_rows(pictures: Mapping[str, Any], *, figure: Figure | None = None) -> Figure:
    """Pictures in named rows, all on one scale: rows over their reconstructions, or a traversal for each latent.

    Args:
        pictures: by the row's name, as many for each: shape (picture, height, width), or (picture, column).
        figure: an empty one to draw on; by default a new one.

    Raises:
        ValueError: rows of different lengths.
    """
    rows = {name: np.asarray(images) for name, images in pictures.items()}
    counts = {name: len(images) for name, images in rows.items()}
    if len(set(counts.values())) != 1:
        raise ValueError(f"Rows of pictures must be equally long, got {counts}.")
    columns = next(iter(counts.values()))
    figure = figure or new_figure(rcParams["figure.figsize"][0] / (columns + 1) * len(rows))
    panels = figure.subplots(len(rows), columns, squeeze=False)
    limits = _limits(np.concatenate([images.reshape(-1) for images in rows.values()]))
    for line, (name, images) in zip(panels, rows.items(), strict=True):
        for panel, image in zip(line, images, strict=True):
            _draw(panel, image, limits)
        line[0].set_ylabel(as_it_is(name), rotation=0, ha="right", va="center")
    return figure


def _draw(panel: Axes, image: np.ndarray, limits: tuple[float, float]) -> None:
    if image.ndim == 1:
        panel.plot(image, color=look(0).colour, linewidth=rcParams["axes.linewidth"])
        panel.set_ylim(limits[0] - 1e-9, limits[1] + 1e-9)
    else:
        panel.imshow(image, cmap="gray_r", vmin=limits[0], vmax=limits[1], interpolation="nearest")
    panel.set_xticks([])
    panel.set_yticks([])


def _limits(values: np.ndarray) -> tuple[float, float]:
    finite = values[np.isfinite(values)]
    return (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
