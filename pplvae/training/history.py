"""What a fit says of each epoch: a line of numbers, kept as columns, and told to whoever asked for it."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

OnEpoch = Callable[[int, dict[str, float]], object]
COLUMNS = ("objective", "elbo_validation", "elbo_validation_stderr", "kl_weight", "seconds")
_WITHOUT_NATS = ("kl_weight", "seconds", "converged")  # ends of names


def listeners(on_epoch: Any) -> list[OnEpoch]:
    """Those who are to be told of each epoch.

    Raises:
        TypeError: one of them cannot be called.
    """
    found = [*on_epoch] if isinstance(on_epoch, list | tuple) else [] if on_epoch is None else [on_epoch]
    for each in found:
        if not callable(each):
            raise TypeError(
                "`on_epoch` must be a function called as `on_epoch(epoch, values)`, or a list of such functions; got "
                f"{each!r}."
            )
    return found


class History:
    """One line of numbers an epoch; NaN where there is none.

    Args:
        names: of the columns.
    """

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.columns: dict[str, list[float]] = {name: [] for name in self.names}

    def add(self, line: Mapping[str, float]) -> None:
        """Write the line of an epoch."""
        for name in self.names:
            self.columns[name].append(line.get(name, math.nan))

    def forget(self, names: Sequence[str]) -> None:
        """Blank some columns of the last line."""
        for name in names:
            self.columns[name][-1:] = [math.nan]

    def last(self) -> dict[str, float]:
        """The last line, without what it has no number for."""
        line = {name: values[-1] for name, values in self.columns.items()}
        return {name: value for name, value in line.items() if not math.isnan(value)}

    def dataset(self) -> xr.Dataset:
        """The columns over dimension "epoch"."""
        columns = {name: ("epoch", np.array(values)) for name, values in self.columns.items()}
        dataset = xr.Dataset(columns, coords={"epoch": np.arange(len(self.columns[self.names[0]]))})
        for name in dataset.data_vars:
            if not str(name).endswith(_WITHOUT_NATS):
                dataset[name].attrs["units"] = "nats per row"
        return dataset
