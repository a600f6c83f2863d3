"""A normal prior that learns where the latents lie."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution


class Gaussian(nn.Module):
    """h ~ N(μ, diag(σ²)) with learned mean and scale, which start at 0 and 1.

    A decoder whose first layer is affine can express as much; the prior is for decoders that are given, or have none.

    Args:
        latent: dimension of h.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.loc = nn.Parameter(torch.zeros(latent))
        self.log_scale = nn.Parameter(torch.zeros(latent))

    def forward(self, like: Tensor) -> Distribution:
        """A normal with independent coordinates."""
        return dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
