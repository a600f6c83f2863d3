"""Arrays from files, by their ending. Nothing in a file is ever executed."""

import io
import os
from pathlib import Path
from typing import Any

import pandas as pd

from pplvae.data.annotated import of_memory
from pplvae.data.annotated_files import read_h5ad, table_of_annotated
from pplvae.data.archives import read_npy, read_npz
from pplvae.data.arrays import fields_of
from pplvae.data.frames import Named, label_column, table_of
from pplvae.data.layout import layout_of
from pplvae.data.limits import check_is_file
from pplvae.data.parquet import read_parquet
from pplvae.data.registry import DATA_SETS
from pplvae.data.stores import read_store
from pplvae.data.table import Choice, Table
from pplvae.data.text import text_of
from pplvae.errors import DataError, UnknownNameError

_TEXT = (".csv", ".tsv", ".tab", ".txt", ".dat")
_PACKED = (".gz", ".bz2", ".xz")
_ANNOTATED = ".h5ad"
_STORE = ".zarr"
_ENDINGS = (".npy", ".npz", ".parquet", _ANNOTATED, _STORE, *_TEXT)
_CURES = {
    **dict.fromkeys((".xls", ".xlsx", ".ods"), "Save the sheet as .csv."),
    **dict.fromkeys((".zip", ".tar", ".7z"), "Unpack it."),
    **dict.fromkeys((".pkl", ".pickle", ".pt", ".pth"), "It may hold code, so it is never loaded: save an .npz."),
    **dict.fromkeys((".h5", ".hdf5", ".mat", ".nc", ".fits", ".rds"), "Save its arrays as an .npz."),
    **dict.fromkeys(_PACKED, "Unpack it; only text is read as it is packed."),
    **dict.fromkeys((".json", ".jsonl", ".feather"), "Save it as .csv or .parquet."),
}


def read_file(path: Path, choice: Choice, header: bool | None = None) -> Table:
    """Read a data file; empty fields of a text are missing values (NaN).

    Args:
        path: ends in .npy, .npz, .parquet, .h5ad or .zarr, or in .csv, .tsv or .txt (also packed: .csv.gz).
        choice: which of its columns (text, .parquet, .h5ad) or arrays (.npz) are no features. Where an .npz names its
            parts, their labels are y_train, y_valid, y_test: "y".
        header: whether the first line of a text holds names; None to find out.

    Raises:
        DataError: the file is missing, empty, damaged, holds objects or text, has ragged lines, or parts of different
            numbers of columns.
        UnknownNameError: another kind of file, or labels or ids that it does not have.
    """
    ends = [end.lower() for end in path.suffixes]
    kind = ends[-2] if len(ends) > 1 and ends[-1] in _PACKED and ends[-2] in _TEXT else (ends or [""])[-1]
    if kind not in _ENDINGS and not os.path.exists(path):
        raise UnknownNameError("data set or kind of file", path.name, [*DATA_SETS, *("*" + end for end in _ENDINGS)])
    if kind == _STORE and path.is_dir():
        return _checked(read_store(path, choice), path)
    check_is_file(path)
    if kind not in _ENDINGS:
        cure = _CURES.get(kind, "Rename it, if it is of one of these kinds.")
        raise DataError(f"{str(path)!r} is of a kind that is not read; expected {', '.join(_ENDINGS)}. {cure}")
    if kind == _STORE:
        raise DataError(f"{str(path)!r} is a file, but a store of zarr is a folder. Unpack it.")
    if kind == _ANNOTATED:
        return _checked(table_of_annotated(read_h5ad(path, choice.layer), choice), path)
    _check_no_layer(choice, path)
    if kind in (".npy", ".npz"):
        table = (read_npy if kind == ".npy" else read_npz)(path, choice.labels)
        return _checked(_without_fields(table, choice, path), path)
    named = read_parquet(path) if kind == ".parquet" else _read_text(path, choice, header)
    return table_of(named, choice, path)


def read_annotated(given: Any, choice: Choice) -> Table:
    """An AnnData object in memory, as its file is read."""
    found = of_memory(given, choice.layer, "the AnnData object")
    return _checked(table_of_annotated(found, choice), Path("AnnData"))


def _check_no_layer(choice: Choice, path: Path) -> None:
    if choice.layer is not None:
        raise DataError(f"`layer` names a matrix of AnnData (.h5ad, .zarr), but {path.name!r} holds one table.")
    if choice.further and path.suffix.lower() in (".npy", ".npz"):
        raise DataError(
            f"`{next(iter(choice.further))}` names a column of a table, but {path.name!r} holds arrays. Pass them from "
            "Python: `(v, total)`."
        )


def _read_text(path: Path, choice: Choice, header: bool | None) -> Named:
    text, done = text_of(path)
    layout = layout_of(text, path.name, header)
    columns = list(range(layout.width))
    called = layout.names or [str(i) for i in columns]
    label = label_column(called, choice, path.name)
    try:
        frame = pd.read_csv(
            io.StringIO(text.split("\n", layout.start)[-1]),
            sep=r"\s+" if layout.separator == " " else layout.separator,
            header=None,
            names=columns,
            index_col=False,
            decimal=layout.decimal,
            thousands=layout.thousands,
            na_values={i: layout.markers for i in columns if i != label} if layout.markers else None,
            skipinitialspace=True,
            low_memory=False,
            **_to_the_nearest(),
        )
    except (ValueError, pd.errors.ParserError) as error:
        raise DataError(f"{str(path)!r} cannot be read as a table of numbers: {error}.") from error
    return Named(frame, layout.names, [*done, *layout.found])


def _to_the_nearest() -> dict[str, Any]:
    """What makes pandas read numbers as the nearest floats; 3.1 does so by itself, and deprecates the option."""
    release = tuple(int(part) for part in pd.__version__.split(".")[:2])
    return {} if release >= (3, 1) else {"float_precision": "round_trip"}


def _without_fields(table: Table, choice: Choice, path: Path) -> Table:
    """A structured array, as tables are saved by NumPy and by readers of FITS, taken apart into its fields."""
    whole = table.parts.get("all")
    if whole is None or whole.dtype.names is None:
        return table
    fields = fields_of(whole)
    odd = [name for name, column in fields.items() if column.ndim != 1]
    if odd:
        raise DataError(f"{str(path)!r} has several numbers a row in field {odd[0]!r}; expected one number a field.")
    columns = dict(enumerate(fields.values()))  # as other tables have them
    return table_of(Named(pd.DataFrame(columns), [*fields]), choice, path)


def _checked(table: Table, path: Path) -> Table:
    for values in table.parts.values():
        if values.dtype.kind not in "biuf":
            raise DataError(f"The rows of {str(path)!r} must be numbers, got an array of dtype {values.dtype}.")
        if values.ndim == 0:
            raise DataError(f"The rows of {str(path)!r} must form an array (row, column), got a single number.")
    for labels in table.labels.values():
        if labels.ndim != 1:
            raise DataError(
                f"The labels of {str(path)!r} must be one a row, of shape (row,), got the shape {labels.shape}. "
                "Flatten them, or say by `labels=` which array they are."
            )
    return table
