"""Draws whose mean is the ELBO of a guide; for a Gaussian one, less noisy by the quadratic part of log p."""

from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.estimates import joined, mean_and_stderr
from pplvae.programs.noise import Stream
from pplvae.programs.shapes import Matrices, PerDraw
from pplvae.search.density import Density
from pplvae.search.gaussian import Gaussians, times
from pplvae.search.gaussian_form import GaussianForm
from pplvae.search.nodes import nodes_in_sets

# Draws of a row that are taken at once; even. Later blocks are larger, as they are of few rows.
_FIRST_BLOCKS, _UNTIL, _LATER_BLOCKS = 50, 1000, 200
_GRID_NODES, _GRID_REACH = 768, 9.5  # of a single latent; beyond lies a share of 1e-21
PILOT_DRAWS = 40  # of the sample that says how many draws are needed


class Scored(NamedTuple):
    """Draws of a guide, mirrored ones last.

    Attributes:
        elbo: their mean is the ELBO.
        log_weights: log p(v, h) - log q(h), whose mean in the exponential is p(v).
    """

    elbo: PerDraw
    log_weights: PerDraw


Scores = Callable[..., Scored]  # called with a number of draws, `index`: positions of rows, `stream`: names the noise


class GaussianScores:
    """Draws of Gaussian guides, with a control variate.

    With C the curvature of -log p and P the precision of the guide, log p - log q is a quadratic with the matrix P - C,
    whose mean under the guide is known, and what is left. Only that is left to the draws. Mirrored draws take the odd
    part out. Where C describes log p so badly that it adds noise, which the pilot sample shows, it is not used:
    that sample is thrown away, so that nothing is biased. The ELBO of a single latent is an integral over a grid: draws
    of a skewed log p miss its tail, and look precise.

    Args:
        form: how lambda is a Gaussian.
        density: log p(v_i, u).
        gaussians: the guides.
        curvature: C, as far as it is known.
        batch: the rows.
        seed: names the noise.

    References:
        Variance reduction by control variates: Monte Carlo Statistical Methods (Robert and Casella, 2004), 4.4.2; for
        quadratic ones in variational inference: Reducing reparameterization gradient variance (Miller et al., 2017),
        arXiv 1705.07880.
    """

    def __init__(
        self,
        form: GaussianForm,
        density: Density,
        gaussians: Gaussians,
        curvature: Matrices,
        batch: Batch,
        seed: int,
    ) -> None:
        self._form, self._density, self._gaussians, self._batch, self._seed = form, density, gaussians, batch, seed
        self._matrices = gaussians.precision_matrices() - curvature
        self._mean = 0.5 * gaussians.mean_square(self._matrices)
        self._helps = torch.ones_like(self._mean, dtype=torch.bool)
        self._trial = self._drawn(PILOT_DRAWS, torch.arange(len(batch)), Stream.PILOT)
        control, log_weights = self._trial
        self._helps = mean_and_stderr(log_weights - control)[1] < mean_and_stderr(log_weights)[1]

    def __call__(self, particles: int, *, index: Tensor, stream: Stream) -> Scored:
        """So many draws of the rows at these positions, with the noise of a stream."""
        if stream is Stream.PILOT and particles == PILOT_DRAWS:
            control, log_weights = (draws[:, index] for draws in self._trial)
        else:
            control, log_weights = self._drawn(particles, index, stream)
        if self._matrices.shape[-1] == 1:
            return Scored(self._on_grids(index), log_weights)
        # log p - log q = ... + away' (P - C) away / 2
        return Scored(log_weights - torch.where(self._helps[index], control, 0.0), log_weights)

    def _on_grids(self, index: Tensor) -> PerDraw:
        """The ELBO of a single latent on two grids, half a step apart, as draws whose mean and error are theirs."""
        here, batch = self._gaussians.take(index), self._batch.take(index)
        means = []
        for nodes in nodes_in_sets(here, batch, _GRID_NODES, (), reach=_GRID_REACH):
            away = here.deviations(nodes.noise)
            means.append(nodes.mean(self._density.value(here.mean + away, batch) - here.log_density(away)))
        return torch.stack([*means, *means])

    def _drawn(self, particles: int, index: Tensor, stream: Stream) -> tuple[PerDraw, PerDraw]:
        """The control variate, whose mean is 0, and log weights."""
        here, batch = self._gaussians.take(index), self._batch.take(index)

        found = []
        for start, count in blocks(particles):
            away = here.deviations(self._form.noise(here, batch, count, (self._seed, stream, start)))
            log_weights = self._density.value(here.mean + away, batch) - here.log_density(away)
            control = 0.5 * (times(self._matrices[index], away) * away).sum(-1) - self._mean[index]
            found.append(torch.stack([control, log_weights], -1))
        control, log_weights = joined(found).unbind(-1)
        return control, log_weights


def blocks(particles: int) -> Iterator[tuple[int, int]]:
    """So many draws in blocks: how many draws stand before each, and its own number.

    The noise of a draw is named by its block, so that a block's size depends on nothing but its place.
    """
    start = 0
    while start < particles:
        count = min(block_of(start), particles - start)
        yield start, count
        start += count


def block_of(draw: int) -> int:
    """Size of the block in which a draw stands, unless it is the last one."""
    return _FIRST_BLOCKS if draw < _UNTIL else _LATER_BLOCKS
