"""Real columns with a variance that is not learned."""

import math

import pyro.distributions as dist
from torch import nn
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Visible


class GaussianFixed(nn.Module):
    """Real columns with the mean from the decoder and a standard deviation that is given: squared error, in nats.

    With scale 1, -log p(v | h) is half the squared error of the reconstruction and a constant. The scale sets the
    weight of the reconstruction against the KL term: a beta-VAE (Higgins et al., 2017) with weight beta has the optimum
    of one with weight 1 and this scale times the square root of beta.

    Args:
        scale: standard deviation of every column, in the units of the data.

    Raises:
        ValueError: a scale that is not positive and finite.
    """

    takes_total = False

    def __init__(self, scale: float = 1.0) -> None:
        super().__init__()
        if not 0 < scale < math.inf:
            raise ValueError(f"Expected a positive standard deviation, got {scale}.")
        self._scale = scale

    def heads(self, visible: int) -> list[int]:
        """A mean per column."""
        return [visible]

    def features(self, v: Visible) -> Visible:
        """The row as it is."""
        return v

    def forward(self, mean: Head) -> Distribution:
        """Independent normal columns."""
        return dist.Normal(mean, self._scale).to_event(1)
