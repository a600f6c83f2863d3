"""What all figures share: what is drawn, where, in whose colour. None touches pyplot's global state.

Fonts, sizes, lines and legends are those of `matplotlib.rcParams`. So are the colours where a style sets them; else
they are Okabe and Ito's, which colour-blind readers can tell apart. In print without colour, markers, lines and hatches
differ.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from matplotlib import rcParams, rcParamsDefault
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
WIDTH = 6.4  # inches, matplotlib's own
_HEIGHT = 3.6
_MARKERS = ("o", "s", "^", "v", "D", "P", "X", "*")
_LINES = ("-", "--", "-.", ":", (0, (8, 1.5)))
_HATCHES = ("", "///", "...", "xxx", "\\\\\\", "ooo", "---")
# What is the same thing looks the same in every figure.
_PLACES = {"amortised": 0, "local": 1, "test": 2, "valid": 3, "validation": 3, "train": 4}
_OTHER_PLACES = (5, 0, 1, 6)  # of parts of other names
_MOST_VECTORS = 20_000  # points: more make a file that no reader opens
_LONGEST = 48  # letters of a name
_LATEX = str.maketrans(
    {sign: f"\\{sign}" for sign in "%_#&${}"}
    | {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
)
_LETTERS, _HANDLE = 90, 6  # that a line of a legend holds, and that its handle takes


class Look(NamedTuple):
    """How one of several things looks: by colour, and without it."""

    colour: Any
    marker: Any
    line: Any
    hatch: str


def look(place: int) -> Look:
    """How the thing at a place of a list looks; the user's own cycle comes first, as far as it says."""
    own = rcParams["axes.prop_cycle"]
    said = {} if own == rcParamsDefault["axes.prop_cycle"] else own.by_key()

    def at(values: Sequence[Any]) -> Any:
        return values[place % len(values)]

    colours, markers, lines = (
        said.get(key, usual) for key, usual in (("color", COLOURS), ("marker", _MARKERS), ("linestyle", _LINES))
    )
    return Look(at(colours), at(markers), at(lines), at(_HATCHES))


def look_of(name: str) -> Look:
    """How a guide looks, "amortised" (the encoder's) or "local" (the row's own), or a usual part such as "train"."""
    return look(_PLACES[name])


def looks_of_parts(rows: xr.Dataset) -> dict[str, Look]:
    """How the parts of a dataset look, in order: train, valid and test alike in all figures."""
    names = [str(name) for name in dict.fromkeys(np.atleast_1d(rows["part"].values).tolist())]
    others = [name for name in names if name not in _PLACES]
    places = {name: _OTHER_PLACES[k % len(_OTHER_PLACES)] for k, name in enumerate(others)} | _PLACES
    return {name: look(places[name]) for name in names}


def taken(given: Any, name: str, *needed: str) -> xr.Dataset:
    """A dataset of a result, or the dataset itself.

    Args:
        given: what a user passed.
        name: of the dataset among the result's.
        needed: variables that will be drawn.

    Raises:
        TypeError: neither a result nor a dataset.
        ValueError: a dataset without those variables.
    """
    found = given if isinstance(given, xr.Dataset) else getattr(given, name, None)
    found = found() if callable(found) else found
    if not isinstance(found, xr.Dataset):
        raise TypeError(
            f"Expected a result with `{name}`, or that dataset itself; got {type(given).__name__}. Pass the result."
        )
    missing = [variable for variable in needed if variable not in found]
    if missing:
        raise ValueError(
            f"The figure is drawn from `{name}`, with {', '.join(needed)}; this dataset has no {', '.join(missing)}. "
            f"Pass the result, or its `{name}`."
        )
    return found


def new_figure(height: float | None = None) -> Figure:
    """A figure of the style's width.

    Args:
        height: in inches, where it depends on what is drawn; by default that of the style.
    """
    width, usual = rcParams["figure.figsize"]
    if [width, usual] == list(rcParamsDefault["figure.figsize"]):
        usual = _HEIGHT
    return Figure(figsize=(width, usual if height is None else height), layout="constrained")


def axes_for(ax: Axes | None, height: float | None = None) -> Axes:
    """Where to draw: on the user's axes, or on those of a figure of their own.

    Args:
        ax: the user's.
        height: see `new_figure`.
    """
    return new_figure(height).add_subplot() if ax is None else ax


def lines_high(count: float, size: float = 1.9) -> float:
    """Inches that so many lines of a list take.

    Args:
        count: of lines.
        size: of a line, in heights of a letter.
    """
    return count * size * rcParams["font.size"] / 72


def legend_above(axes: Axes, columns: int, title: str | None = None) -> None:
    """A legend over the axes, where nothing is drawn; nothing where nothing has a label.

    Args:
        axes: whose.
        columns: at most; fewer where names are long.
        title: of the legend.
    """
    labels = axes.get_legend_handles_labels()[1]
    if not labels:
        return
    fit = max(1, _LETTERS // (max(map(len, labels)) + _HANDLE))
    where = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "borderaxespad": 0.2}
    axes.legend(ncols=min(columns, fit), frameon=False, title=title, **where)


def neutral() -> Any:
    """The colour of what belongs to nobody: zero, a diagonal, the truth."""
    return rcParams["axes.edgecolor"]


def reference(**more: Any) -> dict[str, Any]:
    """How a line looks that results are held against."""
    return {"color": neutral(), "linewidth": rcParams["axes.linewidth"], "zorder": 1} | more


def scatter(axes: Axes, x: Any, y: Any, shown: Look, label: str | None = None) -> Any:
    """A point for each pair of numbers, smaller and then as pixels where there are very many."""
    count = np.size(x)
    size = rcParams["lines.markersize"] ** 2 * (0.5 if count < 2000 else 0.1)
    few = count <= _MOST_VECTORS
    return axes.scatter(x, y, s=size, marker=shown.marker, color=shown.colour, alpha=0.6, linewidth=0, label=label,
                        rasterized=not few)  # fmt: skip


def as_it_is(text: Any) -> str:
    """Text from outside as it stands there, whatever matplotlib or LaTeX would see in it; control characters by name.

    What begins with an underscore, matplotlib would leave out of a legend.
    """
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
    if len(shown) > _LONGEST:
        shown = shown[: _LONGEST - 1] + "…"
    shown = escaped(shown)
    return ("\N{ZERO WIDTH SPACE}" if shown.startswith("_") else "") + shown


def escaped(text: str) -> str:
    """Text whose signs neither matplotlib nor LaTeX, where a style has that set it, takes for anything else."""
    return text.translate(_LATEX) if rcParams["text.usetex"] else text.replace("$", r"\$")
