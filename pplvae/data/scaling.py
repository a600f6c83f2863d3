"""Columns of one size for the networks, and the way back to their units."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.isolate import generators_kept


@dataclass(frozen=True)
class Scaling:
    """Columns minus their mean, divided by their standard deviation.

    Attributes:
        mean: of shape (column,), in the units of the columns.
        scale: standard deviations; 1 for a column that is constant or never observed.
    """

    mean: Float[Tensor, " column"]
    scale: Float[Tensor, " column"]

    @classmethod
    def of(cls, values: Float[Tensor, "row column"]) -> "Scaling":
        """The scaling that gives the observed values (not NaN) of each column mean 0 and standard deviation 1."""
        with generators_kept():  # the first import of scikit-learn draws from `random`
            from sklearn.preprocessing import StandardScaler

        with np.errstate(invalid="ignore"):  # 0 / 0 in a column that is never observed
            found: Any = StandardScaler().fit(values.numpy())
        mean, scale = (torch.as_tensor(numbers).to(values) for numbers in (found.mean_, found.scale_))
        return cls(mean.nan_to_num(0.0), scale.nan_to_num(1.0))

    def standardise(self, values: Float[Tensor, "*batch column"]) -> Float[Tensor, "*batch column"]:
        """From units to standardised values; NaN stays NaN."""
        return (values - self.mean) / self.scale

    def restore(self, values: Float[Tensor, "*batch column"]) -> Float[Tensor, "*batch column"]:
        """From standardised values, such as draws of a fitted model, to units."""
        return values * self.scale + self.mean

    def to(self, *args: Any, **kwargs: Any) -> "Scaling":
        """On another device, or with another floating dtype."""
        return Scaling(self.mean.to(*args, **kwargs), self.scale.to(*args, **kwargs))
