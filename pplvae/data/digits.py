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
    ends = Ends(values.dtype)
    ends.see(values)
    ends.warn(source, columns)


class Ends:
    """The lowest and the highest number of each column, of rows that go by.

    Args:
        dtype: of the numbers, before they are converted.
    """

    def __init__(self, dtype: np.dtype) -> None:
        survives = dtype.itemsize < _LONGER.get(dtype.kind, math.inf)
        self._is_asked_for = not survives and torch.get_default_dtype() is torch.float32
        self._ends: list[np.ndarray] | None = None

    def see(self, values: np.ndarray) -> None:
        """Note the ends of some rows, NaN for what is missing."""
        if self._is_asked_for and values.size:
            found = [ends.reduce(values, axis=0).reshape(-1) for ends in (np.fmin, np.fmax)]
            before = self._ends or found
            self._ends = [ends(*both) for ends, *both in zip((np.fmin, np.fmax), before, found, strict=True)]

    def warn(self, source: str, columns: Sequence[str] | np.ndarray | None = None) -> None:
        """Say which columns lose their differences; see `warn_of_lost_digits`."""
        if self._ends is None:
            return
        low, high = self._ends
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
            f"from {float(low[first]):.12g} to {float(high[first]):.12g} in the first. Take a constant off, "
            "standardise the columns, or compute in double precision.",
            PplvaeWarning,
            stacklevel=3,
        )
