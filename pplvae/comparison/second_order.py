"""Each row's own optimum where its guide is Gaussian: natural-gradient refinements of what the encoder says.

Every answer is tested on fresh draws (`shortfall`). A row that fails, or that is lower than it began, climbs at fixed
nodes: from where it ended, then from elsewhere, then with more nodes.
"""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pplvae.batch import Batch
from pplvae.comparison.climb import climb, node_elbos
from pplvae.comparison.curvature import Curvature, Matrices
from pplvae.comparison.density import Density, PerDraw
from pplvae.comparison.gaussian import Gaussians, times
from pplvae.comparison.nodes import Nodes, mean_over, nodes_of, test_nodes
from pplvae.comparison.refinement import PerRow, Refinement, per_row, slope_and_curvature
from pplvae.comparison.shortfall import Shortfall, ShortfallTest
from pplvae.noise import Stream, matchable

_HALF = 0.5  # of the tolerance: of a row that has more left, the search goes on instead of the test
_HALVINGS = 6  # of a Newton step that does not rise
_MOST_REFINEMENTS = 200
_TEST_DRAWS = 32  # in each of several sets
_MORE_TEST_NODES = {1: (1024,), 2: (4096, 16384)}  # by the number of latents, where those before cannot tell
# What is tried with the rows that are left, one after the other: whether they begin at the encoder's mean, moved by a
# draw, instead of where they have ended; and at how many nodes, by the number of latents.
_CLIMBS = ((False, 0), (True, 0), (False, 1))
_CLIMB_NODES = {1: (256, 1024), 2: (1024, 4096)}


@dataclass
class Found:
    """What a search found.

    Attributes:
        gaussians: of every row.
        curvature: the mean of minus the second derivative of log p(v_i, u) under them, as far as it is known.
        gain: of the ELBO over the start, in nats, on draws that were not optimised on.
        stderr: of the gain.
        shortfall: what is left, on draws that were not optimised on.
        steps: refinements.
    """

    gaussians: Gaussians
    curvature: Matrices
    gain: PerRow
    stderr: PerRow
    shortfall: Shortfall
    steps: Int64[Tensor, " row"]

    def take(self, index: Tensor) -> "Found":
        """Some of the rows."""
        return Found(*(_taken(getattr(self, field.name), index) for field in fields(self)))

    def put(self, index: Tensor, other: "Found") -> None:
        """Replace some of the rows, but for their steps."""
        self.gaussians.put(index, other.gaussians)
        self.curvature[index], self.gain[index], self.stderr[index] = other.curvature, other.gain, other.stderr
        self.shortfall.nats[index], self.shortfall.stderr[index] = other.shortfall


def _taken(values: Any, index: Tensor) -> Any:
    if isinstance(values, Gaussians):
        return values.take(index)
    return Shortfall(*(some[index] for some in values)) if isinstance(values, Shortfall) else values[index]


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
        steps_of_all: from all starts at most.
    """

    def __init__(self, density: Density, curvature: Curvature, tolerance: float, max_steps: int, seed: int) -> None:
        self.density, self._curvature = density, curvature
        self._tolerance, self._seed = tolerance, seed
        self.steps_of_all = (1 + len(_CLIMBS)) * min(_MOST_REFINEMENTS, max_steps)
        self._max_steps, self.most_steps = max_steps, min(_MOST_REFINEMENTS, max_steps)
        self._refine = Refinement(density, _HALF * tolerance, self.most_steps, seed)
        self._test = ShortfallTest(density, tolerance)

    def __call__(self, start: Gaussians, curvature: Matrices, batch: Batch) -> Found:
        """Find every row's optimum.

        Args:
            start: where it begins.
            curvature: at the means, see `curvature_at`.
            batch: the rows.

        Raises:
            Exception: whatever the model raises where torch.func cannot follow it.
        """
        found = self._refined(start, curvature, batch)
        for attempt, (jittered, size) in enumerate(_CLIMBS, start=1):
            affordable = found.steps + max(1, self.most_steps) <= self._max_steps
            again = torch.nonzero(~self.is_settled(found) & affordable).flatten()
            if len(again) == 0:
                break
            some, rows, best = start.take(again), batch.take(again), found.take(again)
            begin, known = best.gaussians, best.curvature
            if jittered:
                noise = nodes_of(some, rows, 2, (self._seed, Stream.STEP, attempt), grid=False).noise
                begin = type(some)(some.mean + some.spread(noise)[0], some.precision)
                known = self.curvature_at(begin.mean, rows)
            other = self._climbed(some, begin, known, rows, attempt, size)
            better = self.better(other, best)
            found.put(again[better], other.take(better))
            found.steps[again] += other.steps
        return found

    def is_settled(self, found: Found) -> Bool[Tensor, " row"]:
        """Whether a row is at its optimum within the tolerance, and no lower than it began."""
        lower = found.gain < -2 * found.stderr - 0.1 * self._tolerance
        return (found.shortfall.upper < self._tolerance) & ~lower

    def found_elsewhere(self, start: Gaussians, gaussians: Gaussians, batch: Batch, steps: Tensor) -> Found:
        """What another search has found, tested as if it were of this one."""
        known = self.curvature_at(gaussians.mean, batch)
        nodes = nodes_of(gaussians, batch, 8 * _TEST_DRAWS, (self._seed, Stream.STEP, len(_CLIMBS) + 1), "matched")
        known = positive(slope_and_curvature(self.density, gaussians, known, batch, nodes)[1])
        return self._tested(start, gaussians, known, batch, len(_CLIMBS) + 1, steps)

    def curvature_at(self, mean: Tensor, batch: Batch) -> Matrices:
        """The curvature of -log p(v_i, u) at a place, made positive definite."""
        return positive(self._curvature.at(mean.to(self.density.dtype), batch).to(torch.float64))

    def _tested(
        self, start: Gaussians, found: Gaussians, known: Matrices, batch: Batch, attempt: int, steps: Tensor
    ) -> Found:
        """Where a search has ended, with what it has gained and what is left, on draws that it has not seen."""
        gain, stderr = self._gained(start, found, batch, attempt)
        return Found(found, known, gain, stderr, self._left(found, known, batch, attempt), steps)

    def _gained(self, start: Gaussians, found: Gaussians, batch: Batch, attempt: int) -> tuple[PerRow, PerRow]:
        """What guides have gained over a start, with its error; rows that may have lost take more draws."""
        gain, stderr = (torch.full_like(start.mean[:, 0], torch.nan) for _ in range(2))
        rows = torch.arange(len(batch), device=gain.device)
        for count in _test_counts(start.mean.shape[1]):
            old, new, here = start.take(rows), found.take(rows), batch.take(rows)
            sets = test_nodes(old, here, count, (self._seed, Stream.SELECT, attempt, count, 1))
            gain[rows], stderr[rows] = mean_over(sets, partial(self._gain, old, new, here))
            rows = rows[(gain[rows] < 4 * stderr[rows]) & (stderr[rows] > self._tolerance)]
            if len(rows) == 0:
                break
        # What cannot be judged has not gained.
        return gain.nan_to_num(-torch.inf, -torch.inf, -torch.inf), stderr.nan_to_num(0.0)

    def _left(self, found: Gaussians, known: Matrices, batch: Batch, attempt: int) -> Shortfall:
        """What is left; rows for which that cannot be told take more draws, and every look is at draws of its own."""
        left = Shortfall(*(torch.full_like(found.mean[:, 0], torch.inf) for _ in range(2)))
        rows = torch.arange(len(batch), device=found.mean.device)
        for count in _test_counts(found.mean.shape[1]):
            some, here = found.take(rows), batch.take(rows)
            sets = test_nodes(some, here, count, (self._seed, Stream.SELECT, attempt, count))
            nats, stderr = self._test(some, known[rows], here, sets)
            left.nats[rows], left.stderr[rows] = nats, stderr
            # More draws help where noise is the matter. Few draws of what is rarely large, and often nothing, can look
            # sure: where a grid follows, it is asked.
            helped = (nats - 2 * stderr < _HALF * self._tolerance) | ((found.mean.shape[1] == 2) & nats.isfinite())
            rows = rows[~(Shortfall(nats, stderr).upper < self._tolerance) & helped]
            if len(rows) == 0:
                break
        return Shortfall(*(values.nan_to_num(torch.inf) for values in left))

    def better(self, other: Found, best: Found) -> Tensor:
        """Which rows of another search are to replace those of the best so far.

        A settled answer is worth more than one that is not, unless it is clearly lower: in a worse optimum.
        """
        ours, theirs = self.is_settled(best), self.is_settled(other)
        difference, error = other.gain - best.gain, torch.hypot(best.stderr, other.stderr)
        chosen = torch.where(theirs & ~ours, difference > -2 * error - self._tolerance, difference > 0)
        return torch.nonzero(chosen & other.gain.isfinite()).flatten()

    def _gain(self, old: Gaussians, new: Gaussians, batch: Batch, nodes: Nodes) -> PerDraw:
        return node_elbos(self.density, new, nodes, batch) - node_elbos(self.density, old, nodes, batch)

    def _refined(self, start: Gaussians, curvature: Matrices, batch: Batch) -> Found:
        """By fresh draws in every step: cheap, and enough for nearly all rows."""
        found, known = start.copy(), curvature.clone()
        steps = torch.zeros_like(batch.keys)
        if self.most_steps:
            known = self._approached(found, known, batch)
            _, steps = self._refine(found, known, batch, 0)
        return self._tested(start, found, known, batch, 0, steps)

    def _climbed(
        self, start: Gaussians, begin: Gaussians, known: Matrices, batch: Batch, attempt: int, size: int
    ) -> Found:
        """At fixed nodes, many of them."""
        found, elements = begin.copy(), begin.mean.shape[1]
        count = _CLIMB_NODES.get(elements, tuple(times * max(_TEST_DRAWS, elements) for times in (8, 32)))[size]
        nodes = nodes_of(found, batch, count, (self._seed, Stream.STEP, attempt, 1), "matched")
        steps = climb(self.density, found, known, batch, nodes, self._tolerance, self.most_steps)
        return self._tested(start, found, known, batch, attempt, steps)

    def _approached(self, found: Gaussians, curvature: Matrices, batch: Batch) -> Matrices:
        """Better places to begin, in place, and the curvature there.

        Rows that are far from a mode take a Newton step; where the curvature's own precision is better than that of the
        guide, it is taken.
        """
        slope = self.density.slope(found.mean.unsqueeze(0), batch)
        step = times(torch.cholesky_inverse(torch.linalg.cholesky_ex(curvature)[0]), slope)[0]
        # Refinements go no further than that in one step.
        rows = torch.nonzero((step * slope[0]).sum(-1) > step.shape[-1]).flatten()
        mean, here = found.mean.clone(), curvature.clone()
        if len(rows):
            mean[rows] = self._risen(found.mean[rows], step[rows], batch.take(rows))
            here[rows] = self.curvature_at(mean[rows], batch.take(rows))
        laplace = type(found)(mean, found.own_form(here).clone())
        nodes = nodes_of(found, batch, _TEST_DRAWS // 2, (self._seed, Stream.SELECT, 0), grid=False)
        better = nodes.mean(self._gain(found, laplace, batch, nodes)) > 0
        far = torch.zeros_like(better).index_fill(0, rows, True)
        chosen = torch.nonzero(better | far).flatten()
        found.put(chosen, laplace.take(chosen))
        return per_row(better | far, here, curvature)

    def _risen(self, mean: Tensor, step: Tensor, batch: Batch) -> Tensor:
        """The mean after a step, which is halved until log p rises; where it never does, as it was."""
        mean, value = mean.clone(), self.density.value(mean.unsqueeze(0), batch)[0]
        waiting = torch.arange(len(mean), device=mean.device)
        for halving in range(_HALVINGS):
            tried = mean[waiting] + step[waiting] * 0.5**halving
            rises = self.density.value(tried.unsqueeze(0), batch.take(waiting))[0] >= value[waiting]
            mean[waiting[rises]] = tried[rises]
            waiting = waiting[~rises]
            if len(waiting) == 0:
                break
        return mean


def positive(curvature: Matrices) -> Matrices:
    """The curvature with so much added to its diagonal that it is positive definite."""
    failed = torch.linalg.cholesky_ex(curvature)[1]
    size = curvature.diagonal(dim1=-2, dim2=-1).abs().mean(-1)
    share = 1e-7
    while share < 1e3 and bool((failed > 0).any()):
        more = torch.where(failed > 0, share * size, 0.0)
        curvature = curvature + torch.diag_embed(more.unsqueeze(-1).expand(curvature.shape[:-1]))
        failed = torch.linalg.cholesky_ex(curvature)[1]
        share *= 10
    return curvature


def _test_counts(elements: int) -> tuple[int, ...]:
    """How many nodes a row is tested at: more, as long as they cannot tell."""
    few = 8 * _TEST_DRAWS if elements == 1 else max(_TEST_DRAWS, 2 * matchable(elements))
    return few, *_MORE_TEST_NODES.get(elements, (4 * few, 16 * few, 64 * few))
