"""A plain page for any result: its text, its summary as tables, its settings, its figures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import xarray as xr

from pplvae import plots
from pplvae.report.images import image_of
from pplvae.report.tables import tables_of
from pplvae.report.template import write_page

_MOST_LINES = 500  # of a table


def write_plain(
    path: Path,
    *,
    title: str,
    lines: Sequence[str],
    warnings: Sequence[str],
    summary: xr.Dataset,
    settings: Mapping[str, Any],
    figures: Mapping[str, Any],
) -> Path:
    """Write the page as one file: pictures inside, no scripts, nothing fetched.

    Args:
        path: of the page.
        title: of the page.
        lines: the text.
        warnings: what a reader must know, a sentence each.
        summary: printed whole, a table for all variables over the same dimensions.
        settings: printed as they are.
        figures: names of functions of `plots`, and what each draws.
    """
    return write_page(
        path,
        "plain.html",
        title=title,
        text="\n".join(lines),
        warnings=warnings,
        tables=tables_of(summary, _MOST_LINES),
        settings=settings.items(),
        figures=[(name.replace("_", " "), image_of(getattr(plots, name)(drawn))) for name, drawn in figures.items()],
    )
