"""What all figures share. None touches pyplot's global state."""

from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

# Okabe and Ito's colours, which colour-blind readers can tell apart.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
WIDTH = 6.4  # inches


def one_panel(height: float) -> tuple[Figure, Axes]:
    """A figure of the usual width with one panel."""
    figure = Figure(figsize=(WIDTH, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def as_it_is(text: Any) -> str:
    """Text from outside, which matplotlib would read as mathematics between two dollars; control characters by name."""
    shown = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
    return shown.replace("$", r"\$")
