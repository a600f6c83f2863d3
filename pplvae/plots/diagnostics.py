"""The figure of a calibration: ranks of true latents among the guide's draws."""

from typing import Any

import numpy as np
from matplotlib import rcParams
from matplotlib.axes import Axes

from pplvae.plots.style import COLOURS, as_it_is, axes_for, escaped, look, neutral, reference, taken

_NAMED = 8  # latents in a legend


def calibration_ecdf(calibration: Any, *, ax: Axes | None = None) -> Axes:
    """ECDF of the ranks minus that of uniform ranks, a line per latent, with the band that holds all of them at once.

    A line above zero on the left and below on the right: the guide is too narrow; the reverse: too wide; above
    everywhere: its draws are too high; below: too low.

    Args:
        calibration: from `calibrate`, or its `latents`.
        ax: where to draw; by default a figure of its own.
    """
    latents = taken(calibration, "latents", "ecdf_difference", "band_lower", "band_upper", "verdict", "point")
    axes = axes_for(ax)
    points = np.concatenate([[0.0], latents["point"].values, [1.0]])

    def with_ends(values: np.ndarray) -> np.ndarray:
        return np.concatenate([[0.0], values, [0.0]])

    # Latents that are masked in some rows have fewer ranks and wider bands: the widest is drawn.
    lower, upper = latents["band_lower"].min("latent").values, latents["band_upper"].max("latent").values
    label = escaped(f"{100 * latents.attrs['level']:.0f} % band, all latents at once")
    axes.fill_between(points, with_ends(lower), with_ends(upper), color=neutral(), alpha=0.15, linewidth=0, label=label)
    axes.axhline(0, **reference())
    verdicts = dict(zip(latents["latent"].values.tolist(), latents["verdict"].values.tolist(), strict=True))
    inside = [name for name, verdict in verdicts.items() if verdict == "inside"]
    for i, name in enumerate(inside):
        line = with_ends(latents["ecdf_difference"].sel(latent=name).values)
        text = f"inside ({len(inside)} of {len(verdicts)})" if i == 0 else None
        axes.plot(points, line, color=neutral(), linewidth=rcParams["lines.linewidth"] / 2, alpha=0.5, label=text)
    outside = [name for name in verdicts if name not in inside]
    for i, name in enumerate(outside):
        text, shown = f"{as_it_is(name)}: {verdicts[name]}" if i < _NAMED else None, look(i)
        style = look(i // len(COLOURS)).line  # first all colours, then the next style
        line = with_ends(latents["ecdf_difference"].sel(latent=name).values)
        every = (i % 10 / 100, 0.1)  # markers of two lines that cross stand apart
        axes.plot(points, line, color=shown.colour, linestyle=style, marker=shown.marker, markevery=every, label=text)
    axes.set_xlim(0, 1)
    axes.set_xlabel("rank of the true latent (share of the draws)")
    axes.set_ylabel("ECDF minus uniform (share)")
    axes.legend(loc="upper left", bbox_to_anchor=(1, 1), frameon=False, title=_more(len(outside)))
    return axes


def _more(outside: int) -> str | None:
    return f"{outside} outside, {_NAMED} of them named" if outside > _NAMED else None
