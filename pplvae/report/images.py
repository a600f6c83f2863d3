"""Figures as they stand in a page."""

import base64
import io
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure


def image_of(drawn: Axes | Figure) -> str:
    """What a function of `plots` returns, as a data URI."""
    figure: Any = drawn if isinstance(drawn, Figure) else drawn.figure
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
