"""Gaussian guides, row by row: a mean and a precision, and what a second-order search asks of them.

A guide is factorised or has a full covariance matrix. Both move towards the precision that the posterior's curvature
asks for, and say in nats how far they are from it. They are kept in double precision, whatever the rows are in: a
posterior that is flat in one direction and steep in another has a curvature that single precision cannot invert.
"""

import math
from abc import ABC, abstractmethod
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pplvae.programs.shapes import Matrices, PerDraw, PerRow, Vectors

_DOUBLE = 0.5**0.5  # in log scales an ELBO has curvature 2
_SHRINK = 0.1  # a precision falls to no less than so much of itself in a step


class Gaussians(ABC):
    """One Gaussian per row.

    Attributes:
        mean: of every row.
        precision: one number for each element of a row, or a matrix.
    """

    def __init__(self, mean: Float[Tensor, "row element"], precision: Tensor) -> None:
        self.mean, self.precision = mean, precision

    def copy(self) -> "Gaussians":
        """A copy that can be changed in place."""
        return type(self)(self.mean.clone(), self.precision.clone())

    def take(self, index: Any) -> "Gaussians":
        """The Gaussians of some rows."""
        return type(self)(self.mean[index], self.precision[index])

    def put(self, index: Tensor, other: "Gaussians") -> None:
        """Replace the Gaussians of some rows."""
        self.mean[index], self.precision[index] = other.mean, other.precision

    def is_proper(self) -> Bool[Tensor, " row"]:
        """Which rows have a mean and a precision that are finite, and a precision above zero."""
        diagonal = self.precision if self.precision.ndim == 2 else self.precision.diagonal(dim1=-2, dim2=-1)
        finite = self.mean.isfinite().all(1) & self.precision.flatten(1).isfinite().all(1)
        return finite & (diagonal > 0).all(1)

    @abstractmethod
    def deviations(self, noise: Vectors) -> Vectors:
        """Standard normals as deviations from the mean."""

    @abstractmethod
    def pulled(self, noise: Vectors) -> Vectors:
        """Standard normals times the root of the precision."""

    def curvature(self, noise: Vectors, slope: Vectors) -> Matrices:
        """An estimate of E[d² f / du²], from slopes f' at mirrored draws.

        (Price's theorem: the mean of noise, times the root of the precision, times slope.)
        """
        half = len(noise) // 2
        odd = 0.5 * (slope[:half] - slope[half:])  # a draw's noise is that of its mirror image, turned round
        product = torch.bmm(self.pulled(noise[:half]).permute(1, 2, 0), odd.transpose(0, 1)) / half
        return 0.5 * (product + product.mT)

    @abstractmethod
    def own_form(self, matrices: Matrices) -> Tensor:
        """The precision that the family takes from a curvature: its diagonal, or all of it."""

    @abstractmethod
    def moved(self, mean: Tensor, target: Tensor, rate: PerRow) -> "Gaussians":
        """Gaussians at another mean, whose precision has gone a share of the way towards another one."""

    @abstractmethod
    def no_change(self) -> Float[Tensor, "row number"]:
        """The numbers of `changed` that leave the scale as it is: zeros."""

    @abstractmethod
    def changed(self, mean: Tensor, change: Float[Tensor, "row number"]) -> "Gaussians":
        """Another mean, and a scale changed by numbers in which the ELBO has curvature 1 at its optimum."""

    @abstractmethod
    def change_slope(self, now: "Gaussians", noise: Vectors, slope: Vectors) -> Float[Tensor, "row number"]:
        """The gradient of an ELBO at draws with respect to these numbers.

        Args:
            now: what they have been changed to.
            noise: of the draws.
            slope: of log p at them.
        """

    @abstractmethod
    def precision_matrices(self) -> Matrices:
        """The precision of every row as a matrix."""

    @abstractmethod
    def mean_square(self, matrices: Matrices) -> PerRow:
        """The mean of x' A x, with x a deviation from the mean."""

    def log_density(self, away: Vectors) -> PerDraw:
        """Log-density at deviations from the mean, in nats."""
        square = (times(self.precision_matrices(), away) * away).sum(-1)
        return -0.5 * (square + away.shape[-1] * math.log(2 * math.pi)) - self.log_volume()

    @abstractmethod
    def log_volume(self) -> PerRow:
        """Half the log determinant of the covariance: the entropy but for a constant, in nats."""

    @abstractmethod
    def standardised(self, difference: Tensor) -> Float[Tensor, "row number"]:
        """A small error of the precision as numbers whose squares add up to what it costs of the ELBO, in nats."""

    def divergence(self, other: "Gaussians") -> PerRow:
        """Jeffreys' divergence, the sum of both Kullback-Leibler divergences, in nats."""
        ours, theirs = self.precision_matrices(), other.precision_matrices()
        away = (other.mean - self.mean).unsqueeze(0)
        apart = (times(ours + theirs, away) * away).sum(-1)[0]
        return 0.5 * (self.mean_square(theirs) + other.mean_square(ours) + apart) - away.shape[-1]

    def nats(self, difference: Tensor) -> PerRow:
        """What a small error of the precision costs of the ELBO."""
        return self.standardised(difference).square().sum(-1)


class Factorised(Gaussians):
    """Gaussians with independent elements: the precision is one number for each."""

    def deviations(self, noise: Vectors) -> Vectors:
        """Noise times standard deviation."""
        return noise * self.precision.rsqrt()

    def pulled(self, noise: Vectors) -> Vectors:
        """Noise over standard deviation."""
        return noise * self.precision.sqrt()

    def own_form(self, matrices: Matrices) -> Tensor:
        """The diagonal."""
        return matrices.diagonal(dim1=-2, dim2=-1)

    def moved(self, mean: Tensor, target: Tensor, rate: PerRow) -> Gaussians:
        """Along a straight line."""
        rate = rate.unsqueeze(-1)
        return Factorised(mean, (1 - rate) * self.precision + rate * torch.maximum(target, _SHRINK * self.precision))

    def no_change(self) -> Float[Tensor, "row number"]:
        """One for each element."""
        return torch.zeros_like(self.mean)

    def changed(self, mean: Tensor, change: Float[Tensor, "row number"]) -> Gaussians:
        """The scales times the exponentials."""
        return Factorised(mean, self.precision * (-2 * _DOUBLE * change).exp())

    def change_slope(self, now: Gaussians, noise: Vectors, slope: Vectors) -> Float[Tensor, "row number"]:
        """Slopes along the draws."""
        return _DOUBLE * ((now.deviations(noise) * slope).mean(0) + 1)

    def precision_matrices(self) -> Matrices:
        """Diagonal."""
        return torch.diag_embed(self.precision)

    def mean_square(self, matrices: Matrices) -> PerRow:
        """Sum of the diagonal of A, each over its precision."""
        return (self.own_form(matrices) / self.precision).sum(-1)

    def log_density(self, away: Vectors) -> PerDraw:
        """Sum over elements."""
        return (
            -0.5 * ((away.square() * self.precision).sum(-1) + away.shape[-1] * math.log(2 * math.pi))
            - self.log_volume()
        )

    def log_volume(self) -> PerRow:
        """Sum of the log standard deviations."""
        return -0.5 * self.precision.log().sum(-1)

    def standardised(self, difference: Tensor) -> Float[Tensor, "row number"]:
        """Half the relative errors."""
        return 0.5 * difference / self.precision


class FullCovariance(Gaussians):
    """Gaussians with a full covariance matrix: the precision is a matrix."""

    @classmethod
    def of_draws(cls, u: Vectors) -> "FullCovariance":
        """Those with the means and covariances of draws."""
        mean, away = u.mean(0), u - u.mean(0)
        covariance = torch.einsum("srk,srl->rkl", away, away) / len(u)
        # A latent that is known for sure, and fewer draws than directions, leave no matrix to invert.
        covariance = covariance + torch.diag_embed(1e-6 * covariance.diagonal(dim1=-2, dim2=-1) + 1e-12)
        return cls(mean, inverse_of(root_of(covariance)))

    def deviations(self, noise: Vectors) -> Vectors:
        """L z, with L L' the covariance, as the guide itself draws."""
        return times(_scale_tril(self.precision), noise)

    def pulled(self, noise: Vectors) -> Vectors:
        """L'⁻¹ z."""
        return torch.linalg.solve_triangular(
            _scale_tril(self.precision).mT, noise.permute(1, 2, 0), upper=True
        ).permute(2, 0, 1)

    def own_form(self, matrices: Matrices) -> Tensor:
        """All of it."""
        return matrices

    def moved(self, mean: Tensor, target: Tensor, rate: PerRow) -> Gaussians:
        """Along a straight line, no further than where a direction would lose nearly all its precision."""
        root = root_of(self.precision)
        half = torch.linalg.solve_triangular(root, target, upper=False)
        relative = torch.linalg.solve_triangular(root, half.mT, upper=False)
        values, vectors = _eigen(0.5 * (relative + relative.mT))
        values = 1 - rate.unsqueeze(-1) + rate.unsqueeze(-1) * values.clamp(min=_SHRINK)
        factor = root @ (vectors * values.sqrt().unsqueeze(-2))
        return FullCovariance(mean, factor @ factor.mT)

    def no_change(self) -> Float[Tensor, "row number"]:
        """One for each element on the diagonal of a root, and for each below it."""
        size = self.mean.shape[1]
        return self.mean.new_zeros(len(self.mean), size + size * (size - 1) // 2)

    def changed(self, mean: Tensor, change: Float[Tensor, "row number"]) -> Gaussians:
        """The Cholesky root of the covariance times another such root."""
        root = _scale_tril(self.precision) @ self._root_of(change)
        return FullCovariance(mean, inverse_of(root))

    def change_slope(self, now: Gaussians, noise: Vectors, slope: Vectors) -> Float[Tensor, "row number"]:
        """Through the product of the two roots."""
        size = self.mean.shape[1]
        pulled = times(_scale_tril(self.precision).mT, slope)
        product = torch.bmm(pulled.permute(1, 2, 0), noise.transpose(0, 1)) / len(noise)
        relative = torch.linalg.solve_triangular(_scale_tril(self.precision), _scale_tril(now.precision), upper=False)
        diagonal = product.diagonal(dim1=-2, dim2=-1) * relative.diagonal(dim1=-2, dim2=-1) + 1
        below = torch.tril_indices(size, size, -1)
        return torch.cat([_DOUBLE * diagonal, product[:, below[0], below[1]]], 1)

    def _root_of(self, change: Float[Tensor, "row number"]) -> Matrices:
        size = self.mean.shape[1]
        root = torch.diag_embed((_DOUBLE * change[:, :size]).exp())
        below = torch.tril_indices(size, size, -1)
        root[:, below[0], below[1]] = change[:, size:]
        return root

    def precision_matrices(self) -> Matrices:
        """They are."""
        return self.precision

    def mean_square(self, matrices: Matrices) -> PerRow:
        """The trace of A times the covariance."""
        return torch.cholesky_solve(matrices, root_of(self.precision)).diagonal(dim1=-2, dim2=-1).sum(-1)

    def log_volume(self) -> PerRow:
        """From the Cholesky root of the precision."""
        return -root_of(self.precision).diagonal(dim1=-2, dim2=-1).log().sum(-1)

    def standardised(self, difference: Tensor) -> Float[Tensor, "row number"]:
        """Half the errors relative to the precision, in its own axes."""
        root = root_of(self.precision)
        half = torch.linalg.solve_triangular(root, difference, upper=False)
        return 0.5 * torch.linalg.solve_triangular(root, half.mT, upper=False).flatten(1)


def times(matrices: Matrices, vectors: Vectors) -> Vectors:
    """A row's matrix times each of its vectors."""
    return torch.bmm(vectors.transpose(0, 1), matrices.mT).transpose(0, 1)


def _scale_tril(precision: Matrices) -> Matrices:
    return root_of(inverse_of(root_of(precision)))


def root_of(matrices: Matrices) -> Matrices:
    """The Cholesky root of every row; a row without one gets other numbers, which only its own draws see."""
    return torch.linalg.cholesky_ex(matrices)[0]


def inverse_of(root: Matrices) -> Matrices:
    """The inverse of each row's matrix from its Cholesky root; NaN where there is none, which stops no other row."""
    has_none = (root.diagonal(dim1=-2, dim2=-1) == 0).any(-1)[:, None, None]
    return torch.cholesky_inverse(root.masked_fill(has_none, 1.0)).masked_fill(has_none, torch.nan)


def _eigen(matrices: Matrices) -> tuple[Float[Tensor, "row number"], Matrices]:
    """Eigenvalues and eigenvectors of each row's matrix; NaN where it is not finite, which stops no other row."""
    odd = ~matrices.isfinite().all(-1).all(-1)
    values, vectors = torch.linalg.eigh(matrices.masked_fill(odd[:, None, None], 1.0))
    return values.masked_fill(odd[:, None], torch.nan), vectors
