"""Each row's own optimum where its guide is Gaussian: a Newton step to the mode, then natural-gradient refinements.

A row whose guide is good already is refined from there; one that looks wrong is sought again from elsewhere.
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
from pplvae.comparison.refinement import PerRow, Place, Refinement, noise_of, per_row, times
from pplvae.noise import Stream

_NEWTON_STEPS = 1  # to the mode: a refinement moves the mean as well, and costs no more
_HALVINGS = 6  # of a Newton step that does not rise
_MOST_REFINEMENTS = 200
_NEAR = 1.0  # nats: a standard error of what the mode is better by; a guide that is further off is left for it
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
        finite: whether everything at a row was.
        steps: Newton steps and refinements.
    """

    gaussians: Gaussians
    gain: PerRow
    stderr: PerRow
    settled: Bool[Tensor, " row"]
    finite: Bool[Tensor, " row"]
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
        max_steps: Newton steps and refinements per row at most.
        seed: names the noise.
    """

    def __init__(self, density: Density, curvature: Curvature, tolerance: float, max_steps: int, seed: int) -> None:
        self._density, self._curvature = density, curvature
        self._tolerance, self._seed = tolerance, seed
        self._newton = min(_NEWTON_STEPS, max_steps)
        self._refinements = min(_MOST_REFINEMENTS, max_steps - self._newton)
        self._refine = Refinement(density, tolerance, self._refinements, seed)
        self._max_steps = max_steps

    @property
    def most_steps(self) -> int:
        """Of a row from one start."""
        return self._newton + self._refinements

    def __call__(self, start: Gaussians, batch: Batch) -> Found:
        """Find every row's optimum; rows that look wrong are sought again from jittered starts.

        Raises:
            Exception: whatever the model raises where torch.func cannot follow it.
        """
        found = self._search(start, start.mean, batch, 0)
        for attempt in range(1, 1 + _RESTARTS):
            # A row that is lower than it began is in another, worse optimum, or not in any.
            lower = found.gain < -self._tolerance - 2 * found.stderr
            affordable = found.steps + self.most_steps <= self._max_steps
            again = torch.nonzero(found.finite & (lower | ~found.settled) & affordable).flatten()
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
        if self.most_steps == 0:
            nothing = start.mean.new_zeros(len(batch), dtype=torch.float64)
            never = torch.zeros_like(nothing, dtype=torch.bool)
            return Found(start, nothing, nothing, never, never, torch.zeros_like(batch.keys))
        here = self._place(mean, batch)
        mode = self._climb(here, batch)
        found = type(start)(mode.mean.clone(), start.own_form(mode.curvature).clone())
        sample = self._sample(start, batch, _SELECTION_DRAWS)
        if attempt == 0 and self._refinements > 0:
            mode = self._stay(start, here, found, mode, batch, sample)
        settled, steps = self._refine(found, mode, batch, attempt)
        return Found(found, *self._gain(start, found, batch, sample), settled, mode.finite, steps + self._newton)

    def _stay(
        self, start: Gaussians, here: Place, found: Gaussians, mode: Place, batch: Batch, sample: _Sample
    ) -> Place:
        """Begin the refinements of a row where it started, in place, unless its mode is clearly better.

        A good guide is near its optimum, and may lie over several modes.
        """
        gain, stderr = mean_and_stderr(self._elbo(found, sample.noise, batch) - sample.elbo)
        stays = here.finite & ((gain < 2 * stderr) & (stderr < _NEAR) | ~mode.finite)
        rows = torch.nonzero(stays).flatten()
        found.put(rows, start.take(rows))
        return Place(*(per_row(stays, ours, theirs) for ours, theirs in zip(here, mode, strict=True)))

    def _climb(self, start: Place, batch: Batch) -> Place:
        """Newton steps towards the mode of log p(v_i, u), each halved until it rises."""
        place, mean = start, start.mean.clone()
        value = self._density.value(mean.unsqueeze(0), batch)[0]
        for _ in range(self._newton):
            step = times(place.inverse, self._density.slope(mean.unsqueeze(0), batch))[0]
            waiting = torch.arange(len(mean), device=mean.device)
            for halving in range(_HALVINGS):
                tried = mean[waiting] + step[waiting] * 0.5**halving
                values = self._density.value(tried.unsqueeze(0), batch.take(waiting))[0]
                rises = values >= value[waiting]
                mean[waiting[rises]], value[waiting[rises]] = tried[rises], values[rises]
                waiting = waiting[~rises]
                if len(waiting) == 0:
                    break
            place = self._place(mean, batch)
        return place._replace(finite=place.finite & value.isfinite())

    def _place(self, mean: Tensor, batch: Batch) -> Place:
        curvature, inverse = _positive(self._curvature.at(mean, batch))
        return Place(mean, curvature, inverse, inverse.flatten(1).isfinite().all(1))


def _positive(curvature: Matrices) -> tuple[Matrices, Matrices]:
    """The curvature with so much added to its diagonal that it is positive definite, and its inverse."""
    root, failed = torch.linalg.cholesky_ex(curvature)
    size = curvature.diagonal(dim1=-2, dim2=-1).abs().mean(-1)
    share = 1e-3
    while share < 1e3 and bool((failed > 0).any()):
        more = torch.where(failed > 0, share * size, 0.0)
        curvature = curvature + torch.diag_embed(more.unsqueeze(-1).expand(curvature.shape[:-1]))
        root, failed = torch.linalg.cholesky_ex(curvature)
        share *= 10
    return curvature, torch.cholesky_inverse(root)
