"""A plain page for any result: its text, its summary as tables, its settings, its figures."""

from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from pplvae import plots
from pplvae.report.images import image_of
from pplvae.report.template import write_page

_MOST_LINES = 500  # of a table


class _Table(NamedTuple):
    head: list[str]
    lines: list[list[str]]
    more: int


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
        tables=_tables(summary),
        settings=settings.items(),
        figures=[(name.replace("_", " "), image_of(getattr(plots, name)(drawn))) for name, drawn in figures.items()],
    )


def _tables(summary: xr.Dataset) -> list[_Table]:
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, variable in summary.data_vars.items():
        alike.setdefault(tuple(map(str, variable.dims)), []).append(str(name))
    return [_table(summary, dims, names) for dims, names in alike.items()]


def _table(summary: xr.Dataset, dims: tuple[str, ...], names: Sequence[str]) -> _Table:
    columns = [summary[name].values for name in names]
    labels = [summary[dim].values.tolist() for dim in dims]
    lines = [
        [*map(_cell, entry), *(_cell(column[place]) for column in columns)]
        for place, entry in zip(np.ndindex(*map(len, labels)), product(*labels), strict=True)
    ]
    return _Table([*dims, *names], lines[:_MOST_LINES], max(0, len(lines) - _MOST_LINES))


def _cell(value: Any) -> str:
    return f"{float(value):.4g}" if isinstance(value, float | np.floating) else str(value)
