"""Figures as they stand in a page."""

import base64
import io

from matplotlib.figure import Figure


def image_of(figure: Figure) -> str:
    """A figure as a data URI."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
