"""Columns of numbers, one per row, and the table that they become."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from pplvae.data import Rows

Columns = dict[str, Any]  # by name: one entry per row, a tensor or an array


def add(columns: Columns, name: str, value: Any, stderr: Any) -> None:
    """An estimate and its Monte Carlo standard error."""
    columns[name], columns[f"{name}_stderr"] = value, stderr


def merged(groups: Sequence[tuple[Tensor, Columns]], rows: int) -> Columns:
    """Columns of groups of rows as columns of all.

    Args:
        groups: positions of rows, and their columns.
        rows: in all. What a row has no column for is NaN, 0, False or "skipped".
    """
    found: Columns = {}
    for index, columns in groups:
        for name, values in columns.items():
            some = values.cpu().numpy() if isinstance(values, Tensor) else values
            if name not in found:
                blank = np.nan if some.dtype.kind == "f" else "skipped" if some.dtype.kind == "U" else 0
                kind = some.dtype if some.dtype.kind != "U" else "U16"
                found[name] = np.full((rows, *some.shape[1:]), blank, dtype=kind)
            found[name][index.cpu().numpy()] = some
    return found


_IN_NATS = (
    "elbo",
    "amortisation_gap",
    "log_evidence",
    "approximation_gap",
    "inference_gap",
    "family_gap",
    "jensen_slack",
    "shortfall",
    "lower",
    "upper",
    "width",
)


def bare(columns: Columns) -> xr.Dataset:
    """Columns over dimension "row", without coordinates."""
    arrays = {name: v.cpu().numpy() if isinstance(v, Tensor) else v for name, v in columns.items()}
    # Of a device without float64; whoever goes on with the numbers need not know.
    arrays = {name: a.astype(np.float64) if a.dtype == np.float32 else a for name, a in arrays.items()}
    return xr.Dataset({n: (("row", *(f"{n} {k}" for k in range(1, a.ndim))), a) for n, a in arrays.items()})


def as_dataset(columns: Columns, rows: Rows, keys: Tensor, *, labelled: bool) -> xr.Dataset:
    """Columns over dimension "row".

    Args:
        columns: of the rows.
        rows: give the coordinates.
        keys: of their content.
        labelled: whether to keep the rows' labels.
    """
    dataset = bare(columns).assign_coords(rows.coordinates() | {"key": ("row", keys.cpu().numpy())})
    dataset = dataset if labelled else dataset.drop_vars("label", errors="ignore")
    for name in columns:
        if name.startswith(_IN_NATS):
            dataset[name].attrs["units"] = "nats"
    return dataset
