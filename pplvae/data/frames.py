"""A table with named columns, taken apart: numbers, labels, and what says which row is which."""

import re
import warnings
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pplvae.data.beside import further_of
from pplvae.data.table import LABELS, Choice, Table
from pplvae.errors import DataError, PplvaeWarning, UnknownNameError

_IDS = re.compile(r"(?i:(row[ _.-]?)?(id|ids|index|idx)|row([ _.-]?(no|nr|num|number))?|uuid|guid)")
_OF_SOMETHING = re.compile(r".+(?i:[ _.-]id)|.*[a-z]I[dD]")  # customer_id, PassengerId; but not grid
_LONG = 10  # rows; fewer are counted by chance
_MOST_CLASSES = 100  # of a column
_SHOWN = 60  # letters of a field, in a message
_OTHER_MARK = re.compile(r"[+-]?\d*[.,]\d+")
_NAMELESS = re.compile(r"(Unnamed: ?\d+(\.\d+)*)?")  # the longer form is pandas' own, when it writes what it has read


@dataclass(frozen=True)
class Named:
    """A table and its columns.

    Attributes:
        frame: its columns are numbered.
        names: of its columns, or None where they have none: then they are called by their number, from 0.
        found: how it was read, where that is not plain.
    """

    frame: Any
    names: list[str] | None
    found: list[str] = field(default_factory=list)

    @property
    def called(self) -> list[str]:
        """What a user calls the columns."""
        return [str(i) for i in range(self.frame.shape[1])] if self.names is None else self.names


def label_column(called: list[str], choice: Choice, file: str) -> int | None:
    """The place of the column of labels, if there is one.

    Raises:
        DataError: several columns of that name.
        UnknownNameError: none.
    """
    if choice.labels is not None:
        return _place(called, choice.labels, "label column", file)
    return next((called.index(name) for name in LABELS if name in called and len(called) > 1), None)


def table_of(named: Named, choice: Choice, path: Path) -> Table:
    """Rows of numbers, and the labels and ids beside them.

    Raises:
        DataError: nothing to fit, text where numbers are expected, or ids that repeat themselves.
        UnknownNameError: labels or ids that the table does not have.
    """
    file, frame, called = path.name, named.frame, named.called
    label = label_column(called, choice, file)
    ids, aside, found = _ids(named, label, choice, file)
    asked = {role: _place(called, name, f"column of the {role}", file) for role, name in choice.further.items()}
    kept = [i for i in range(frame.shape[1]) if i not in {label, *aside, *asked.values()}]
    if frame.empty or not kept:
        beside = "no rows" if frame.empty else "no columns beside labels and ids"
        raise DataError(f"{str(path)!r} has {beside}: nothing to fit.")
    if choice.ids is None and ids is None:
        _warn_of_a_count(named, kept, file)
    coded = {}
    for name in (choice.classes or "").split(",") if choice.classes else ():
        i = _place(called, name.strip(), "column of classes", file)
        coded[i], names = _coded(frame.iloc[:, i], name.strip(), file)
        found.append(f"classes of {name.strip()!r}: {names}")
    for i in kept:
        if i not in coded:
            _check_numeric(frame.iloc[:, i], called[i], path)
    # A column of integers with missing values (parquet) would become Python objects.
    with_codes = frame.copy(deep=False)
    for i, codes in coded.items():
        with_codes[frame.columns[i]] = codes
    numbers = with_codes.iloc[:, kept].to_numpy(dtype=np.float64, na_value=np.nan)
    return Table(
        {"all": numbers},
        {} if label is None else {"all": frame.iloc[:, label].to_numpy()},
        {role: {"all": further_of(role, frame.iloc[:, i], called[i], repr(file))} for role, i in asked.items()},
        columns=None if named.names is None else np.array([called[i] for i in kept]),
        ids={} if ids is None else {"all": ids},
        found=(*named.found, *found),
    )


def _ids(named: Named, label: int | None, choice: Choice, file: str) -> tuple[np.ndarray | None, set[int], list[str]]:
    """What says which row is which; the columns that are not features; both in words."""
    frame, called = named.frame, named.called
    if choice.ids == "":
        return None, set(), []
    if choice.ids is not None:
        place = _place(called, choice.ids, "id column", file)
        values = _as_ids(frame.iloc[:, [place]])
        if not _distinct(values):
            raise DataError(f"Column {choice.ids!r} of {file!r} repeats values, so it does not say which row is which.")
        return values, {place}, []
    if named.names is None:
        return None, set(), []
    nameless = [i for i, name in enumerate(called) if _NAMELESS.fullmatch(name) and i != label]
    empty = {i for i in nameless if frame.iloc[:, i].isna().all()}
    index = [i for place, i in enumerate(nameless) if i == place and i not in empty]  # before all columns with names
    if index:
        values = _as_ids(frame.iloc[:, index])
        said = "the index: the first column, which has no name"
        return (values if _distinct(values) else None), empty | set(index), [f"ids from {said}"]
    for i, name in enumerate(called):
        strict = _IDS.fullmatch(name)
        if i == label or not (strict or _OF_SOMETHING.fullmatch(name)) or not _names_things(frame.iloc[:, i]):
            continue
        values = _as_ids(frame.iloc[:, [i]])
        if _distinct(values):
            return values, empty | {i}, [f"ids from column {name!r}"]
        if strict:
            raise DataError(
                f"Column {name!r} of {file!r} repeats values, so it does not say which row is which. Take it out, "
                'or let all columns be features: `ids=""`.'
            )
    return None, empty, []


def _warn_of_a_count(named: Named, kept: list[int], file: str) -> None:
    """A first column that counts the rows may be an index that has a name, or a grid that was measured on."""
    first = named.frame.iloc[:, kept[0]]
    if len(kept) < 2 or len(first) < _LONG or named.names is None or not pd.api.types.is_integer_dtype(first):
        return
    if (first == np.arange(len(first)) + first.iloc[0]).all() and first.iloc[0] in (0, 1):
        name = named.called[kept[0]]
        warnings.warn(
            f"Column {name!r} of {file!r} counts the rows, and is taken as a feature. If it only says which row is "
            f"which, name it: `ids={name!r}`.",
            PplvaeWarning,
            stacklevel=2,
        )


def _names_things(column: Any) -> bool:
    """Whether a column holds integers or text, and no measurements."""
    if not pd.api.types.is_numeric_dtype(column):
        return True
    return not column.isna().any() and bool((column % 1 == 0).all())


def _as_ids(columns: Any) -> np.ndarray:
    if columns.shape[1] > 1:
        return np.array([" / ".join(map(str, row)) for row in columns.itertuples(index=False)])
    values = columns.iloc[:, 0]
    if pd.api.types.is_numeric_dtype(values) and not values.isna().any() and (values % 1 == 0).all():
        return values.to_numpy(dtype=np.int64)
    return np.array([str(value) for value in values])


def _distinct(values: np.ndarray) -> bool:
    return len(np.unique(values)) == len(values)


def _place(called: list[str], name: str, kind: str, file: str) -> int:
    if name not in called:
        numbered = called == [str(i) for i in range(len(called))]
        how = " (it has no header: its columns are called by their numbers)" if numbered else ""
        raise UnknownNameError(f"{kind} of {file!r}{how}", name, called)
    if called.count(name) > 1:
        raise DataError(
            f"The {kind} of {file!r} is not clear: {called.count(name)} columns are called {name!r}. Rename the others."
        )
    return called.index(name)


def _coded(column: Any, name: str, file: str) -> tuple[np.ndarray, str]:
    """Codes 0, 1, ... of a column's values, NaN where there is none; and which is which, in words."""
    texts = column.where(column.isna(), column.astype(str).str.strip()) if column.dtype.kind in "OUT" else column
    known = pd.Categorical(texts)
    if len(known.categories) > _MOST_CLASSES:
        raise DataError(
            f"Column {name!r} of {file!r} has {len(known.categories)} different values, too many for names of classes "
            f"({_MOST_CLASSES} at most). Drop it, or join those that are rare."
        )
    codes = np.where(known.codes < 0, np.nan, known.codes)
    return codes, ", ".join(f"{code} = {value}" for code, value in enumerate(known.categories))


def _check_numeric(column: Any, name: str, path: Path) -> None:
    dtype = column.dtype
    if pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_complex_dtype(dtype):
        return
    numbers: Any = pd.to_numeric(column.astype(str), errors="coerce")
    odd = column[numbers.isna() & column.notna()]
    if not len(odd):
        odd = column[column.notna()]
    shown = str(odd.iloc[0])
    shown = shown if len(shown) <= _SHOWN else shown[:_SHOWN] + "..."
    where = f"{str(path)!r} has {shown!r} in column {name!r}, row {odd.index[0]} (counted from 0)"
    if _OTHER_MARK.fullmatch(str(odd.iloc[0])):
        raise DataError(f"{where}, but other numbers of the file have another decimal mark. Use one in all of them.")
    if numbers.notna().mean() >= 0.5 and odd.nunique() <= 3:
        raise DataError(
            f"{where}, among numbers. If it stands for a missing value, leave the field empty, and load with "
            '`missing="mask"`; else correct it.'
        )
    raise DataError(
        f"{where}; the rows must be numbers. If the column holds names of classes, say so, `classes={name!r}`; if it "
        f"holds the labels, `labels={name!r}`; if it says which row is which, `ids={name!r}`. Else drop it."
    )
