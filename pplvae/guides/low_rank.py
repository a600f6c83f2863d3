"""The Gaussian guide with a covariance of low rank plus a diagonal."""

from collections.abc import Sequence

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.nets import MLP


class LowRankGaussian(nn.Module):
    r"""q(h; λ_φ(v)) = N(μ(v), W(v) W(v)ᵀ + diag(σ(v)²)): factor analysis of h whose mixing matrix depends on v.

    Between the factorised Gaussian (rank 0) and the full covariance (rank `latent`), with fewer numbers per row.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers.
        rank: columns of W; more than `latent` gains nothing.

    Raises:
        ValueError: `rank` below 1.

    References:
        Gaussian variational approximation with a factor covariance structure (Ong, Nott and Smith, 2018),
        arXiv 1701.03208.
    """

    def __init__(self, visible: int, latent: int, hidden: Sequence[int] = (128,), rank: int = 1) -> None:
        super().__init__()
        if rank < 1:
            raise ValueError(f"`rank` must be at least 1, got {rank}. Rank 0 is `FactorisedGaussian`.")
        self.rank = rank
        self.encoder = MLP(visible, hidden, [latent, latent * rank, latent])

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        mean, mixing, log_scale = self.encoder(v)
        return dist.LowRankMultivariateNormal(mean, mixing.unflatten(-1, (-1, self.rank)), (2 * log_scale).exp())
