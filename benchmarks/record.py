"""What a run writes and what the next one compares itself with: one line per figure, as JSON."""

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.measure import Quartiles


@dataclass(frozen=True)
class Line:
    """One competitor on one piece of work.

    Attributes:
        section: such as "training".
        workload: such as "small".
        what: the competitor, or the size on a curve.
        value: quartiles over rounds, in `unit`; None for what was not at hand.
        unit: of `value`.
        ratio: quartiles of the ratio to the competitor `to`, within a round.
        to: whose time the ratio is to.
        short: nats per row below the reference; never clipped.
        short_stderr: its Monte Carlo standard error.
        note: anything that a reader of the figure must know.
    """

    section: str
    workload: str
    what: str
    value: Quartiles | None = None
    unit: str = ""
    ratio: Quartiles | None = None
    to: str = ""
    short: float | None = None
    short_stderr: float | None = None
    note: str = ""

    @property
    def key(self) -> tuple[str, str, str, str]:
        """The same figure in another run has the same key."""
        return self.section, self.workload, self.what, self.unit


class Record:
    """Lines of this run and of earlier ones, kept in a JSON file.

    A line that this run does not measure anew stays in the file, with the date it was measured on.

    Args:
        path: of the file.
        label: settings that must be equal for two lines to be comparable.
        machine: facts about the machine, as JSON.
    """

    def __init__(self, path: Path, label: str, machine: dict[str, Any]) -> None:
        self._path, self._label, self._machine = path, label, machine
        known = json.loads(path.read_text())["lines"] if path.exists() else []
        self._before = {_key_of(line): line for line in known}
        self._now: dict[tuple[str, ...], dict[str, Any]] = {}

    def add(self, lines: Iterable[Line]) -> None:
        """Take up lines, and write the file, so that an interrupted run keeps what it has measured."""
        when = datetime.now(UTC).isoformat(timespec="seconds")
        for line in lines:
            entry = asdict(line) | {"settings": self._label, "measured": when, "machine": self._machine}
            self._now[_key_of(entry)] = entry
        self._path.parent.mkdir(parents=True, exist_ok=True)
        content = {"lines": list((self._before | self._now).values())}
        self._path.write_text(json.dumps(content, indent=1) + "\n")

    def last_time(self, line: Line) -> str:
        """The same figure in the run before: the ratio if it is one, since ratios bear a change of machine better."""
        before = self._before.get((*line.key, self._label))
        if before is None or before["value"] is None:
            return ""
        if before["ratio"] is not None and before["to"] not in ("", line.what):
            return f"x {before['ratio'][1]:.3g}"
        return f"{before['value'][1]:.4g} {before['unit']}"


def _key_of(entry: dict[str, Any]) -> tuple[str, ...]:
    return entry["section"], entry["workload"], entry["what"], entry["unit"], entry["settings"]
