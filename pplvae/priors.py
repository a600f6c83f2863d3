"""p(h): callables that give a distribution with the event shape of one latent vector."""

from typing import Protocol, runtime_checkable

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution


@runtime_checkable
class Prior(Protocol):
    """What a model asks of a prior."""

    def __call__(self, like: Tensor) -> Distribution:
        """p(h) with batch shape () and event shape (latent,), on the device and with the dtype of `like`."""
        ...


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
