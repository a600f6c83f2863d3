"""The logistic prior: a little more peaked than a normal, and smooth."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.priors.base import Deviations


class Logistic(nn.Module):
    """Independent logistic latents with mean 0 and, unless it is learned, variance 1: the sources of infomax ICA.

    Args:
        latent: dimension of h.
        learn_scale: learn a scale for each latent. A linear decoder does not need it: its columns have scales already.

    References:
        An information-maximisation approach to blind separation and blind deconvolution (Bell and Sejnowski, 1995).
    """

    def __init__(self, latent: int, *, learn_scale: bool = False) -> None:
        super().__init__()
        self.deviations = Deviations(latent, learned=learn_scale)

    def forward(self, like: Tensor) -> Distribution:
        """Independent logistic coordinates; a logistic variable with scale s has variance s² π² / 3."""
        deviations = self.deviations(like)
        return dist.Logistic(torch.zeros_like(deviations), math.sqrt(3) / math.pi * deviations).to_event(1)
