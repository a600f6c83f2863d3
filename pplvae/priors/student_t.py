"""The Student-t prior: latents with heavy tails."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.priors.base import Deviations


class StudentT(nn.Module):
    """Independent Student-t latents with mean 0 and, unless it is learned, variance 1.

    Args:
        latent: dimension of h.
        dof: degrees of freedom, fixed; the fewer, the heavier the tails.
        learn_scale: learn a scale for each latent. A linear decoder does not need it: its columns have scales already.

    Raises:
        ValueError: two degrees of freedom or fewer, with which there is no variance.

    References:
        Topographic product models applied to natural scene statistics (Osindero, Welling and Hinton, 2006).
    """

    def __init__(self, latent: int, dof: float = 5.0, *, learn_scale: bool = False) -> None:
        super().__init__()
        if not dof > 2:
            raise ValueError(f"Expected more than 2 degrees of freedom, so that there is a variance, got {dof}.")
        self.dof = dof
        self.deviations = Deviations(latent, learned=learn_scale)

    def forward(self, like: Tensor) -> Distribution:
        """Independent Student-t coordinates; with scale s the variance is s² dof / (dof − 2)."""
        deviations = self.deviations(like)
        scale = math.sqrt((self.dof - 2) / self.dof) * deviations
        return dist.StudentT(self.dof, torch.zeros_like(deviations), scale).to_event(1)
