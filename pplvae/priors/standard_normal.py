"""The standard normal prior."""

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.priors.base import zeros


class StandardNormal(nn.Module):
    """h ~ N(0, I).

    Args:
        latent: dimension of h.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent

    def forward(self, like: Tensor) -> Distribution:
        """A normal with independent coordinates."""
        mean = zeros(self.latent, like)
        return dist.Normal(mean, mean + 1).to_event(1)
