"""Columns that stand beside the values of a row and become tensors of their own: totals and batches."""

from typing import Any

import numpy as np

from pplvae.data.rows import few
from pplvae.errors import DataError


def further_of(role: str, column: Any, name: str, file: str) -> np.ndarray:
    """A column as a program takes it.

    Args:
        role: "total", or "batch".
        column: a pandas series.
        name: what it is called.
        file: what messages call its table.

    Returns:
        Totals, of shape (row, 1); or the number of each row's batch, of shape (row,), in the order of the categories.

    Raises:
        DataError: totals that are not positive numbers, or a row without a batch.
    """
    return _totals(column, name, file) if role == "total" else _codes(column, name, file)


def _totals(column: Any, name: str, file: str) -> np.ndarray:
    if column.dtype.kind not in "iuf":
        raise DataError(f"Column {name!r} of {file} is no total: it holds no numbers (its dtype is {column.dtype}).")
    totals = column.to_numpy(dtype=np.float64, na_value=np.nan)
    bad = ~(np.isfinite(totals) & (totals > 0))
    if bad.any():
        raise DataError(
            f"Totals must be positive, but rows {few(np.flatnonzero(bad))} (counted from 0) of column {name!r} of "
            f"{file} are not. Drop these rows: nothing was counted in them."
        )
    return totals[:, None]


def _codes(column: Any, name: str, file: str) -> np.ndarray:
    codes = column.astype("category").cat.codes.to_numpy().astype(np.int64)
    missing = codes < 0
    if missing.any():
        raise DataError(
            f"Rows {few(np.flatnonzero(missing))} (counted from 0) of column {name!r} of {file} have no batch. Name "
            "it, or drop the rows."
        )
    return codes
