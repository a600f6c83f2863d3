"""Sources of any shape: a mixture of Gaussians for each coordinate, independently."""

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.priors.mixture import MixtureByRow

PerComponent = Float[Tensor, "latent component"]


class IndependentMixtures(nn.Module):
    r"""h_k ~ Σ_m π_km N(μ_km, σ_km²), coordinates independent, each with mean 0 and variance 1 by construction.

    Unlike a Laplace or a Student-t it can become flatter than a normal (a sine, a uniform, two points) as well as more
    peaked, so that a linear model with it separates sources of either kind.

    Args:
        latent: dimension of h.
        components: Gaussians per coordinate.

    Raises:
        ValueError: fewer than two components, which would be a standard normal.

    References:
        Independent factor analysis (Attias, 1999).
    """

    def __init__(self, latent: int, components: int = 4) -> None:
        super().__init__()
        if components < 2:
            raise ValueError(f"At least two components per coordinate make a shape of their own, got {components}.")
        # Neither a normal nor the same for every coordinate, or no direction would be preferred at the start.
        self.logits = nn.Parameter(torch.zeros(latent, components))
        self.loc = nn.Parameter(torch.linspace(-1.5, 1.5, components) + 0.1 * torch.randn(latent, components))
        self.log_scale = nn.Parameter(torch.full((latent, components), -0.7))

    def forward(self, like: Tensor) -> Distribution:
        """A mixture for every coordinate."""
        loc, scale = self._standardised()
        return MixtureByRow(dist.Categorical(logits=self.logits), dist.Normal(loc, scale)).to_event(1)

    def _standardised(self) -> tuple[PerComponent, PerComponent]:
        """Means and scales, shifted and stretched so that every coordinate has mean 0 and variance 1."""
        weights, scale = self.logits.softmax(-1), self.log_scale.exp()
        centred = self.loc - (weights * self.loc).sum(-1, keepdim=True)
        deviation = (weights * (centred.square() + scale.square())).sum(-1, keepdim=True).sqrt()
        return centred / deviation, scale / deviation
