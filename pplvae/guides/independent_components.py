"""A guide that mixes independent non-Gaussian noise: h = mu(v) + L(v) eps, the ICA relative of the full covariance."""

from collections.abc import Callable, Sequence
from typing import Any

import pyro.distributions as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.transforms import LowerCholeskyTransform

from pplvae.errors import UnknownNameError
from pplvae.guides.inverse_transform import Logistic
from pplvae.nets import MLP
from pplvae.programs.transforms import LowerCholeskyAffine


# These have no free parameters of their own, so that mu(v) and L(v) of the map around them are lambda.
class _StandardLaplace(dist.Laplace):
    arg_constraints = {}  # noqa: RUF012


class _StandardLogistic(Logistic):
    arg_constraints = {}  # noqa: RUF012


class _StandardStudentT(dist.StudentT):
    arg_constraints = {}  # noqa: RUF012


class IndependentComponents(nn.Module):
    r"""q(h; λ_φ(v)): h = μ(v) + L(v) ε with independent sources ε that are not Gaussian and L lower triangular.

    Its log-density is exact, :math:`\sum_k \log p(\epsilon_k) - \sum_k \log L_{kk}`. As in independent component
    analysis, and unlike with Gaussian noise, the axes of L show in the shape of q.

    Args:
        visible: columns of v.
        latent: dimension of h; the encoder has a head of its square.
        hidden: widths of the encoder's hidden layers.
        source: "laplace", "logistic" or "student-t".
        df: degrees of freedom of "student-t".

    Raises:
        UnknownNameError: an unknown source.
        ValueError: `df` not above 0.

    References:
        Independent component analysis, a new concept? (Comon, 1994), for the sources; lecture, eq. 35-38, for the map.
    """

    def __init__(
        self, visible: int, latent: int, hidden: Sequence[int] = (128,), source: str = "laplace", df: float = 5.0
    ) -> None:
        super().__init__()
        if source not in _SOURCES:
            raise UnknownNameError("source", source, _SOURCES)
        if not df > 0:
            raise ValueError(f"`df` must be above 0, got {df}. Draws have a variance above 2.")
        self.encoder = MLP(visible, hidden, [latent, latent**2])
        self.source, self.df = source, df
        self._positive = LowerCholeskyTransform()

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        mean, free = self.encoder(v)
        latent = mean.shape[-1]
        # The strict upper triangle of `free` is not used; the diagonal is that of log L.
        mixing = self._positive(free.unflatten(-1, (latent, latent)))
        sources = _SOURCES[self.source](mean.new_zeros(mean.shape), self.df)
        return dist.TransformedDistribution(sources.to_event(1), [LowerCholeskyAffine(mean, mixing)])


# From zeros of the right shape, and degrees of freedom.
_SOURCES: dict[str, Callable[[Tensor, float], Any]] = {
    "laplace": lambda zeros, _: _StandardLaplace(zeros, zeros + 1),
    "logistic": lambda zeros, _: _StandardLogistic(zeros, zeros + 1),
    "student-t": lambda zeros, df: _StandardStudentT(zeros + df, zeros, zeros + 1),
}
