"""Real columns."""

import math

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Visible


class Gaussian(nn.Module):
    r"""Real columns with mean *and* variance from the decoder (eq. 55 of the lecture), the variance bounded.

    Without a lower bound the density of a column that the decoder reproduces exactly grows without limit.

    Args:
        smallest: least standard deviation of a column.
        largest: greatest.

    Raises:
        ValueError: not 0 < smallest < largest.
    """

    takes_total = False

    def __init__(self, smallest: float = 0.03, largest: float = 3.0) -> None:
        super().__init__()
        if not 0 < smallest < largest:
            raise ValueError(f"Expected 0 < smallest < largest, got {smallest} and {largest}.")
        self._log_bounds = (math.log(smallest), math.log(largest))

    def heads(self, visible: int) -> list[int]:
        """A mean and a free scale per column."""
        return [visible, visible]

    def features(self, v: Visible) -> Visible:
        """The row as it is."""
        return v

    def forward(self, mean: Head, free: Head) -> Distribution:
        """Independent normal columns; `free` runs over the real line, log scale between its bounds."""
        low, high = self._log_bounds
        scale = (low + (high - low) * torch.sigmoid(free)).exp()
        return dist.Normal(mean, scale).to_event(1)
