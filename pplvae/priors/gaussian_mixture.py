"""A mixture of Gaussians as prior: clusters in latent space."""

import math

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.priors.mixture import MixtureByRow


class GaussianMixture(nn.Module):
    r"""h ~ Σ_k π_k N(μ_k, diag(σ_k²)) with learned weights, means and scales.

    The means start at draws of N(0, 3/4), the scales at 1/2: clusters that are apart, with about the mean and the
    variance of a standard normal together.

    Args:
        latent: dimension of h.
        components: how many Gaussians.

    Raises:
        ValueError: no component.

    References:
        Deep unsupervised clustering with Gaussian mixture variational autoencoders (Dilokthanakul et al., 2016),
        arXiv 1611.02648; Variational deep embedding (Jiang et al., 2017), arXiv 1611.05148.
    """

    def __init__(self, latent: int, components: int = 10) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"A mixture needs at least one component, got {components}.")
        self.logits = nn.Parameter(torch.zeros(components))
        self.loc = nn.Parameter(math.sqrt(0.75) * torch.randn(components, latent))
        self.log_scale = nn.Parameter(torch.full((components, latent), math.log(0.5)))

    def forward(self, like: Tensor) -> Distribution:
        """A mixture of normals with independent coordinates."""
        components = dist.Normal(self.loc, self.log_scale.exp()).to_event(1)
        return MixtureByRow(dist.Categorical(logits=self.logits), components)
