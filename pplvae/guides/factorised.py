"""The factorised Gaussian guide: lambda_phi(v) = (mu, sigma), eq. 31-34 of the lecture."""

from collections.abc import Sequence

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.nets import MLP


class FactorisedGaussian(nn.Module):
    r"""q(h; λ_φ(v)) = N(μ(v), diag(σ(v)²)): an encoder gives the mean and the log standard deviation.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers.

    References:
        Auto-encoding variational Bayes (Kingma and Welling, 2014), arXiv 1312.6114.
    """

    def __init__(self, visible: int, latent: int, hidden: Sequence[int] = (128,)) -> None:
        super().__init__()
        self.encoder = MLP(visible, hidden, [latent, latent])

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        mean, log_scale = self.encoder(v)
        return dist.Normal(mean, log_scale.exp()).to_event(1)
