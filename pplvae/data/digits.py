"""Whether single precision can tell the numbers of a column apart."""

import math
import warnings
from collections.abc import Sequence

import numpy as np
import torch

from pplvae.errors import PplvaeWarning

_ENOUGH = 1000  # different numbers from the lowest of a column to the highest
_LONGER = {"i": 4, "u": 4, "f": 8}  # bytes from which numbers of a kind may have more digits than single precision
_NAMED = 5  # columns in the message at most


def warn_of_lost_digits(values: np.ndarray, source: str, columns: Sequence[str] | np.ndarray | None = None) -> None:
    """Say which columns lose their differences when they become single precision, if that is torch's default.

    Args:
        values: of shape (row, ...), before they are converted; NaN for what is missing.
        source: where they come from, used in the message.
        columns: their names, or None.
    """
    survives = values.dtype.itemsize < _LONGER.get(values.dtype.kind, math.inf)
    if survives or torch.get_default_dtype() is not torch.float32 or not values.size:
        return
    low, high = (ends.reduce(values, axis=0).reshape(-1) for ends in (np.fmin, np.fmax))
    with np.errstate(invalid="ignore", over="ignore"):  # infinite values are refused elsewhere
        apart = np.spacing(np.maximum(abs(low.astype(np.float64)), abs(high.astype(np.float64))).astype(np.float32))
        span = high.astype(np.float64) - low.astype(np.float64)
    lost = np.flatnonzero((high > low) & (span < _ENOUGH * apart))
    if not len(lost):
        return
    first, named = lost[0], lost if columns is None else np.asarray(columns)[lost]
    which = ", ".join(repr(str(name)) if columns is not None else str(name) for name in named[:_NAMED])
    more = f", ... ({len(named)} in all)" if len(named) > _NAMED else ""
    warnings.warn(
        f"Columns {which}{more} of {source} hold numbers of which single precision has fewer than {_ENOUGH}: "
        f"from {float(low[first]):.12g} to {float(high[first]):.12g} in the first. Take a constant off, standardise "
        "the columns, or compute in double precision.",
        PplvaeWarning,
        stacklevel=2,
    )
