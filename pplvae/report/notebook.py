"""What a notebook shows of a result: what it says first, its summary as tables, and its main figure."""

from collections.abc import Sequence

import xarray as xr

from pplvae import plots
from pplvae.errors import printable
from pplvae.report.images import image_of
from pplvae.report.tables import tables_of
from pplvae.report.template import filled

_MOST_WARNINGS, _MOST_LINES = 3, 20


def notebook_html(
    result: object,
    *,
    title: str,
    words: Sequence[str],
    warnings: Sequence[str],
    summary: xr.Dataset,
    text: str,
    figure: str,
) -> str:
    """A piece of HTML without scripts, which has no colours of its own for text and paper: a theme's stay legible.

    Args:
        result: what the figure is drawn of.
        title: what it is.
        words: what it says, a line each.
        warnings: what a reader must know, a sentence each; the first few are shown.
        summary: shown as tables, the first lines of each.
        text: all of it, folded away.
        figure: name of a function of `plots`. If it cannot be drawn, the reason stands in its place.
    """
    drawn, problem = _drawn(figure, result)
    return filled(
        "notebook.html",
        title=title,
        words=words,
        warnings=warnings[:_MOST_WARNINGS],
        more_warnings=max(0, len(warnings) - _MOST_WARNINGS),
        tables=tables_of(summary, _MOST_LINES),
        text=text,
        figure=figure.replace("_", " "),
        drawn=drawn,
        problem=problem,
    )


def _drawn(figure: str, result: object) -> tuple[str, str]:
    """The figure as a data URI, or why there is none."""
    try:
        return image_of(getattr(plots, figure)(result)), ""
    except Exception as error:  # whatever a user's style or fonts do, the numbers are shown
        reason = printable(str(error).strip()).splitlines() or [""]
        return "", f"`plots.{figure}` failed with {type(error).__name__}: {reason[0][:200]}"
