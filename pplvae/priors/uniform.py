"""The uniform prior on the unit cube."""

import pyro.distributions as dist
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.priors.base import zeros


class Uniform(nn.Module):
    """h ~ U(0, 1), independent coordinates: for guides on (0, 1), such as `guides.FactorisedKumaraswamy`.

    Args:
        latent: dimension of h.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.latent = latent

    def forward(self, like: Tensor) -> Distribution:
        """A uniform with independent coordinates."""
        low = zeros(self.latent, like)
        return dist.Uniform(low, low + 1).to_event(1)
