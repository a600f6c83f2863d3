"""Files that somebody has damaged or made up, of every format that is read: how many are refused in words."""

import random
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from benchmarks import machine
from benchmarks.hostile_bombs import bombs
from benchmarks.hostile_files import Format, formats
from benchmarks.hostile_reading import Limits, Outcome, outcomes
from benchmarks.table import console
from benchmarks.truth import as_markdown, written

PAGE = Path(__file__).parent.parent / "docs" / "hostile_files.md"
_WORDS = {"refused": "refused in words", "raw": "raw exception"}
_SEED = 20261128
_EACH = 2000  # mutations of a format
_LIMITS = Limits(seconds=20.0)  # of bombs; mutations have 5 s
_BOMBS_HEAD = ("kind", "file", "outcome", "seconds", "MiB of memory")
_HEAD = ("format", "mutations", "read", "refused in words", "raw exceptions", "killed", "slowest, s")


def main(*, quick: bool, threads: int) -> None:
    """Try, print, and unless it is quick write the page."""
    machine.pin(threads)
    began, lines, total = time.process_time(), [], 0
    with tempfile.TemporaryDirectory() as name:
        for called, some in formats(Path(name)).items():
            found = tried(called, some, Path(name), (_EACH // 20 if quick else _EACH) // some.slow)
            lines.append(_line(called, some, found))
            total += len(found)
            _tell(called, found)
        blown = _bombs(Path(name) / "read")
    tables = {"mutations": as_markdown(_HEAD, lines), "bombs": as_markdown(_BOMBS_HEAD, blown)}
    for table in tables.values():
        console.print(table, soft_wrap=True, markup=False)
    console.print(f"{total} mutations, {time.process_time() - began:.0f} s of processor time")
    if not quick:
        PAGE.write_text(written(PAGE.read_text(), tables))


def tried(called: str, some: Format, folder: Path, count: int) -> list[Outcome]:
    """What comes of so many mutations of a format, each by its own seed.

    Args:
        called: the format's name.
        some: the format.
        folder: to write into.
        count: of mutations.
    """
    path = folder / "read" / some.file
    path.parent.mkdir(exist_ok=True)
    for whole in some.wholes:
        path.write_bytes(whole)
    random_numbers = random.Random(f"{_SEED} {called}")
    contents = []
    for i in range(count):
        whole = some.wholes[i % len(some.wholes)]
        contents.append(some.change(whole, random_numbers.choice(some.wholes), random_numbers))
    return outcomes(contents, some.read, path, some.limits)


def _bombs(folder: Path) -> list[Sequence[str]]:
    lines = []
    for called, path, read in bombs(folder):
        (found,) = outcomes([None], read, path, _LIMITS)
        outcome = _WORDS.get(found.kind, found.kind)
        lines.append(
            (called, path.name.partition(".")[2], outcome, f"{found.seconds:.1f}", f"{found.peak / 2**20:.0f}")
        )
        if found.kind != "refused":
            _tell(f"{called}, {path.name}", [found])
    return lines


def _line(called: str, some: Format, found: Sequence[Outcome]) -> Sequence[str]:
    counts = Counter(outcome.kind for outcome in found)
    numbers = [str(counts[kind]) for kind in ("read", "refused", "raw", "killed")]
    return (called, str(len(found)), *numbers, f"{max(outcome.seconds for outcome in found):.2f}")


def _tell(called: str, found: Sequence[Outcome]) -> None:
    """What was not as it should be, the commonest first."""
    said = Counter(f"{o.kind}: {o.said}" for o in found if o.kind in ("raw", "killed"))
    console.print(f"{called}: {len(found)}, {dict(Counter(o.kind for o in found))}", soft_wrap=True)
    for words, count in said.most_common(12):
        console.print(f"    {count} × {words}", soft_wrap=True, markup=False)
