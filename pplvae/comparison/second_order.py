"""Each row's own optimum where its guide is Gaussian: natural-gradient refinements of what the encoder says.

A row that starts far off takes a Newton step first. One that looks wrong afterwards is sought again from elsewhere.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pplvae.batch import Batch
from pplvae.comparison.curvature import Curvature, Matrices
from pplvae.comparison.density import Density, PerDraw, Vectors
from pplvae.comparison.estimates import mean_and_stderr
from pplvae.comparison.gaussian import Gaussians
from pplvae.comparison.refinement import PerRow, Refinement, noise_of, times
from pplvae.noise import Stream

_HALVINGS = 6  # of a Newton step that does not rise
_MOST_REFINEMENTS = 200
_SELECTION_DRAWS = 16  # at first; four times as many where they cannot tell whether a row has gained
_MOST_SELECTION_DRAWS = 2048
_RESTARTS = 2


class Found(NamedTuple):
    """What a search found.

    Attributes:
        gaussians: of every row.
        gain: of the ELBO over the start, in nats, on draws that were not optimised on.
        stderr: of the gain.
        settled: whether a row's mean slope and curvature are what they should be, within the tolerance.
        steps: refinements.
    """

    gaussians: Gaussians
    gain: PerRow
    stderr: PerRow
    settled: Bool[Tensor, " row"]
    steps: Int64[Tensor, " row"]


class _Sample(NamedTuple):
    """The ELBO of a Gaussian of every row, but for a constant, draw by draw, and the noise of the draws."""

    noise: Vectors
    elbo: PerDraw


class SecondOrder:
    """The search, for the rows of one pair.

    Args:
        density: log p(v_i, u).
        curvature: of its negative.
        tolerance: nats that noise and distance from the optimum may leave.
        max_steps: refinements of a row at most, from all its starts.
        seed: names the noise.

    Attributes:
        most_steps: refinements of a row from one start at most.
    """

    def __init__(self, density: Density, curvature: Curvature, tolerance: float, max_steps: int, seed: int) -> None:
        self._density, self._curvature = density, curvature
        self._tolerance, self._seed = tolerance, seed
        self._max_steps, self.most_steps = max_steps, min(_MOST_REFINEMENTS, max_steps)
        self._refine = Refinement(density, tolerance, self.most_steps, seed)

    def __call__(self, start: Gaussians, batch: Batch) -> Found:
        """Find every row's optimum; rows that look wrong are sought again from jittered starts.

        Raises:
            Exception: whatever the model raises where torch.func cannot follow it.
        """
        found = self._search(start, start.mean, batch, 0)
        for attempt in range(1, 1 + _RESTARTS):
            # A row that is lower than it began is in another, worse optimum, or not in any.
            lower = found.gain < -self._tolerance - 2 * found.stderr
            affordable = found.steps + max(1, self.most_steps) <= self._max_steps
            again = torch.nonzero((lower | ~found.settled) & affordable).flatten()
            if len(again) == 0:
                break
            some, rows = start.take(again), batch.take(again)
            jitter = some.spread(noise_of(some, rows, 2, (self._seed, Stream.STEP, attempt)))[0]
            other = self._search(some, some.mean + jitter, rows, attempt)
            better = other.gain > found.gain[again]
            found.gaussians.put(again[better], other.gaussians.take(better))
            for ours, theirs in zip(found[1:4], other[1:4], strict=True):  # gain, stderr, settled
                ours[again[better]] = theirs[better]
            found.steps[again] += other.steps
        return found

    def _elbo(self, gaussians: Gaussians, noise: Vectors, batch: Batch) -> PerDraw:
        """The ELBO but for a constant: draws of log p, and the entropy."""
        value = self._density.value(gaussians.mean + gaussians.spread(noise), batch)
        return (value + gaussians.log_volume()).to(torch.float64)

    def _gain(self, start: Gaussians, found: Gaussians, batch: Batch, first: _Sample) -> tuple[PerRow, PerRow]:
        """What the ELBO has gained, with standard errors; rows that may have lost take more draws."""
        gain, stderr = mean_and_stderr(self._elbo(found, first.noise, batch) - first.elbo)
        rows, draws = torch.arange(len(batch), device=gain.device), _SELECTION_DRAWS
        while True:
            rows = rows[(gain[rows] < 4 * stderr[rows]) & (stderr[rows] > self._tolerance)]
            draws *= 4
            if len(rows) == 0 or draws > _MOST_SELECTION_DRAWS:
                # What cannot be judged has not gained.
                return gain.nan_to_num(-torch.inf, -torch.inf, -torch.inf), stderr.nan_to_num(0.0)
            more = self._sample(start.take(rows), batch.take(rows), draws)
            elbo = self._elbo(found.take(rows), more.noise, batch.take(rows))
            gain[rows], stderr[rows] = mean_and_stderr(elbo - more.elbo)

    def _sample(self, gaussians: Gaussians, batch: Batch, draws: int) -> _Sample:
        noise = noise_of(gaussians, batch, draws, (self._seed, Stream.SELECT, draws))
        return _Sample(noise, self._elbo(gaussians, noise, batch))

    def _search(self, start: Gaussians, mean: Tensor, batch: Batch, attempt: int) -> Found:
        found = type(start)(mean.clone(), start.precision.clone())
        sample = self._sample(start, batch, _SELECTION_DRAWS)
        curvature = self._approached(found, self._at(mean, batch), batch)
        settled, steps = self._refine(found, curvature, batch, attempt)
        return Found(found, *self._gain(start, found, batch, sample), settled, steps)

    def _approached(self, found: Gaussians, curvature: Matrices, batch: Batch) -> Matrices:
        """Newton steps of the rows that are far from a mode, in place; the curvature of all where they are then."""
        slope = self._density.slope(found.mean.unsqueeze(0), batch)
        step = times(torch.cholesky_inverse(torch.linalg.cholesky_ex(curvature)[0]), slope)[0]
        # Refinements go no further than that in one step.
        rows = torch.nonzero((step * slope[0]).sum(-1) > step.shape[-1]).flatten()
        if len(rows) == 0 or self.most_steps == 0:
            return curvature
        mean, here = self._risen(found.mean[rows], step[rows], batch.take(rows)), curvature.clone()
        here[rows] = self._at(mean, batch.take(rows))
        found.put(rows, type(found)(mean, found.own_form(here[rows])))
        return here

    def _risen(self, mean: Tensor, step: Tensor, batch: Batch) -> Tensor:
        """The mean after a step, which is halved until log p rises; where it never does, as it was."""
        mean, value = mean.clone(), self._density.value(mean.unsqueeze(0), batch)[0]
        waiting = torch.arange(len(mean), device=mean.device)
        for halving in range(_HALVINGS):
            tried = mean[waiting] + step[waiting] * 0.5**halving
            rises = self._density.value(tried.unsqueeze(0), batch.take(waiting))[0] >= value[waiting]
            mean[waiting[rises]] = tried[rises]
            waiting = waiting[~rises]
            if len(waiting) == 0:
                break
        return mean

    def _at(self, mean: Tensor, batch: Batch) -> Matrices:
        return _positive(self._curvature.at(mean, batch))


def _positive(curvature: Matrices) -> Matrices:
    """The curvature with so much added to its diagonal that it is positive definite."""
    failed = torch.linalg.cholesky_ex(curvature)[1]
    size = curvature.diagonal(dim1=-2, dim2=-1).abs().mean(-1)
    share = 1e-3
    while share < 1e3 and bool((failed > 0).any()):
        more = torch.where(failed > 0, share * size, 0.0)
        curvature = curvature + torch.diag_embed(more.unsqueeze(-1).expand(curvature.shape[:-1]))
        failed = torch.linalg.cholesky_ex(curvature)[1]
        share *= 10
    return curvature
