"""A dataset as tables for a page: one for all variables over the same dimensions."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from pplvae.errors import printable


class Table(NamedTuple):
    """Text, cell by cell.

    Attributes:
        head: names of the columns.
        labels: how many of them, the first, say which line it is.
        lines: cells, line by line.
        more: how many lines were left out.
    """

    head: list[str]
    labels: int
    lines: list[list[str]]
    more: int


def tables_of(summary: xr.Dataset, most: int) -> list[Table]:
    """All variables of a dataset.

    Args:
        summary: of a result. What has several numbers on a line of another table, such as quantiles, stands there.
        most: lines of a table.
    """
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, variable in summary.data_vars.items():
        alike.setdefault(tuple(map(str, variable.dims)), []).append(str(name))
    wide = {dims for dims in alike if dims and dims[:-1] in alike and summary[dims[-1]].dtype.kind == "f"}
    return [
        _table(summary, dims, names, [name for more in wide if more[:-1] == dims for name in alike[more]], most)
        for dims, names in alike.items()
        if dims not in wide
    ]


def _table(summary: xr.Dataset, dims: tuple[str, ...], names: list[str], wide: list[str], most: int) -> Table:
    columns = {name: summary[name].values for name in names}
    for name in wide:
        last = summary[name].dims[-1]
        columns |= {f"{name} {at:g}": summary[name].sel({last: at}).values for at in summary[last].values.tolist()}
    labels = [summary[dim].values.tolist() for dim in dims]
    lines = [
        [*map(_cell, entry), *(_cell(column[place]) for column in columns.values())]
        for place, entry in zip(np.ndindex(*map(len, labels)), product(*labels), strict=True)
    ]
    return Table([*dims, *columns], len(dims), lines[:most], max(0, len(lines) - most))


def _cell(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{float(value):.4g}"
    return printable(str(value)).replace("\n", "\\n")
