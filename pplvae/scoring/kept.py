"""Rows that have been measured, kept in a folder chunk by chunk, so that a call that was interrupted can go on.

The folder is a zarr hierarchy: a group for each part, in it one for each chunk, named by the place of its first row.
"""

import hashlib
import json
import shutil
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pplvae._version import __version__
from pplvae.data import Rows
from pplvae.errors import PplvaeWarning, StoreError
from pplvae.holding import Held, holding
from pplvae.isolate import unwarned
from pplvae.netcdf import with_slashes, without_slashes
from pplvae.programs.keys import row_keys
from pplvae.scoring.tables import Columns, bare
from pplvae.store import check_kinds, read_json, sweep, unwritable, write_folder_whole, write_json, write_text

_HEAD, _PAIR = "asked.json", "pair.json"
_ZARR = 2  # of the formats, that in which texts of one length are no extension
# What programs with other parameters say differs by more, what processors say by less.
_ALIKE = 1e-5
_TOLD_BY = 8  # rows


@contextmanager
def keeping(store: str | Path | None, asked: Mapping[str, Any], parts: Mapping[str, Rows]) -> Iterator["Kept"]:
    """Open a folder of measured rows, or make it.

    Args:
        store: the folder; None for none.
        asked: all that their numbers depend on besides programs and rows; with `chunk_size`.
        parts: the rows by name.

    Raises:
        StoreError: it holds something else, or rows that were asked for otherwise; another process writes to it; it
            cannot be written.
    """
    if store is None:
        yield Nowhere(asked)
        return
    folder, asked = Path(store), _as_json({**asked, **_of_this_machine(parts)})
    if folder.is_dir() and not (folder / _HEAD).exists() and any(p.name[:1] != "." for p in folder.iterdir()):
        raise StoreError(
            f"{str(folder)!r} holds other things than measured rows. Choose a folder that is new or empty."
        )
    with holding(folder) as held:
        for part in folder.glob("part-*"):
            sweep(part)
        if (folder / _HEAD).exists():
            asked = _as_it_was_cut(asked, read_json(folder / _HEAD))
            _check_alike(folder, read_json(folder / _HEAD), asked)
        else:
            _make_group(folder)
            write_json(folder / _HEAD, {"asked": asked})
        yield InFolder(held, asked)


class Kept(ABC):
    """What has been measured.

    Attributes:
        asked: all that its numbers depend on besides the programs.
    """

    asked: Mapping[str, Any]

    @abstractmethod
    def check_pair(self, part: int, says: Callable[[], np.ndarray]) -> None:
        """Compare what the programs say of some rows with what they said when the folder was begun.

        Args:
            part: its place among the parts.
            says: numbers that the parameters of both programs go into.

        Raises:
            StoreError: they say something else.
        """

    @abstractmethod
    def columns(self, part: int, start: int, measure: Callable[[], Columns]) -> Columns:
        """The columns of a chunk, measured if they are not there.

        Raises:
            StoreError: they cannot be written.
        """

    @abstractmethod
    def found(self, name: str, find: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """What is found of all rows together, likewise."""


class Nowhere(Kept):
    """Nothing is kept.

    Args:
        asked: all that its numbers depend on besides the programs.
    """

    def __init__(self, asked: Mapping[str, Any]) -> None:
        self.asked = asked

    def check_pair(self, part: int, says: Callable[[], np.ndarray]) -> None:
        """See `Kept`."""

    def columns(self, part: int, start: int, measure: Callable[[], Columns]) -> Columns:
        """See `Kept`."""
        return measure()

    def found(self, name: str, find: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """See `Kept`."""
        return find()


class InFolder(Kept):
    """A folder of chunks.

    Args:
        held: the folder.
        asked: all that its numbers depend on besides the programs.
    """

    def __init__(self, held: Held, asked: Mapping[str, Any]) -> None:
        self._held, self.folder, self.asked = held, held.folder, asked

    def is_there(self, part: int, start: int) -> bool:
        """Whether a chunk has been written."""
        return (self.folder / _part(part) / _chunk(start)).exists()

    def pieces(self) -> list[tuple[int, int]]:
        """The part, and the place of the first row, of every chunk that is there."""
        paths = self.folder.glob("part-*/[0-9]*")
        return [(int(path.parent.name.removeprefix("part-")), int(path.name)) for path in paths]

    def check_pair(self, part: int, says: Callable[[], np.ndarray]) -> None:
        """See `Kept`."""
        path, now = self.folder / _part(part) / _PAIR, says()
        if not path.exists():
            self._held.check()
            _make_group(path.parent)
            write_json(path, {"says": now.tolist()})
            return
        content = read_json(path)
        check_kinds(path, content, {"says": list})
        then = np.array(content["says"], dtype=float)
        if then.shape != now.shape or not np.allclose(then, now, rtol=_ALIKE, atol=_ALIKE, equal_nan=True):
            raise StoreError(
                f"{str(self.folder)!r} holds rows that were measured with other programs, or other parameters: going "
                "on would equal neither. Pass the pair as it was, or remove that folder to start anew."
            )

    def columns(self, part: int, start: int, measure: Callable[[], Columns]) -> Columns:
        """See `Kept`."""
        found = self._read(part, start)
        if found is None:
            found = measure()
            self._write(part, start, found)
        return found

    def found(self, name: str, find: Callable[[], Mapping[str, Any]]) -> Mapping[str, Any]:
        """See `Kept`."""
        path = self.folder / f"{name}.json"
        if path.exists():
            content = read_json(path)
            check_kinds(path, content, {"found": dict})
            return content["found"]
        found = find()
        self._held.check()
        write_json(path, {"found": dict(found)})
        return found

    def _read(self, part: int, start: int) -> Columns | None:
        """The columns of a chunk; None if they are not there, or damaged."""
        path = self.folder / _part(part) / _chunk(start)
        if not path.exists():
            return None
        try:
            with unwarned(), xr.open_dataset(path, engine="zarr", **_AS_IT_IS) as file:
                found = file.load()
            digest = found.attrs.pop("digest", "")
            if digest == self._digest(part, start, found):
                return {str(name): each.values for name, each in with_slashes(found).variables.items()}
        except Exception:  # whatever a library makes of bytes that it has not written
            pass
        warnings.warn(f"{str(path)!r} is damaged: its rows are measured again.", PplvaeWarning, stacklevel=2)
        return None

    def _write(self, part: int, start: int, columns: Columns) -> None:
        self._held.check()
        plain = without_slashes(bare(columns))
        sealed = plain.assign_attrs(digest=self._digest(part, start, plain))

        def write(folder: Path) -> None:
            with unwarned():
                sealed.to_zarr(folder, mode="w", zarr_format=_ZARR, consolidated=False)

        write_folder_whole(self.folder / _part(part) / _chunk(start), write)

    def _digest(self, part: int, start: int, columns: xr.Dataset) -> str:
        """Of the numbers, and of the place that they are the numbers of: a chunk from elsewhere does not pass."""
        found = hashlib.blake2b(json.dumps([self.asked, part, start]).encode(), digest_size=12)
        for name in sorted(map(str, columns.variables)):
            values = columns[name].values
            found.update(repr([name, columns[name].dims, values.shape]).encode())
            found.update(repr(values.tolist()).encode() if values.dtype.kind == "U" else values.tobytes())
        return found.hexdigest()


_AS_IT_IS: dict[str, Any] = {"consolidated": False, "mask_and_scale": False, "decode_times": False}


def _as_it_was_cut(asked: Mapping[str, Any], head: Mapping[str, Any]) -> dict[str, Any]:
    """What is asked for, in chunks as they were begun, where only the memory that there was has made them so."""
    theirs = head.get("asked", {})
    same = "rows_at_most" in asked and theirs.get("rows_at_most") == asked["rows_at_most"]
    return {**asked, "chunk_size": theirs["chunk_size"]} if same and "chunk_size" in theirs else dict(asked)


def some_of(rows: int) -> Tensor:
    """Positions of the rows of which programs say what they are told by."""
    return torch.linspace(0, rows - 1, min(rows, _TOLD_BY)).long()


def rows_there(folder: Path) -> tuple[int, int]:
    """How many rows of how many a folder holds; none of none where it is not one of measured rows."""
    if not (folder / _HEAD).exists():
        return 0, 0
    asked = read_json(folder / _HEAD).get("asked", {})
    sizes, size = [count for count, _ in asked["rows"].values()], asked["chunk_size"]
    there = 0
    for part, count in enumerate(sizes):
        starts = [int(path.name) for path in (folder / _part(part)).glob("[0-9]*")]
        there += sum(min(size, count - start) for start in starts)
    return there, sum(sizes)


def remove(folder: Path) -> None:
    """Remove measured rows that are no longer needed; a folder of something else stays.

    Raises:
        StoreError: it cannot be removed.
    """
    if not (folder / _HEAD).exists():
        return
    try:
        shutil.rmtree(folder)
    except OSError as error:
        raise unwritable(folder, error) from error


def _part(place: int) -> str:
    return f"part-{place}"  # its name may be any text


def _chunk(start: int) -> str:
    return f"{start:010d}"


def _of_this_machine(parts: Mapping[str, Rows]) -> dict[str, Any]:
    """What the last digits depend on, and which rows they are the digits of."""

    def content(part: Rows) -> list[int | str]:
        keys = row_keys(part.tensors).cpu().numpy()
        return [len(keys), hashlib.blake2b(keys.tobytes(), digest_size=12).hexdigest()]

    return {
        "pplvae": __version__,
        "torch": str(torch.__version__),
        "device": next(iter(parts.values())).values.device.type,
        "rows": {name: content(part) for name, part in parts.items()},
    }


def _as_json(content: Mapping[str, Any]) -> dict[str, Any]:
    return json.loads(json.dumps(dict(content)))


def _make_group(folder: Path) -> None:
    write_text(folder / ".zgroup", json.dumps({"zarr_format": _ZARR}))


def _check_alike(folder: Path, content: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    check_kinds(folder / _HEAD, content, {"asked": dict})
    theirs = content["asked"]
    odd = [name for name in {**theirs, **asked} if theirs.get(name) != asked.get(name)]
    if odd:
        differences = ", ".join(
            "the rows were others" if name == "rows" else f"{name} was {theirs.get(name)!r} and is {asked.get(name)!r}"
            for name in odd
        )
        raise StoreError(
            f"{str(folder)!r} holds rows that were asked for otherwise, so going on would equal neither: "
            f"{differences}. Ask for the same, or remove that folder to start anew."
        )
