"""p(v | h): from a decoder's heads to a distribution of v. A likelihood says how many heads it needs."""

import math
from typing import Protocol, runtime_checkable

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

Head = Float[Tensor, "batch column"]


@runtime_checkable
class Likelihood(Protocol):
    """What a model asks of a likelihood."""

    heads: int

    def __call__(self, *heads: Head) -> Distribution:
        """p(v | h) with batch shape (batch,) and event shape (column,)."""
        ...


class Bernoulli(nn.Module):
    """Binary columns; the head is the logit of the probability of a 1."""

    heads = 1

    def forward(self, logits: Head) -> Distribution:
        """Independent Bernoulli columns."""
        return dist.Bernoulli(logits=logits).to_event(1)


class Gaussian(nn.Module):
    r"""Real columns with mean *and* variance from the decoder (eq. 55 of the lecture), the variance bounded.

    Without a lower bound the density of a column that the decoder reproduces exactly grows without limit.

    Args:
        smallest: least standard deviation of a column.
        largest: greatest.

    Raises:
        ValueError: not 0 < smallest < largest.
    """

    heads = 2

    def __init__(self, smallest: float = 0.03, largest: float = 3.0) -> None:
        super().__init__()
        if not 0 < smallest < largest:
            raise ValueError(f"Expected 0 < smallest < largest, got {smallest} and {largest}.")
        self._log_bounds = (math.log(smallest), math.log(largest))

    def forward(self, mean: Head, free: Head) -> Distribution:
        """Independent normal columns; `free` runs over the real line, log scale between its bounds."""
        low, high = self._log_bounds
        scale = (low + (high - low) * torch.sigmoid(free)).exp()
        return dist.Normal(mean, scale).to_event(1)
