"""Arrays from files: .npy, .npz, .csv and .parquet. Nothing in a file is ever executed."""

import csv
import itertools
import math
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pplvae.data.registry import DATA_SETS
from pplvae.data.rows import few
from pplvae.data.table import Table
from pplvae.errors import DataError, UnknownNameError


def read_file(path: Path, labels: str | None) -> Table:
    """Read a data file; empty fields of a .csv are missing values (NaN).

    Args:
        path: ends in .npy, .npz, .csv or .parquet.
        labels: name of the label column (.csv, .parquet) or array (.npz); by default "label", "labels" or "y" if there
            is one. Where an .npz names its parts, their labels are y_train, y_valid, y_test: "y".

    Raises:
        DataError: the file is missing, empty, damaged, holds objects or text, has ragged lines, or parts of different
            numbers of columns.
        UnknownNameError: another kind of file, or labels that it does not have.
    """
    readers = {".npy": _read_npy, ".npz": _read_npz, ".csv": _read_csv, ".parquet": _read_parquet}
    if path.suffix.lower() not in readers:
        raise UnknownNameError("data set or kind of file", path.name, [*DATA_SETS, *("*" + end for end in readers)])
    if not path.exists():
        raise DataError(f"There is no file {str(path)!r} (looked from {str(Path.cwd())!r}).")
    if path.is_dir() or path.stat().st_size == 0:
        raise DataError(
            f"{str(path)!r} is {'a folder' if path.is_dir() else 'empty'}; expected a file with rows in it."
        )
    return readers[path.suffix.lower()](path, labels)


def _read_npy(path: Path, labels: str | None) -> Table:
    if labels is not None:
        raise DataError(
            f"A .npy file holds one array and no labels, so `labels={labels!r}` finds none in {path.name!r}."
        )
    return Table({"all": _load(path)["all"]}, {})


def _read_npz(path: Path, labels: str | None) -> Table:
    arrays = _load(path)
    splits = [part for part in ("train", "valid", "test") if f"x_{part}" in arrays]
    if "train" in splits:
        return _in_parts(arrays, splits, labels, path)
    key = _label_key(labels, list(arrays), path)
    candidates = [name for name in arrays if name != key]
    rows = "x" if "x" in candidates else candidates[0] if len(candidates) == 1 else None
    if rows is None:
        raise DataError(
            f"{path.name!r} holds the arrays {sorted(arrays)}; which one are the rows? Name it `x` (labels `y`), or "
            "`x_train`, `x_valid`, `x_test`."
        )
    return Table({"all": arrays[rows]}, {"all": arrays[key]} if key else {})


def _in_parts(arrays: dict[str, np.ndarray], splits: list[str], labels: str | None, path: Path) -> Table:
    parts = {part: arrays[f"x_{part}"] for part in splits}
    labelled = {part: arrays[f"y_{part}"] for part in splits if f"y_{part}" in arrays}
    if labels is not None and (labels != "y" or not labelled):
        raise UnknownNameError(f"labels of {path.name!r}", labels, ["y"] if labelled else ["(it has no labels)"])
    widths = {part: math.prod(values.shape[1:]) for part, values in parts.items()}
    if len(set(widths.values())) > 1:
        found = ", ".join(f"x_{part} has {width}" for part, width in widths.items())
        raise DataError(f"The parts in {path.name!r} must have the same number of columns, but {found}.")
    return Table(parts, labelled)


def _load(path: Path) -> dict[str, np.ndarray]:
    """All arrays of a file by name; the one of a .npy is called "all"."""
    try:
        with path.open("rb") as file:
            loaded = np.load(file, allow_pickle=False)
            return {"all": loaded} if isinstance(loaded, np.ndarray) else {name: loaded[name] for name in loaded.files}
    except (ValueError, EOFError, OSError, zipfile.BadZipFile) as error:
        raise DataError(
            f"{str(path)!r} cannot be read as {path.suffix}: {error}. It may be truncated, or hold Python objects, "
            "which are never loaded; save plain numbers with `numpy.save` or `numpy.savez`."
        ) from error


def _read_csv(path: Path, labels: str | None) -> Table:
    _check_rectangular(path)
    try:
        first = pd.read_csv(path, header=None, skipinitialspace=True, nrows=1)
        frame = pd.read_csv(path, header=None if _is_data(first) else 0, skipinitialspace=True, **_to_the_nearest())
    except (ValueError, UnicodeDecodeError, pd.errors.ParserError) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table of numbers: {error}.") from error
    return _from_frame(frame, labels, path)


def _to_the_nearest() -> dict[str, Any]:
    """What makes pandas read numbers as the nearest floats; 3.1 does so by itself, and deprecates the option."""
    release = tuple(int(part) for part in pd.__version__.split(".")[:2])
    return {} if release >= (3, 1) else {"float_precision": "round_trip"}


def _read_parquet(path: Path, labels: str | None) -> Table:
    try:
        frame = pd.read_parquet(path)
    except ImportError as error:
        raise DataError("Reading .parquet needs pyarrow: `pip install 'pplvae[data]'`.") from error
    except (ValueError, OSError) as error:
        raise DataError(f"{str(path)!r} cannot be read as parquet: {error}.") from error
    return _from_frame(frame, labels, path)


def _from_frame(frame: pd.DataFrame, labels: str | None, path: Path) -> Table:
    key = _label_key(labels, [str(column) for column in frame.columns], path)
    values = frame.drop(columns=[key]) if key else frame
    if values.empty:
        raise DataError(
            f"{str(path)!r} has {len(values)} rows and {values.shape[1]} columns beside labels: nothing to fit."
        )
    text = [str(column) for column in values.columns if not pd.api.types.is_numeric_dtype(values[column])]
    if text:
        raise DataError(
            f"{str(path)!r} has text in column(s) {', '.join(text[:5])}; the rows must be numbers. Drop or encode "
            "them, or, if one of them is the label, name it: `labels=...`."
        )
    # A column of integers with missing values (parquet) would become Python objects.
    numbers = values.to_numpy(dtype=np.float64, na_value=np.nan)
    headed = not pd.api.types.is_numeric_dtype(frame.columns)
    named = np.array([str(column) for column in values.columns]) if headed else None
    return Table({"all": numbers}, {"all": frame[key].to_numpy()} if key else {}, columns=named)


def _check_rectangular(path: Path) -> None:
    """Pandas pads short lines with NaN in silence, so lines are counted first."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = csv.reader(file)
            width = len(next(lines, []))
            ragged = ((lines.line_num, len(line)) for line in lines if line and len(line) != width)
            found = list(itertools.islice(ragged, 100))
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{str(path)!r} is not a text file of comma-separated values: {error}.") from error
    if found:
        raise DataError(
            f"{str(path)!r} is ragged: the first line has {width} fields, line {found[0][0]} has {found[0][1]} "
            f"(lines {few([number for number, _ in found])}). Every line must have the same number of fields."
        )


def _label_key(labels: str | None, names: list[str], path: Path) -> str | None:
    if labels is None:
        return next((name for name in ("label", "labels", "y") if name in names and len(names) > 1), None)
    if labels not in names:
        raise UnknownNameError(f"label column of {path.name!r}", labels, names)
    return labels


def _is_data(line: pd.DataFrame) -> bool:
    """Whether a line is a row and no header: numbers, and perhaps missing values, by what pandas takes for these."""
    return all(dtype.kind in "iuf" for dtype in line.dtypes) and bool(line.notna().any(axis=None))
