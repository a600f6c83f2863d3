"""What importance weights for log p(v_i) are drawn from: a mixture around a row's own guide.

A factorised guide is a poor proposal where latents are correlated: its weights have a heavy tail, and an estimate that
has missed the tail is too low, and looks precise. The search knows the mean curvature, and with it the shape of the
posterior. The mixture has a Gaussian and a Student t of that shape at each mode, both guides, and the prior. A guide of
another family is joined by a Student t with its moments, in coordinates on the whole space, by one of the posterior's
shape at each mode that is known, and by the prior. No weight exceeds what a component alone would give it, over its
share; and the prior reaches wide modes that no search has met.

References:
    Safe and effective importance sampling (Owen and Zhou, 2000), for mixtures drawn in strata; Monte Carlo theory,
    methods and examples (Owen, 2013), chapter 9, for heavy tails and defensive shares.
"""

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.latents import LatentSpace
from pplvae.programs.noise import RowNoise
from pplvae.programs.shapes import PerDraw, PerRow, Vectors
from pplvae.programs.widening import widened
from pplvae.search.density import Density
from pplvae.search.gaussian import FullCovariance, Gaussians, times

_MOMENT_DRAWS = 400
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


class ImportanceWeights(NamedTuple):
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
    """A mixture for some rows.

    Args:
        components: whose shares add up to 1.
        log_joint: log p(v_i, u).
        seed: names the noise.
    """

    def __init__(self, components: Sequence[Component], log_joint: Callable[[Vectors], PerDraw], seed: int) -> None:
        self._components, self._log_joint, self._seed = components, log_joint, seed

    def __call__(self, particles: int, stream: int) -> ImportanceWeights:
        """About so many weights, with the noise of a stream."""
        counts = [max(2, round(component.share * particles)) for component in self._components]
        shares = torch.tensor(counts, dtype=torch.float64) / sum(counts)
        with torch.no_grad():
            drawn = [
                component.draw(count, (self._seed, stream, k))
                for k, (component, count) in enumerate(zip(self._components, counts, strict=True))
            ]
            u = torch.cat(drawn)
            each = widened(torch.stack([component.log_density(u) for component in self._components]))
            mixture = (each.nan_to_num(-torch.inf, -torch.inf) + shares.log().to(each).reshape(-1, 1, 1)).logsumexp(0)
            return ImportanceWeights(widened(self._log_joint(u)) - mixture, counts)


def around_gaussians(
    density: Density, own: Gaussians, encoder: Gaussians, modes: Sequence[Gaussians], batch: Batch
) -> list[Component]:
    """The mixture for Gaussian guides: of the posterior's shape at its modes, both guides, and the prior.

    Args:
        density: log p(v_i, u).
        own: each row's own guide.
        encoder: the encoder's guide.
        modes: Gaussians at the modes of every row; one that stands twice has twice the share.
        batch: the rows.
    """
    return [
        *(Component(0.4 / len(modes), _normals(shape, batch), _at(shape)) for shape in modes),
        *(Component(0.3 / len(modes), _students(shape, batch), _student(shape)) for shape in modes),
        Component(0.1, _normals(own, batch), _at(own)),
        Component(0.1, _normals(encoder, batch), _at(encoder)),
        Component(0.1, partial(density.draw_prior, batch), lambda u: density.prior(u, batch)),
    ]


def around_guide(
    space: Callable[[int], LatentSpace], modes: Sequence[Gaussians], batch: Batch, address: tuple[int, ...]
) -> list[Component]:
    """The mixture for guides of other families: the guide, a Student t with its moments, more at modes, and the prior.

    Args:
        space: the latents of the rows as vectors, under each row's own guide, at a number of draws.
        modes: Gaussians of the posterior's shape at the modes of every row, as far as they are known.
        batch: the rows.
        address: names the draws that show the moments; they are not used for anything else.
    """
    with torch.no_grad():
        drawn = space(_MOMENT_DRAWS).draw(address)[0]
    shape = FullCovariance.of_draws(widened(drawn))

    def students(shape: Gaussians) -> Callable[[int, tuple[int, ...]], Vectors]:
        return lambda count, where: _students(shape, batch)(count, where).to(drawn)

    around = 0.4 if modes else 0.0
    return [
        Component(
            0.5 - around / 2, lambda count, where: space(count).draw(where)[0], lambda u: space(len(u)).log_guide(u)
        ),
        Component(0.4 - around / 2, students(shape), _student(shape)),
        *(Component(around / len(modes), students(mode), _student(mode)) for mode in modes),
        Component(
            0.1,
            lambda count, where: space(count).draw_prior(where),
            lambda u: space(len(u)).log_prior_and_likelihood(u)[0],
        ),
    ]


def _noise(count: int, elements: int, address: tuple[int, ...], like: Tensor, batch: Batch) -> Vectors:
    blank = like.new_zeros(()).expand(count * len(batch), elements)
    return RowNoise(batch.keys, count, address).normals(blank).unflatten(0, (count, -1))


def _normals(gaussians: Gaussians, batch: Batch) -> Callable[[int, tuple[int, ...]], Vectors]:
    def draw(count: int, address: tuple[int, ...]) -> Vectors:
        mean = gaussians.mean
        return mean + gaussians.deviations(_noise(count, mean.shape[1], address, mean, batch))

    return draw


def _students(shape: Gaussians, batch: Batch) -> Callable[[int, tuple[int, ...]], Vectors]:
    def draw(count: int, address: tuple[int, ...]) -> Vectors:
        elements = shape.mean.shape[1]
        noise = _noise(count, elements + _DEGREES, address, shape.mean, batch)
        chi_square = noise[..., elements:].square().sum(-1, keepdim=True)
        return shape.mean + shape.deviations(noise[..., :elements] * (_DEGREES / chi_square).sqrt())

    return draw


def _at(gaussians: Gaussians) -> Callable[[Vectors], PerDraw]:
    return lambda u: gaussians.log_density(u - gaussians.mean)


def _student(shape: Gaussians) -> Callable[[Vectors], PerDraw]:
    """Log-density of a multivariate Student t with the matrix of a Gaussian."""

    def log_density(u: Vectors) -> PerDraw:
        away, elements = u - shape.mean, u.shape[-1]
        square = (times(shape.precision_matrices(), away) * away).sum(-1)
        constant = math.lgamma((_DEGREES + elements) / 2) - math.lgamma(_DEGREES / 2)
        constant -= elements / 2 * math.log(_DEGREES * math.pi)
        return constant - shape.log_volume() - (_DEGREES + elements) / 2 * (square / _DEGREES).log1p()

    return log_density
