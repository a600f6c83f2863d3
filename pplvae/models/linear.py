"""Factor analysis and probabilistic PCA: linear-Gaussian models whose every quantity is known exactly.

They are the project's oracle: log p(v), the posterior, the best factorised Gaussian and every gap have closed forms.
"""

import math

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch import distributions as td

from pplvae.models.checks import check_columns, unique_name
from pplvae.programs.shapes import PerRow

Visible = Float[Tensor, "row column"]
PerLatent = Float[Tensor, "row latent"]


class FactorAnalysis(nn.Module):
    r"""Factor analysis: :math:`h \sim N(0, I)`, :math:`v \mid h \sim N(c + F h, \Psi)` with diagonal Psi.

    The guide is a factorised Gaussian with an affine encoder, :math:`\mu(v) = A v + b` and one scale per latent, which
    can represent the best factorised Gaussian of every row: its amortisation gap at the optimum is zero.

    Args:
        visible: number of columns of v.
        latent: number of factors.

    References:
        Bayesian Reasoning and Machine Learning (Barber, 2012), chapter 21.
    """

    def __init__(self, visible: int, latent: int) -> None:
        super().__init__()
        self.visible, self.latent = visible, latent
        self.factors = nn.Parameter(torch.randn(visible, latent) / math.sqrt(latent))
        self.mean = nn.Parameter(torch.zeros(visible))
        self.log_noise = nn.Parameter(torch.zeros(self._noise_levels()))
        self.encoder = nn.Linear(visible, latent)
        self.log_scale = nn.Parameter(torch.zeros(latent))

    def _noise_levels(self) -> int:
        return self.visible

    @property
    def noise(self) -> Float[Tensor, " column"]:
        """The diagonal of Psi: noise variance per column."""
        return self.log_noise.exp().expand(self.visible)

    def model(self, v: Tensor) -> None:
        """p(v, h; theta) as a Pyro program; rows on plate "data"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros_like(self.factors[0]), 1.0).to_event(1))
            mean = self.mean + h @ self.factors.T
            pyro.sample("v", dist.Normal(mean, self.noise.sqrt()).to_event(1), obs=v)

    def guide(self, v: Tensor) -> None:
        """q(h; lambda_phi(v)) as a Pyro program: factorised Gaussian, affine in v."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(self.encoder(v), self.log_scale.exp()).to_event(1))

    def exact_guide(self, v: Visible) -> None:
        """The posterior p(h | v) as a guide: every log weight is log p(v)."""
        with pyro.plate("data", len(v)):
            pyro.sample("h", self.posterior(v))  # pyright: ignore[reportArgumentType]

    def posterior_precision(self) -> Float[Tensor, "latent latent"]:
        r""":math:`\Lambda = I + F^\top \Psi^{-1} F`, the same for every row."""
        scaled = self.factors / self.noise.unsqueeze(-1)
        return torch.eye(self.latent).to(self.factors) + self.factors.T @ scaled

    def posterior(self, v: Visible) -> td.MultivariateNormal:
        """p(h | v), exactly; batch shape (row,)."""
        precision = self.posterior_precision()
        natural = ((v - self.mean) / self.noise) @ self.factors
        mean = torch.linalg.solve(precision, natural.T).T
        return dist.MultivariateNormal(mean, covariance_matrix=torch.linalg.inv(precision))

    def log_evidence(self, v: Visible) -> PerRow:
        """Log p(v), exactly, in nats per row."""
        marginal = dist.LowRankMultivariateNormal(self.mean, self.factors, self.noise)
        return marginal.log_prob(v)

    def best_factorised(self, v: Visible) -> tuple[PerLatent, PerLatent]:
        """Mean and standard deviation of the factorised Gaussian with the highest ELBO of each row.

        Its precision is the diagonal of the posterior's precision (not the inverse of the posterior's variances).
        """
        mean = self.posterior(v).mean
        return mean, self.posterior_precision().diagonal().rsqrt().expand_as(mean)

    def elbo(self, v: Visible, loc: PerLatent, scale: PerLatent) -> PerRow:
        """ELBO of a factorised Gaussian N(loc, diag(scale²)) per row, exactly, in nats."""
        posterior, precision = self.posterior(v), self.posterior_precision()
        error = loc - posterior.mean
        divergence = 0.5 * (
            (precision.diagonal() * scale**2).sum(-1)
            + ((error @ precision) * error).sum(-1)
            - self.latent
            - torch.logdet(precision)
            - 2 * scale.log().sum(-1)
        )
        return self.log_evidence(v) - divergence

    def approximation_gap(self) -> Float[Tensor, ""]:
        r"""Log p(v) minus the best factorised ELBO, :math:`\frac12(\sum_k \log\Lambda_{kk} - \log\det\Lambda)`."""
        precision = self.posterior_precision()
        return 0.5 * (precision.diagonal().log().sum() - torch.logdet(precision))

    def amortisation_gap(self, v: Visible, loc: PerLatent, scale: PerLatent) -> PerRow:
        """The best factorised ELBO minus that of N(loc, diag(scale²)), per row, exactly, in nats; never negative."""
        return self.elbo(v, *self.best_factorised(v)) - self.elbo(v, loc, scale)


class PPCA(FactorAnalysis):
    """Probabilistic PCA: factor analysis with one noise variance for all columns.

    References:
        Probabilistic principal component analysis (Tipping and Bishop, 1999).
    """

    def _noise_levels(self) -> int:
        return 1
