"""The summary of a result, as tables for a terminal and as nested values for JSON."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import xarray as xr
from rich.box import SIMPLE_HEAD
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from pplvae.errors import printable
from pplvae.results.base import Result

_HEADS = {"stderr": "±", "mc_stderr": "± MC", "quantiles": "q "}  # of columns


def nested(summary: xr.Dataset) -> dict[str, Any]:
    """The values of a summary by name, then by the labels of each of its dimensions."""
    return {str(name): _by_label(summary[name].values, _labels(summary, name)) for name in summary.data_vars}


def found_in(result: Result) -> dict[str, Any]:
    """What is told of a result in JSON: `kind`, `settings`, `summary` (see `nested`) and `warnings`."""
    about = {"kind": result.kind, "settings": dict(result.settings)}
    return about | {"summary": nested(result.summary()), "warnings": list(result.warnings)}


def tables_of(result: Result, *, more: Iterable[str] = (), last: Iterable[str] = ()) -> Iterator[RenderableType]:
    """A result on a terminal: its summary as tables, a table for each part and dimension, then sentences.

    Args:
        result: any.
        more: sentences before the warnings.
        last: sentences after them.
    """
    summary = result.summary()
    parts = [str(part) for part in summary["part"].values] if "part" in summary.dims else [None]
    for part in parts:
        one = summary if part is None else summary.sel(part=part)
        for dimension in dict.fromkeys(one[name].dims[0] for name in one.data_vars if one[name].dims):
            yield _table(one, dimension, part)
        yield from _alone(one, part)
    yield from (Text(printable(sentence)) for sentence in more)
    yield from (Text(printable(warning), style="yellow") for warning in result.warnings)
    yield from (Text(printable(sentence), style="bold") for sentence in last)


def one_line(text: str) -> str:
    """A text from outside that stays in its line."""
    return printable(text).replace("\n", "\\n")


def rows_as_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> Table:
    """Texts in columns."""
    table = Table(*columns, box=None, pad_edge=False)
    for row in rows:
        table.add_row(*map(Text, row))
    return table


def figure(value: Any) -> str:
    """A number as a table shows it: three decimals, as nats have, or its size where it is tiny."""
    if isinstance(value, float | np.floating):
        return f"{value:.1e}" if 0 < abs(value) < 5e-4 else f"{value:.3f}"
    return str(value)


def _table(summary: xr.Dataset, dimension: Any, part: str | None) -> Table:
    """All that is over one dimension, a line for each of its labels; a further dimension is laid out in columns."""
    columns: dict[str, Any] = {}
    for name in summary.data_vars:
        array = summary[name]
        if array.dims == (dimension,):
            columns[str(name)] = array.values
        elif array.dims[:1] == (dimension,) and array.ndim == 2:
            labels = _labels(summary, name)[1]
            columns |= {_HEADS.get(str(name), f"{name} ") + label: array.values[:, i] for i, label in enumerate(labels)}
    cells = {name: [one_line(figure(value)) for value in values] for name, values in columns.items()}
    labels = [one_line(str(label)) for label in summary[dimension].values]
    table = Table(title=part, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    # Heads may be broken, values not: a voice that has no room for them says the text instead.
    table.add_column(str(dimension), style="bold", min_width=max(map(len, labels), default=0))
    for name, texts in cells.items():
        head = _HEADS.get(name, name.replace("_", " "))
        table.add_column(head, justify="right", min_width=max(map(len, texts), default=0))
    for line in zip(labels, *cells.values(), strict=True):
        table.add_row(*map(Text, line))
    return table


def _alone(summary: xr.Dataset, part: str | None) -> Iterator[Text]:
    """Single values, in one line."""
    found = {str(name): figure(summary[name].values[()]) for name in summary.data_vars if not summary[name].dims}
    said = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in found.items() if value)
    if said:
        yield Text(printable(f"{part}: {said}" if part else said))


def _labels(summary: xr.Dataset, name: Any) -> list[list[str]]:
    array = summary[name]
    sizes = zip(array.dims, array.shape, strict=True)
    return [
        [str(label) for label in (summary[dim].values if dim in summary.coords else range(size))] for dim, size in sizes
    ]


def _by_label(values: Any, labels: list[list[str]]) -> Any:
    if not labels:
        return values.item()
    return {label: _by_label(values[i], labels[1:]) for i, label in enumerate(labels[0])}
