"""What a netCDF file cannot hold: written in another way, or refused."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from pplvae.errors import StoreError

# No name has a slash (in Pyro's scopes sites have), and no text is missing.
_SLASH, _PERCENT = "%2F", "%25"
_MISSING = " is missing"


def written_out(path: Path, dataset: xr.Dataset) -> xr.Dataset:
    """A dataset as a netCDF file can hold it.

    Args:
        path: of the file, for messages.
        dataset: any.

    Raises:
        StoreError: text that cannot be written, or values of several kinds in one variable.
    """
    flags = {}
    for name, variable in dataset.variables.items():
        missing = _missing_of(variable.values)
        _check_text(path, str(name), variable.values[~missing] if missing.any() else variable.values)
        if missing.any():
            flags[f"{name}{_MISSING}"] = (variable.dims, missing)
    for name, value in dataset.attrs.items():
        _check_text(path, str(name), np.array([value if isinstance(value, str) else ""]))
    return without_slashes(dataset.assign(flags))


def without_slashes(dataset: xr.Dataset) -> xr.Dataset:
    """A dataset whose names have "%2F" for a slash; xarray's trees have none in a name either."""
    return dataset.rename({n: _escaped(n) for n in {*dataset.variables, *dataset.dims} if _escaped(n) != n})


def with_slashes(dataset: xr.Dataset) -> xr.Dataset:
    """The dataset that `without_slashes` was given."""
    names = {n: str(n).replace(_SLASH, "/").replace(_PERCENT, "%") for n in {*dataset.variables, *dataset.dims}}
    return dataset.rename({name: whole for name, whole in names.items() if whole != name})


def _missing_of(values: np.ndarray) -> np.ndarray:
    return pd.isnull(values) if values.dtype == object else np.zeros(values.shape, bool)


def _escaped(name: Any) -> str:
    return str(name).replace("%", _PERCENT).replace("/", _SLASH)


def _check_text(path: Path, name: str, values: np.ndarray) -> None:
    if values.dtype.kind not in "UO":
        return
    kinds = sorted({type(value).__name__ for value in values.flatten()}) if values.dtype == object else ["str"]
    if len(kinds) > 1:
        raise StoreError(
            f"{str(path)!r} cannot be written: {name!r} holds values of different kinds ({', '.join(kinds)}), and a "
            "file has one kind. Make all of them text, or all of them numbers."
        )
    for value in values.flatten():
        if isinstance(value, str) and ("\0" in value or not _is_unicode(value)):
            raise StoreError(
                f"{str(path)!r} cannot be written: {name!r} holds the text {str(value)!a} with a NUL character or half "
                "a surrogate pair, which a file cannot hold. Take it out."
            )


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
