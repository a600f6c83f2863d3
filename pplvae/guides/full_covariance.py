"""The Gaussian guide with a full covariance: h = mu(v) + L(v) eps, eq. 35-38 of the lecture."""

from collections.abc import Sequence

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import LowerCholeskyTransform

from pplvae.nets import MLP


class FullCovarianceGaussian(nn.Module):
    r"""q(h; λ_φ(v)) = N(μ(v), L(v) L(v)ᵀ): correlations between latents change with the row.

    Args:
        visible: columns of v.
        latent: dimension of h; the encoder has a head of its square.
        hidden: widths of the encoder's hidden layers.

    References:
        Lecture, eq. 35-38; An introduction to variational autoencoders (Kingma and Welling, 2019), section 2.5.1,
        arXiv 1906.02691.
    """

    def __init__(self, visible: int, latent: int, hidden: Sequence[int] = (128,)) -> None:
        super().__init__()
        self.encoder = MLP(visible, hidden, [latent, latent**2])
        self._positive = LowerCholeskyTransform()

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        mean, free = self.encoder(v)
        latent = mean.shape[-1]
        # The strict upper triangle of `free` is not used; the diagonal is that of log L.
        return dist.MultivariateNormal(mean, scale_tril=self._positive(free.unflatten(-1, (latent, latent))))
