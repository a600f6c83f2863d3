"""Independent component analysis with noise: a linear decoder of sources that are not Gaussian."""

import math

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.errors import DataError, ShapeError, UnknownNameError
from pplvae.models.checks import check_columns, unique_name
from pplvae.priors import PRIORS, Prior

_SOURCES = {name: PRIORS[name] for name in ("independent-mixtures", "laplace", "logistic", "student-t")}
_SHARE = 0.01  # of the smallest variance, taken for noise where there are as many sources as columns

Visible = Float[Tensor, "row column"]
Mixing = Float[Tensor, "column source"]


class ICA(nn.Module):
    r"""Noisy ICA: h_k independent and not Gaussian, :math:`v \mid h \sim N(c + A h, \Psi)` with diagonal Psi.

    Given enough rows, the mixing matrix A is determined up to the order and the signs of its columns; with Gaussian
    sources a rotation of them would be free (see `FactorAnalysis`).

    A guide with independent latents would be no use here: it costs least where the columns of A are orthogonal, and
    would pull them there, as principal components are. This one has a full covariance, and holds the Gaussian factor
    of the posterior exactly while a Gaussian with a learned precision D stands in for the prior:
    :math:`q(h \mid v) = N(\Lambda^{-1} A^\top \Psi^{-1} (v - c), \Lambda^{-1})` with
    :math:`\Lambda = A^\top \Psi^{-1} A + D`. The smaller the noise, the nearer it is to the posterior.

    A is kept as a product, basis B times turn R. That is no other model, but little noise ties B to the plane that the
    rows lie in with large gradients, and within that plane, where the sources are told apart, R can move freely.

    There are local optima. Begin with `from_rows`, and keep the best validation ELBO of a few fits.

    Args:
        visible: columns of v.
        latent: number of sources, at most `visible`.
        prior: of the sources, an object or one of independent-mixtures, laplace, logistic, student-t. The last three
            are more peaked than a normal and separate only sources that are so too; the first learns a shape for each.

    Raises:
        ValueError: more sources than columns.
        UnknownNameError: another name.

    References:
        Independent factor analysis (Attias, 1999); Independent component analysis: algorithms and applications
        (Hyvärinen and Oja, 2000). The guide's form: Composing graphical models with neural networks for structured
        representations and fast inference (Johnson et al., 2016), arXiv 1603.06277.
    """

    def __init__(self, visible: int, latent: int, *, prior: str | Prior = "independent-mixtures") -> None:
        super().__init__()
        if not 1 <= latent <= visible:
            raise ValueError(f"Expected at least one source and at most one per column ({visible}), got {latent}.")
        self.visible, self.latent = visible, latent
        self.basis = nn.Parameter(torch.randn(visible, latent) / math.sqrt(latent))
        self.turn = nn.Parameter(torch.eye(latent))
        self.mean = nn.Parameter(torch.zeros(visible))
        self.log_noise = nn.Parameter(torch.zeros(visible))
        self.log_precision = nn.Parameter(torch.zeros(latent))
        self.prior = _sources(prior, latent)

    @classmethod
    def from_rows(cls, rows: Visible, latent: int, *, prior: str | Prior = "independent-mixtures") -> "ICA":
        """A model that begins at the principal components of some rows, turned at random, and at their noise.

        That is the maximum likelihood of probabilistic PCA, which is where Gaussian sources would end.

        Args:
            rows: those that the model will be fitted to; more of them than columns.
            latent: see `ICA`.
            prior: the same.

        Raises:
            DataError: rows without variance in some direction.
            ValueError: see `ICA`.

        References:
            Probabilistic principal component analysis (Tipping and Bishop, 1999).
        """
        model = cls(rows.shape[1], latent, prior=prior).to(rows)
        variances, directions = torch.linalg.eigh(torch.cov(rows.T, correction=0).reshape(rows.shape[1], -1))
        if not bool(variances[0] > torch.finfo(rows.dtype).eps * variances[-1]):
            raise DataError("The rows do not vary in some direction: pass more rows than columns, and drop copies.")
        # Without directions to spare, all of the variance is the sources', but for a small share.
        noise = variances[:-latent].mean() if latent < rows.shape[1] else _SHARE * variances[0]
        with torch.no_grad():
            model.mean.copy_(rows.mean(0))
            model.log_noise.fill_(noise.log())
            model.basis.copy_(directions[:, -latent:] * (variances[-latent:] - noise).sqrt())
            nn.init.orthogonal_(model.turn)
        return model

    @property
    def mixing(self) -> Mixing:
        """A, one column for each source."""
        return self.basis @ self.turn

    @property
    def noise(self) -> Float[Tensor, " column"]:
        """The diagonal of Psi: noise variance per column."""
        return self.log_noise.exp()

    def model(self, v: Tensor) -> None:
        """p(v, h; theta) as a Pyro program; rows on plate "data"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", self.prior(v))  # pyright: ignore[reportArgumentType]
            pyro.sample("v", self._given(h), obs=v)  # pyright: ignore[reportArgumentType]

    def guide(self, v: Tensor) -> None:
        """q(h; lambda_phi(v)) as a Pyro program: Gaussian with full covariance, affine in v."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        mixing = self.mixing
        scaled = mixing / self.noise.unsqueeze(-1)
        precision = mixing.T @ scaled + torch.diag(self.log_precision.exp())
        mean = torch.linalg.solve(precision, ((v - self.mean) @ scaled).T).T
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.MultivariateNormal(mean, precision_matrix=precision))

    def generate(self, count: int) -> Float[Tensor, "row column"]:
        """Draw rows from p(v)."""
        h = self.prior(self.mean).sample(self.mean.new_empty(count).shape)
        return self._given(h).sample()

    def _given(self, h: Float[Tensor, "row source"]) -> Distribution:
        return dist.Normal(self.mean + h @ self.mixing.T, self.noise.sqrt()).to_event(1)


def amari_distance(found: Tensor, truth: Tensor) -> Float[Tensor, ""]:
    r"""How far two mixing matrices are from each other, up to the order, the signs and the scales of their columns.

    With columns scaled to length 1 and :math:`P = |A^+ B|`, n sources,

    .. math::

        \frac{1}{2n(n-1)} \Big[ \sum_i \Big(\sum_j \frac{P_{ij}}{\max_k P_{ik}} - 1\Big)
        + \sum_j \Big(\sum_i \frac{P_{ij}}{\max_k P_{kj}} - 1\Big) \Big],

    which is 0 if P has one element in every row and column that is not 0, and 1 if its elements are all the same. It is
    not symmetric in its arguments. (Lengths are made equal because the second sum changes with the scales of A.)

    Args:
        found: A, of shape (column, source) and full column rank.
        truth: B, of the same shape.

    Raises:
        ShapeError: other shapes, or fewer than two sources.
        DataError: a column of zeros.

    References:
        A new learning algorithm for blind signal separation (Amari, Cichocki and Yang, 1996).

    >>> mixing = torch.tensor([[1.0, 2.0], [0.0, 1.0], [3.0, 0.0]])
    >>> float(amari_distance(mixing, -5 * mixing.flip(1))) < 1e-6
    True
    """
    if found.shape != truth.shape or found.shape[1] < 2:
        raise ShapeError(
            "Expected two mixing matrices of one shape (column, source), with at least two sources, got "
            f"{tuple(found.shape)} and {tuple(truth.shape)}."
        )
    found, truth = (_unit_columns(matrix) for matrix in (found, truth))
    ratio = (torch.linalg.pinv(found) @ truth).abs()
    sources = len(ratio)
    rows, columns = (ratio / ratio.amax(axis, keepdim=True) for axis in (1, 0))
    return (rows.sum() + columns.sum() - 2 * sources) / (2 * sources * (sources - 1))


def _sources(prior: str | Prior, latent: int) -> Prior:
    if not isinstance(prior, str):
        return prior
    if prior not in _SOURCES:
        raise UnknownNameError("prior of independent sources", prior, _SOURCES)
    return _SOURCES[prior](latent)


def _unit_columns(matrix: Mixing) -> Mixing:
    lengths = torch.linalg.vector_norm(matrix, dim=0)
    if not bool((lengths > 0).all()):
        raise DataError("A column of a mixing matrix is zero: its source is not mixed in, and has no direction.")
    return matrix / lengths
