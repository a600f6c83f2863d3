"""Means over rows with both errors, and rows as plain columns."""

import math
from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float

from pplvae.statistics.summary import error_of_sum, part_of, parts_of

_COLUMNS = ("mean", "stderr", "mc_stderr", "count", "left_out")


def means_of(rows: xr.Dataset, terms: Sequence[str]) -> xr.Dataset:
    """Means of some columns over the rows of each part.

    Args:
        rows: of a result.
        terms: columns; the standard errors of a row are those in `<term>_stderr`.

    Returns:
        Over dimensions "part" and "term", of the rows that have a finite value: `mean`; `stderr` over rows, Monte Carlo
        noise included, NaN of one row; `mc_stderr`, the part of it that more draws would remove, NaN where the rows'
        own errors are not known; `count`; and of all others `left_out`. The attributes are those of the rows.
    """
    lines = [[_mean_of(part_of(rows, part), term) for term in terms] for part in parts_of(rows)]
    columns = {
        name: (("part", "term"), np.array([[found[name] for found in line] for line in lines])) for name in _COLUMNS
    }
    return xr.Dataset(columns, coords={"part": parts_of(rows), "term": list(terms)}, attrs=dict(rows.attrs))


def mean_and_stderr_of(values: Float[np.ndarray, " row"]) -> tuple[float, float]:
    """Mean of the finite values, and its standard error over rows; NaN where there are too few."""
    values = values[np.isfinite(values)]
    if not len(values):
        return math.nan, math.nan
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def _mean_of(part: xr.Dataset, term: str) -> dict[str, float]:
    values = part[term].values.astype(float)
    finite = np.isfinite(values)
    mean, stderr = mean_and_stderr_of(values)
    noise, count = math.nan, int(finite.sum())
    if f"{term}_stderr" in part and count:
        noise = error_of_sum(part.isel(row=np.flatnonzero(finite)), f"{term}_stderr") / count
    return dict(zip(_COLUMNS, (mean, stderr, noise, count, len(values) - count), strict=True))


def share_above(rows: xr.Dataset, column: str, limit: float) -> xr.DataArray:
    """Per part, the share of rows whose value exceeds a limit."""
    shares = [float((part_of(rows, part)[column].values > limit).mean()) for part in parts_of(rows)]
    return xr.DataArray(shares, coords={"part": parts_of(rows)}, dims="part")


def left_out(summary: xr.Dataset, term: str) -> list[str]:
    """What is to be said of rows without a finite value, a sentence for each part that has some.

    Args:
        summary: from `means_of`.
        term: whose rows are counted.
    """
    counts = summary["left_out"].sel(term=term)
    pairs = zip(summary["part"].values.tolist(), counts.values.tolist(), strict=True)
    return [
        f"{part}: {count} rows have no finite {term.replace('_', ' ')} and are left out."
        for part, count in pairs
        if count
    ]


def columns_of(rows: xr.Dataset, names: Sequence[str] | None = None) -> Iterator[tuple[str, np.ndarray]]:
    """Columns with one entry per row: a variable that has several gives one for each, called `name[entry]`.

    Args:
        rows: of a result.
        names: of variables and coordinates; by default all over "row", the coordinates first.
    """
    known = names or [
        str(name) for name in (*rows.coords, *rows.data_vars) if name != "row" and "row" in rows[name].dims
    ]
    for name in known:
        variable = rows[name]
        others = [dim for dim in variable.dims if dim != "row"]
        entries = [rows[dim].values.tolist() if dim in rows.coords else range(rows.sizes[dim]) for dim in others]
        single = all(dim not in rows.coords and rows.sizes[dim] == 1 for dim in others)
        values = variable.transpose("row", *others).values
        for place, labels in zip(np.ndindex(*values.shape[1:]), product(*entries), strict=True):
            yield name if single else f"{name}[{', '.join(map(str, labels))}]", values[:, *place]


def frame_of(rows: xr.Dataset) -> Any:
    """The rows as a pandas `DataFrame`, one line each, the ids as its index."""
    import pandas

    return pandas.DataFrame(dict(columns_of(rows)), index=pandas.Index(rows["row"].values, name="row"))
