"""Arrays that NumPy and SciPy have saved: .npy and .npz. Nothing in a file is ever executed."""

import math
import re
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from pplvae.data.limits import ARRAYS
from pplvae.data.sparse import check_places
from pplvae.data.table import LABELS, Table
from pplvae.errors import DataError, UnknownNameError

_CURE = "save its arrays by `numpy.savez`, which does not pack"
_ARRAY = b"\x93NUMPY"  # how a .npy file begins
_LARGE = 2**26  # bytes
_RESTORE = "Restore it from a copy."
_PART = re.compile(r"([xy])_?(.+)", re.IGNORECASE)
_PARTS = {
    **dict.fromkeys(("train", "training", "tr"), "train"),
    **dict.fromkeys(("valid", "val", "validation", "dev", "va"), "valid"),
    **dict.fromkeys(("test", "testing", "te"), "test"),
}


def read_npy(path: Path, labels: str | None) -> Table:
    """One array.

    Raises:
        DataError: damaged, something else, or asked for labels.
    """
    if labels is not None:
        raise DataError(
            f"A .npy file holds one array and no labels, so `labels={labels!r}` finds none in {path.name!r}."
        )
    loaded = _loaded(path)
    if not isinstance(loaded, np.ndarray):
        raise DataError(f"{str(path)!r} is an archive of arrays ({', '.join(loaded)}). Rename it to .npz.")
    return Table({"all": loaded})


def read_npz(path: Path, labels: str | None) -> Table:
    """Arrays by name: x and y; x_train, x_valid (x_val, x_dev), x_test and their y, or train, ...; or a sparse matrix.

    Raises:
        DataError: damaged, or not clear which array the rows are.
        UnknownNameError: labels that it does not have.
    """
    arrays = _loaded(path)
    if isinstance(arrays, np.ndarray):
        raise DataError(f"{str(path)!r} is one array. Rename it to .npy.")
    if {"format", "shape", "data"} <= arrays.keys():
        arrays = {"x": _sparse(path)}
    return table_of_arrays(arrays, labels, path)


def table_of_arrays(arrays: dict[str, np.ndarray], labels: str | None, path: Path) -> Table:
    """Rows and labels among arrays that have names.

    Args:
        arrays: by name.
        labels: name of the labels, or None.
        path: of the file or store that they come from.
    """
    parts = {kind: _in_parts(arrays, kind, path) for kind in "xy"}
    if "train" in parts["x"]:
        return _of_parts(arrays, parts["x"], parts["y"], labels, path)
    key = _label_key(labels, list(arrays), path)
    candidates = [name for name in arrays if name != key]
    rows = "x" if "x" in candidates else candidates[0] if len(candidates) == 1 else None
    if rows is None:
        raise DataError(
            f"{path.name!r} holds the arrays {sorted(arrays)}; which one are the rows? Name it `x` (labels `y`), or "
            "`x_train`, `x_valid`, `x_test`."
        )
    return Table({"all": arrays[rows]}, {"all": arrays[key]} if key else {})


def _in_parts(arrays: dict[str, np.ndarray], kind: str, path: Path) -> dict[str, str]:
    """Names of the arrays of a kind, x or y, by part."""
    found: dict[str, str] = {}
    for name in arrays:
        match = _PART.fullmatch(name)
        part = _PARTS.get(match[2].lower()) if match and match[1].lower() == kind else None
        part = _PARTS.get(name.lower()) if kind == "x" and part is None else part
        if part in found:
            raise DataError(
                f"{path.name!r} holds {found[part]!r} and {name!r}, which are both its {part} part. Take one out."
            )
        if part is not None:
            found[part] = name
    return found


def _of_parts(
    arrays: dict[str, np.ndarray], x: dict[str, str], y: dict[str, str], labels: str | None, path: Path
) -> Table:
    if labels is not None and (labels != "y" or not y):
        raise UnknownNameError(f"labels of {path.name!r}", labels, ["y"] if y else ["(it has no labels)"])
    left = [name for name in arrays if name not in {*x.values(), *y.values()}]
    unclear = [name for name in left if _PART.fullmatch(name) and name[0] in "xX"]
    if unclear:
        raise DataError(
            f"{path.name!r} holds {unclear[0]!r} beside {', '.join(map(repr, x.values()))}; which part is it? "
            "Rename it to `x_train`, `x_valid` or `x_test`, or take it out."
        )
    widths = {name: math.prod(arrays[name].shape[1:]) for name in x.values()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"{name} has {width}" for name, width in widths.items())
        raise DataError(f"The parts in {path.name!r} must have the same number of columns, but {found}.")
    return Table(
        {part: arrays[x[part]] for part in ("train", "valid", "test") if part in x},
        {part: arrays[name] for part, name in y.items() if part in x},
        found=(f"without {', '.join(map(repr, left))}",) if left else (),
    )


def _is_large(path: Path, file: BinaryIO) -> bool:
    """Whether a file is one array that is better looked at through the file than held."""
    is_array = file.read(len(_ARRAY)) == _ARRAY
    file.seek(0)
    return is_array and path.stat().st_size >= _LARGE


def _mapped(path: Path) -> np.ndarray:
    return np.load(path, mmap_mode="r", allow_pickle=False)


def _loaded(path: Path) -> np.ndarray | dict[str, np.ndarray]:
    """The array, or all arrays by name."""
    try:
        with path.open("rb") as file:
            _check_sizes(path, file)
            loaded = _mapped(path) if _is_large(path, file) else np.load(file, allow_pickle=False)
            if not isinstance(loaded, np.ndarray):
                loaded = {name: loaded[name] for name in loaded.files}
            _check_not_hollow(path, [loaded] if isinstance(loaded, np.ndarray) else loaded.values())
            return loaded
    except DataError:
        raise
    except Exception as error:  # bytes from outside make NumPy, zip and zlib raise whatever there is
        pickled = "pickle" in str(error)
        reason = "it holds Python objects, which are never loaded" if pickled else "it is damaged or breaks off"
        cure = "Save plain numbers with `numpy.save` or `numpy.savez`" if pickled else _RESTORE[:-1]
        raise DataError(f"{str(path)!r} cannot be read as {path.suffix}: {reason}. {cure}.") from error


def _check_sizes(path: Path, file: Any) -> None:
    """Look at what the members of an archive take unpacked, before there is memory for them."""
    if file.read(2) == b"PK":
        with zipfile.ZipFile(file) as archive:
            ARRAYS.check(path, sum(member.file_size for member in archive.infolist()), _CURE)
    file.seek(0)


def _check_not_hollow(path: Path, arrays: Iterable[np.ndarray]) -> None:
    """Refuse arrays that a header can make as long as it likes, since they hold nothing."""
    for array in arrays:
        if array.nbytes == 0 and max(array.shape, default=0) > 0:
            raise DataError(
                f"{str(path)!r} holds an array of shape {array.shape} and dtype {array.dtype}, which has no numbers in "
                "it. Take it out, or save it anew."
            )


def _sparse(path: Path) -> np.ndarray:
    from scipy import sparse  # imported late: SciPy takes a while

    try:
        matrix = sparse.load_npz(path)
        ARRAYS.check(path, math.prod(matrix.shape) * matrix.dtype.itemsize, _CURE)
        if hasattr(matrix, "indptr"):
            check_places(matrix)
        return matrix.toarray()
    except DataError:
        raise
    except Exception as error:  # likewise
        raise DataError(f"{str(path)!r} cannot be read as a sparse matrix: it is damaged. {_RESTORE}") from error


def _label_key(labels: str | None, names: list[str], path: Path) -> str | None:
    if labels is None:
        return next((name for name in LABELS if name in names and len(names) > 1), None)
    if labels not in names:
        raise UnknownNameError(f"labels of {path.name!r}", labels, names)
    return labels
