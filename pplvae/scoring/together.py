"""Rows that several ranks measure into one folder: each takes chunks that nobody is at, until all are there."""

import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from pplvae.data import Rows
from pplvae.errors import RanksError, StoreError
from pplvae.holding import Held
from pplvae.leases import Leases
from pplvae.programs.keys import row_keys
from pplvae.ranks.group import Ranks
from pplvae.scoring.kept import InFolder, keeping
from pplvae.scoring.tables import Columns

_LEASES = ".leases"
_LOOK, _SEEN_WITHIN, _LEAVE_WITHIN = 0.2, 20.0, 60.0  # seconds
_COMPARED = 16  # rows of a part that every rank looks at

Piece = tuple[int, int]  # the place of a part, and of a chunk's first row in it


@dataclass(frozen=True)
class Work:
    """What there is to do with a part.

    Attributes:
        measure: the chunk that begins at a row.
        finding: of all rows together: under a name, what finds it.
    """

    measure: Callable[[int], Columns]
    finding: Mapping[str, Callable[[], Mapping[str, Any]]] = field(default_factory=dict)


class Together(InFolder):
    """A folder of chunks that several ranks write.

    Args:
        held: the folder.
        asked: all that its numbers depend on besides the programs.
        leases: of this rank.
    """

    def __init__(self, held: Held, asked: Mapping[str, Any], leases: Leases) -> None:
        super().__init__(held, asked)
        self._leases = leases

    def measure_all(self, pieces: Sequence[Piece], open_part: Callable[[int], AbstractContextManager[Work]]) -> None:
        """Measure chunks that nobody is at until all are there, whoever has measured them.

        Args:
            pieces: all of them.
            open_part: makes ready what there is to do with a part.
        """
        missing = list(pieces)
        while missing:
            for part in dict.fromkeys(part for part, _ in missing):
                free = [start for place, start in missing if place == part and self._is_free(part, start)]
                if free:
                    with open_part(part) as work:
                        for name, find in work.finding.items():
                            self._find(name, find)
                        for start in free:
                            self._measure(part, start, work.measure)
            before, missing = len(missing), [piece for piece in missing if not self.is_there(*piece)]
            if missing and len(missing) == before:
                time.sleep(_LOOK)

    def found(self, name: str, find: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """See `Kept`; one rank finds it, the others wait."""
        while not self._is_found(name):
            self._find(name, find)
            time.sleep(0.0 if self._is_found(name) else _LOOK)
        return super().found(name, find)

    def check_whole(self, pieces: Sequence[Piece]) -> None:
        """See that every row is there once: no chunk is missing, and none lies across others.

        Raises:
            StoreError: which one.
        """
        there, asked = sorted(self.pieces()), sorted(pieces)
        odd = [piece for piece in [*there, *asked] if (piece in there) != (piece in asked)]
        if odd or len(set(there)) != len(there):
            part, start = odd[0]
            raise StoreError(
                f"In {str(self.folder)!r} the rows from {start} of part {part} are {_how(odd[0] in there)}: rows would "
                "be counted twice, or not at all. Remove that folder to start anew."
            )

    def _is_free(self, part: int, start: int) -> bool:
        return not self.is_there(part, start) and self._leases.is_free(_name(part, start))

    def _is_found(self, name: str) -> bool:
        return (self.folder / f"{name}.json").exists()

    def _find(self, name: str, find: Callable[[], Mapping[str, Any]]) -> None:
        if self._is_found(name) or not self._leases.take(name):
            return
        try:
            super().found(name, find)
        finally:
            self._leases.end(name)

    def _measure(self, part: int, start: int, measure: Callable[[int], Columns]) -> None:
        name = _name(part, start)
        if self.is_there(part, start) or not self._leases.take(name):
            return
        try:
            if not self.is_there(part, start):  # somebody may have ended it just before
                self._put(part, start, measure(start))
        finally:
            self._leases.end(name)

    def _put(self, part: int, start: int, columns: Columns) -> None:
        try:
            if not self.is_there(part, start):
                self._write(part, start, columns)
        except StoreError:
            if not self.is_there(part, start):  # two have come to the same end at the same moment
                raise


@contextmanager
def keeping_together(
    here: Ranks, store: str | Path | None, asked: Mapping[str, Any], parts: Mapping[str, Rows]
) -> Iterator[Together]:
    """Open a folder of measured rows for all ranks of a job; rank 0 holds it. See `kept.keeping`.

    Without a `store` it is a temporary one, which only ranks of one machine see.

    Raises:
        StoreError: on rank 0, see `kept.keeping`.
        RanksError: the ranks ask for different things, or do not see the same folder.
    """
    here.check_alike({**asked, "rows": {name: _look(part) for name, part in parts.items()}})
    temporary = store is None
    folder = here.of_first(Path(store or (tempfile.mkdtemp(prefix="pplvae-") if here.is_first else "")))
    try:
        with here.first_holds(lambda: keeping(folder, asked, parts)) as kept:
            if isinstance(kept, InFolder):  # rank 0, which nobody has joined yet: these are of ranks that are gone
                shutil.rmtree(folder / _LEASES, ignore_errors=True)
                (folder / _LEASES).mkdir()
            agreed = here.of_first(kept.asked if isinstance(kept, InFolder) else {})
            _check_seen(here, folder)
            with Leases(folder / _LEASES) as leases:
                yield Together(Held(folder), agreed, leases)
            _say_left(folder, here.rank)
            if temporary and here.is_first:
                wait_until_left(folder, here.size)
    finally:
        if temporary and here.is_first:
            shutil.rmtree(folder, ignore_errors=True)


def wait_until_left(folder: Path, ranks: int) -> None:
    """Wait for ranks that still read a folder, but not for long: one that is stuck does not hold the rest."""
    end = time.monotonic() + _LEAVE_WITHIN
    while time.monotonic() < end and any(not _left(folder, rank).exists() for rank in range(ranks)):
        time.sleep(_LOOK)


def _say_left(folder: Path, rank: int) -> None:
    with suppress(OSError):  # it is gone, and nobody waits
        _left(folder, rank).touch()


def _left(folder: Path, rank: int) -> Path:
    return folder / _LEASES / f"left-{rank}"


def _check_seen(here: Ranks, folder: Path) -> None:
    end = time.monotonic() + _SEEN_WITHIN  # network file systems take their time
    while not (folder / _LEASES).exists() and time.monotonic() < end:
        time.sleep(_LOOK)
    seen = here.of_all((folder / _LEASES).exists())
    if not all(seen):
        raise RanksError(
            f"Rank {seen.index(False)} does not see the folder {str(folder)!r} that rank 0 has made. Ranks of several "
            "machines write into one `store`: name one on a file system that all of them share."
        )


def _look(part: Rows) -> list[Any]:
    some = torch.linspace(0, len(part) - 1, min(len(part), _COMPARED)).long()
    keys = row_keys([tensor[some.to(tensor.device)] for tensor in part.tensors])
    return [len(part), keys.tolist()]


def _name(part: int, start: int) -> str:
    return f"part-{part}-{start:010d}"


def _how(is_there: bool) -> str:
    return "there, but no chunk of this call begins there" if is_there else "missing"
