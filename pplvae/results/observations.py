"""The rows of a result as columns of AnnData's table `obs`, matched by the names of rows and never by their order."""

from typing import Any

import numpy as np
import xarray as xr

from pplvae.errors import DataError
from pplvae.statistics.means import columns_of

_LEFT_OUT = ("label", "key")  # what `obs` itself has said, and the seed of a row's noise


def observations_of(rows: xr.Dataset, names: np.ndarray, called: str, prefix: str) -> dict[str, dict[str, np.ndarray]]:
    """Columns for the rows of a table: numbers as `values`, text as `codes` and `categories`.

    A row of the table that the result does not have is NaN, or the code -1; truth values of which some are missing are
    1, 0 and NaN.

    Args:
        rows: of a result.
        names: of the rows of the table.
        called: what messages call the table.
        prefix: of the columns' names.

    Raises:
        DataError: two rows of one name, in the table or in the result; or none that both have.
    """
    import pandas

    index = pandas.Index(rows["row"].values.astype(str))
    for each, where in ((index, "the result (was a row measured in two parts?)"), (pandas.Index(names), called)):
        if not each.is_unique:
            twice = each[each.duplicated()][0]
            raise DataError(
                f"Rows are matched by their names, but {twice!r} stands in {where} more than once. Make names distinct "
                "before rows are fitted: `adata.obs_names_make_unique()`."
            )
    place = index.get_indexer(pandas.Index(names))
    if len(names) and (place < 0).all():
        raise DataError(
            f"No row of {called} has a name that the result knows: here {str(names[0])!r}, there {index[0]!r}. Pass "
            "the data that the result is of."
        )
    return {
        prefix + name.replace("/", "%2F"): _matched(values, place)
        for name, values in columns_of(rows)
        if name not in _LEFT_OUT
    }


def write_observations(rows: xr.Dataset, adata: Any, prefix: str) -> None:
    """Put the columns into the table of an AnnData object.

    Raises:
        DataError: it is none, or its rows cannot be matched.
    """
    import pandas

    if not hasattr(adata, "obs") or not hasattr(adata, "obs_names"):
        raise DataError(
            f"The rows are written into `adata.obs`, but a {type(adata).__name__} has none. Pass an AnnData."
        )
    names = np.array(adata.obs_names, dtype=str)
    for name, parts in observations_of(rows, names, "`adata`", prefix).items():
        found: Any = parts.get("values")
        if found is None:
            found = pandas.Categorical.from_codes(parts["codes"], categories=parts["categories"])
        adata.obs[name] = found


def _matched(values: np.ndarray, place: np.ndarray) -> dict[str, np.ndarray]:
    """Values of the places; a place below 0 is missing."""
    missing = place < 0
    if values.dtype.kind not in "biuf":
        categories, codes = np.unique(values.astype(str), return_inverse=True)
        return {"codes": np.where(missing, -1, codes[place]).astype(np.int32), "categories": categories}
    found = values[place]
    if missing.any():
        found = found.astype(np.float64)
        found[missing] = np.nan
    return {"values": found}
