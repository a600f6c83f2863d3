"""Lines as tables for people."""

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from benchmarks.measure import Quartiles
from benchmarks.record import Line, Record

console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def show(lines: Sequence[Line], record: Record) -> None:
    """Print the lines of one section and workload; columns that no line fills are left out."""
    first = lines[0]
    table = Table(title=f"{first.section}: {first.workload}", title_justify="left")
    to = next((line.to for line in lines if line.to), "")
    rows = [
        {
            "": line.what,
            "median": "" if line.value is None else f"{line.value.median:.4g} {line.unit}",
            "quartiles": "" if line.value is None else _range(line.value),
            f"ratio to {to}": "" if line.ratio is None else f"{line.ratio.median:.3g} {_range(line.ratio)}".rstrip(),
            "nats short": _short(line),
            "last time": record.last_time(line),
            "note": line.note,
        }
        for line in lines
    ]
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    for name in columns:
        table.add_column(name, justify="left" if name in ("", "note") else "right")
    for row in rows:
        table.add_row(*(row[name] for name in columns))
    console.print(table)


def _range(values: Quartiles) -> str:
    return f"({values.low:.3g}-{values.high:.3g})" if values.low < values.high else ""


def _short(line: Line) -> str:
    if line.short is None:
        return ""
    return f"{line.short:.4f}" + ("" if line.short_stderr is None else f" ± {line.short_stderr:.4f}")
