"""The Laplace prior: sparse latents."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.priors.base import Deviations


class Laplace(nn.Module):
    """Independent Laplace latents with mean 0 and, unless it is learned, variance 1.

    Args:
        latent: dimension of h.
        learn_scale: learn a scale for each latent. A linear decoder does not need it: its columns have scales already.

    References:
        Sparse coding with an overcomplete basis set (Olshausen and Field, 1997).
    """

    def __init__(self, latent: int, *, learn_scale: bool = False) -> None:
        super().__init__()
        self.deviations = Deviations(latent, learned=learn_scale)

    def forward(self, like: Tensor) -> Distribution:
        """Independent Laplace coordinates; a Laplace variable with scale b has variance 2 b²."""
        deviations = self.deviations(like)
        return dist.Laplace(torch.zeros_like(deviations), math.sqrt(0.5) * deviations).to_event(1)
