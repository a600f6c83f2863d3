"""The standard normal prior."""

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution


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
        return dist.Normal(like.new_zeros(self.latent), like.new_ones(self.latent)).to_event(1)
