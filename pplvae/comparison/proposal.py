"""What importance weights for log p(v_i) are drawn from: a mixture around a row's own Gaussian guide.

A factorised guide is a poor proposal where latents are correlated: its weights have a heavy tail, and an estimate that
has missed the tail is too low, and looks precise. The search knows the mean curvature, and with it the shape of the
posterior. The mixture has a Gaussian and a Student t of that shape, both guides, and the prior. No weight exceeds what
a component alone would give it, over its share; and the prior reaches modes that no guide has met.

References:
    Safe and effective importance sampling (Owen and Zhou, 2000), for mixtures drawn in strata; Monte Carlo theory,
    methods and examples (Owen, 2013), chapter 9, for heavy tails and defensive shares.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.batch import Batch
from pplvae.comparison.curvature import Matrices
from pplvae.comparison.density import Density, PerDraw, Vectors
from pplvae.comparison.gaussian import FullCovariance, Gaussians, PerRow, times
from pplvae.noise import RowNoise

_DEGREES = 5  # of freedom, of the Student t: its variance exists, and its tails are heavier than an exponential's


class Component(NamedTuple):
    """One part of a mixture.

    Attributes:
        share: of the draws.
        draw: so many draws of every row, with the noise of an address.
        log_density: of the draws of any component.
    """

    share: float
    draw: Callable[[int, tuple[int, ...]], Vectors]
    log_density: Callable[[Vectors], PerDraw]


class Weights(NamedTuple):
    """Importance weights, drawn in strata.

    Attributes:
        log_weights: log p(v, h) - log of the mixture's density, one stratum after the other.
        counts: draws of each stratum.
    """

    log_weights: Float[Tensor, "particle row"]
    counts: list[int]

    def estimate(self) -> tuple[PerRow, PerRow]:
        """Log of the mean weight, with its standard error by the delta method; nats per row.

        The weights of a stratum vary less than all of them.
        """
        value = self.log_weights.logsumexp(0) - math.log(len(self.log_weights))
        strata = (self.log_weights - value).exp().split(self.counts)
        variance = sum(len(some) * some.var(0) for some in strata) / len(self.log_weights) ** 2
        return value, torch.as_tensor(variance).sqrt()


class Proposal:
    """The mixture of some rows.

    Args:
        density: log p(v_i, u).
        own: each row's own guide.
        encoder: the encoder's guide.
        curvature: the mean of minus the second derivative of log p under the own guides, positive definite.
        batch: the rows.
        seed: names the noise.
    """

    def __init__(
        self, density: Density, own: Gaussians, encoder: Gaussians, curvature: Matrices, batch: Batch, seed: int
    ) -> None:
        self._density, self._batch, self._seed = density, batch, seed
        shape = FullCovariance(own.mean, curvature)
        self._components = [
            Component(0.4, self._normals(shape), _at(shape)),
            Component(0.3, self._students(shape), _student(shape)),
            Component(0.1, self._normals(own), _at(own)),
            Component(0.1, self._normals(encoder), _at(encoder)),
            Component(0.1, self._priors, lambda u: density.prior(u, batch)),
        ]

    def __call__(self, particles: int, stream: int) -> Weights:
        """About so many weights, with the noise of a stream."""
        counts = [max(2, round(component.share * particles)) for component in self._components]
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        with torch.no_grad():
            u = torch.cat(
                [
                    component.draw(count, (self._seed, stream, k))
                    for k, (component, count) in enumerate(zip(self._components, counts, strict=True))
                ]
            )
            each = torch.stack([component.log_density(u) for component in self._components])
            mixture = (each.nan_to_num(-torch.inf, -torch.inf) + shares.log().to(each).reshape(-1, 1, 1)).logsumexp(0)
            return Weights(self._density.value(u, self._batch) - mixture, counts)

    def _noise(self, count: int, elements: int, address: tuple[int, ...], like: Tensor) -> Vectors:
        blank = like.new_zeros(()).expand(count * len(self._batch), elements)
        return RowNoise(self._batch.keys, count, address).normals(blank).unflatten(0, (count, -1))

    def _normals(self, gaussians: Gaussians) -> Callable[[int, tuple[int, ...]], Vectors]:
        def draw(count: int, address: tuple[int, ...]) -> Vectors:
            mean = gaussians.mean
            return mean + gaussians.spread(self._noise(count, mean.shape[1], address, mean))

        return draw

    def _students(self, shape: Gaussians) -> Callable[[int, tuple[int, ...]], Vectors]:
        def draw(count: int, address: tuple[int, ...]) -> Vectors:
            elements = shape.mean.shape[1]
            noise = self._noise(count, elements + _DEGREES, address, shape.mean)
            chi_square = noise[..., elements:].square().sum(-1, keepdim=True)
            return shape.mean + shape.spread(noise[..., :elements] * (_DEGREES / chi_square).sqrt())

        return draw

    def _priors(self, count: int, address: tuple[int, ...]) -> Vectors:
        return self._density.draw_prior(self._batch, count, address)


def _at(gaussians: Gaussians) -> Callable[[Vectors], PerDraw]:
    return lambda u: gaussians.log_density(u - gaussians.mean)


def _student(shape: FullCovariance) -> Callable[[Vectors], PerDraw]:
    """Log-density of a multivariate Student t with the matrix of a Gaussian."""

    def log_density(u: Vectors) -> PerDraw:
        away, elements = u - shape.mean, u.shape[-1]
        square = (times(shape.precision, away) * away).sum(-1)
        constant = math.lgamma((_DEGREES + elements) / 2) - math.lgamma(_DEGREES / 2)
        constant -= elements / 2 * math.log(_DEGREES * math.pi)
        return constant - shape.log_volume() - (_DEGREES + elements) / 2 * (square / _DEGREES).log1p()

    return log_density
