"""Datasets as JSON and plain numbers: written after the netCDF of a result, and all that is read of it.

HDF5 believes what a file says of itself: on some files of a few kB it never returns. What stands here is read by this
file alone, in one pass, with memory and time that are bounded by the file's own size.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

_MARK = b"\npplvae sha256 "
_DIGEST = hashlib.sha256().digest_size
_NUMBER = 8  # bytes of a length
_TAIL = 2 * _NUMBER + len(_MARK) + _DIGEST  # length of the JSON, length of the numbers, mark, digest of all before
_LONGEST_EMPTY = 1_000_000  # a dimension of an array that holds nothing; those of others are bounded by the file
_DTYPE = re.compile(r"[<|]([biufc]\d+|[mM]8(\[\w+\])?)")


def append(path: Path, groups: Mapping[str, xr.Dataset], about: Mapping[str, Any]) -> None:
    """Add datasets, and what is said about them, to the end of a file, where readers of HDF5 do not look.

    Args:
        path: of the file.
        groups: its datasets by name.
        about: more entries of the JSON.
    """
    numbers: list[bytes] = []
    described = {name: _described(dataset, numbers) for name, dataset in groups.items()}
    head = json.dumps({**about, "groups": described}).encode()
    with path.open("rb+") as file:
        before = file.read()
        file.write(sealed(before, head, b"".join(numbers))[len(before) :])


def sealed(before: bytes, head: bytes, numbers: bytes) -> bytes:
    """A file: what stands before, JSON, numbers, and what says where these are and that nothing has changed."""
    lengths = b"".join(len(piece).to_bytes(_NUMBER, "little") for piece in (head, numbers))
    content = b"".join((before, head, numbers, lengths, _MARK))
    return content + hashlib.sha256(content).digest()


def is_there(path: Path) -> bool:
    """Whether a file ends as `append` has left it."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL, 0))
        return file.read(_TAIL)[2 * _NUMBER : -_DIGEST] == _MARK


def read(path: Path) -> tuple[dict[str, Any], memoryview]:
    """What was said about the datasets of a file for which `is_there`, and the bytes of their numbers.

    Raises:
        ValueError: the file is not as it was written.
    """
    content = memoryview(path.read_bytes())
    tail = bytes(content[-_TAIL:])
    if hashlib.sha256(content[:-_DIGEST]).digest() != tail[-_DIGEST:]:
        raise ValueError("its content is not what was written")
    head, numbers = (int.from_bytes(tail[at : at + _NUMBER], "little") for at in (0, _NUMBER))
    begin = len(content) - _TAIL - numbers - head
    if begin < 0:
        raise ValueError("it is shorter than it says")
    about = json.loads(bytes(content[begin : begin + head]))
    if not isinstance(about, dict):
        raise ValueError("what it says of itself is no JSON object")
    return about, content[begin + head : -_TAIL]


def datasets(about: Mapping[str, Any], numbers: memoryview) -> dict[str, xr.Dataset]:
    """The datasets, from what `read` gave.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: what is said of them cannot be.
    """
    found = {}
    for name, described in about["groups"].items():
        variables: dict[str, Any] = {}
        for each in described["variables"]:
            values, numbers = _values(each, numbers)
            variables[each["name"]] = (tuple(map(str, each["dims"])), values, dict(each["attrs"]))
        dataset = xr.Dataset(variables, attrs=dict(described["attrs"]))
        found[name] = dataset.set_coords([each["name"] for each in described["variables"] if each["coordinate"]])
    if len(numbers):
        raise ValueError("it holds numbers of which it says nothing")
    return found


def _described(dataset: xr.Dataset, numbers: list[bytes]) -> dict[str, Any]:
    """A dataset as JSON; its numbers are added to the list."""
    variables = []
    for name, variable in dataset.variables.items():
        values = _plain(np.asarray(variable.values))
        described: dict[str, Any] = {"name": str(name), "dims": list(map(str, variable.dims)), "shape": values.shape}
        if values.dtype.kind in "UO":
            missing = _missing(values)
            pairs = zip(values.flatten().tolist(), missing.flatten().tolist(), strict=True)
            described["text"] = [None if gone else str(value) for value, gone in pairs]
        else:
            little = np.ascontiguousarray(values, values.dtype.newbyteorder("<"))
            described["dtype"] = little.dtype.str
            numbers.append(little.tobytes())
        variables.append(described | {"attrs": _entries(variable.attrs), "coordinate": name in dataset.coords})
    return {"attrs": _entries(dataset.attrs), "variables": variables}


def _values(described: Mapping[str, Any], numbers: memoryview) -> tuple[np.ndarray, memoryview]:
    """The array of a variable, and the bytes after it; nothing is larger than what the file holds."""
    shape = described["shape"]
    if not all(isinstance(size, int) and size >= 0 for size in shape):
        raise ValueError(f"a shape of {shape}")
    if math.prod(shape) == 0 and max(shape) > _LONGEST_EMPTY:
        raise ValueError(f"a shape of {shape}, without numbers")
    if "text" in described:
        return _text(described["text"]).reshape(shape), numbers
    name = described["dtype"]
    if not _DTYPE.fullmatch(name):
        raise ValueError(f"numbers of dtype {name}")
    dtype = np.dtype(name)
    size = math.prod(shape) * dtype.itemsize
    if size > len(numbers):
        raise ValueError(f"{size} bytes of numbers for a shape of {shape}, where it has {len(numbers)}")
    values = np.frombuffer(numbers[:size], dtype).reshape(shape).astype(dtype.newbyteorder("="))
    return values, numbers[size:]


def _text(values: Sequence[str | None]) -> np.ndarray:
    if not all(value is None or isinstance(value, str) for value in values):
        raise TypeError("text that is none")
    # A fixed width would take the longest text's for each.
    found = np.empty(len(values), object)
    found[:] = values
    return found


def _plain(values: np.ndarray) -> np.ndarray:
    """Python's numbers as NumPy's; text, and what is missing of it, stays."""
    if values.dtype != object or any(isinstance(value, str) for value in values.flat) or not values.size:
        return values
    return values if _missing(values).any() else np.asarray(values.tolist())


def _missing(values: np.ndarray) -> np.ndarray:
    return pd.isnull(values) if values.dtype == object else np.zeros(values.shape, bool)


def _entries(attributes: Mapping[Any, Any]) -> dict[str, Any]:
    """Attributes as JSON has them."""
    return {
        str(name): value.tolist() if isinstance(value, np.generic | np.ndarray) else value
        for name, value in attributes.items()
    }
