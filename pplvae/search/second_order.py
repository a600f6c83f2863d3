"""Each row's own optimum where its guide is Gaussian: natural-gradient refinements of what the encoder says.

Every answer is tested on fresh draws (`shortfall`). A row that fails, or that is lower than it began, climbs at fixed
nodes: from where it ended, from elsewhere, then with more and more nodes. At last the likeliest of some draws from the
prior is tried as a start: the encoder may know the lesser of two modes only.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream
from pplvae.programs.shapes import Matrices, PerRow
from pplvae.programs.widening import widened
from pplvae.search.climb import climb
from pplvae.search.curvature import Curvature
from pplvae.search.density import Density
from pplvae.search.gaussian import Gaussians, inverse_of, times
from pplvae.search.judging import TEST_DRAWS, Found, Judge
from pplvae.search.nodes import nodes_of, pieces_of
from pplvae.search.refinement import Refinement, per_row, slope_and_curvature

_REFINED = 0.5  # of the tolerance: what refinements may leave, so that the test has room for its error
_HALVINGS = 6  # of a Newton step that does not rise
_MOST_REFINEMENTS = 200
_BRIEFLY, _PRIOR_DRAWS = 20, 32  # refinements from elsewhere; draws of which the likeliest is such a place
_SAME = 1  # nats: Gaussians that differ by less belong to one mode
_LIKELY = 10  # nats, and one for each latent: what such a place may be less likely than the mean of a row's own guide
# What is tried with the rows that are left, one after the other: whether they begin at the encoder's mean, moved by a
# draw, instead of where they have ended; and at how many nodes, by the number of latents.
_CLIMBS = ((False, 0), (True, 0), (False, 1), (False, 2))
ELSEWHERE = len(_CLIMBS) + 1  # names the draws with which answers of another search are judged
_CLIMB_NODES = {1: (256, 1024, 4096), 2: (1024, 4096, 16384)}
_CLIMB_DRAWS = (8, 32, 128)  # of more latents: so many times those of a test


class SecondOrder:
    """The search, for the rows of one pair.

    Args:
        density: log p(v_i, u).
        curvature: of its negative.
        tolerance: nats that noise and distance from the optimum may leave.
        max_steps: refinements of a row at most, from all its starts.
        seed: names the noise.

    Attributes:
        density, seed: see above.
        judge: of its answers.
        most_steps: refinements of a row from one start at most.
        steps_of_all: from all starts at most.
    """

    def __init__(self, density: Density, curvature: Curvature, tolerance: float, max_steps: int, seed: int) -> None:
        self.density, self._curvature = density, curvature
        self._tolerance, self.seed = tolerance, seed
        self.steps_of_all = (1 + len(_CLIMBS)) * min(_MOST_REFINEMENTS, max_steps)
        self._max_steps, self.most_steps = max_steps, min(_MOST_REFINEMENTS, max_steps)
        self._refine = Refinement(density, _REFINED * tolerance, self.most_steps, seed)
        self._refine_briefly = Refinement(density, _REFINED * tolerance, min(_BRIEFLY, max_steps), seed)
        self.judge = Judge(density, tolerance, seed)

    def __call__(self, start: Gaussians, curvature: Matrices, batch: Batch, earlier: Gaussians | None = None) -> Found:
        """Find every row's optimum.

        Args:
            start: where it begins.
            curvature: at the means, see `curvature_at`.
            batch: the rows.
            earlier: the rows' own guides under earlier weights, which it goes on from where they are clearly better
                than where refinements from the start have led; so a row never stays in a mode that has become the
                lesser one.

        Raises:
            Exception: whatever the model raises where torch.func cannot follow it.
        """
        found = self._refined(start, curvature, batch, earlier)
        for attempt, (jittered, size) in enumerate(_CLIMBS, start=1):
            affordable = found.steps + max(1, self.most_steps) <= self._max_steps
            again = torch.nonzero(~self.judge.is_settled(found) & affordable).flatten()
            if len(again) == 0:
                break
            some, rows, best = start.take(again), batch.take(again), found.take(again)
            begin, known = best.gaussians, best.curvature
            if jittered:
                noise = nodes_of(some, rows, 2, (self.seed, Stream.STEP, attempt), grid=False).noise
                begin = type(some)(some.mean + some.deviations(noise)[0], some.precision)
                known = self.curvature_at(begin.mean, rows)
            other = self._climbed(some, begin, known, rows, attempt, size)
            better = self.judge.better(other, best, rows, attempt)
            found.put(again[better], other.take(better))
            found.steps[again] += other.steps
        return self._from_the_prior(start, found, batch)

    def gain_elsewhere(
        self, found: Gaussians, mean: Tensor, batch: Batch, attempt: int
    ) -> tuple[Gaussians, Matrices, PerRow, PerRow, Int64[Tensor, " row"]]:
        """A short search from another place, and what it ends above what has been found, with its error.

        Returns:
            Where it ends, the curvature there, the gain, its standard error, and the steps. A row that ends in the same
            place has gained nothing: both numbers are 0.
        """
        known = self.curvature_at(mean, batch)
        other = type(found)(mean.clone(), found.own_form(known).clone())
        known = self._approached(other, known, batch)
        steps = self._refine_briefly(other, known, batch, attempt)
        gain, stderr = torch.zeros_like(known[:, 0, 0]), torch.zeros_like(known[:, 0, 0])
        elsewhere = torch.nonzero(~(found.divergence(other) < _SAME)).flatten()
        if len(elsewhere):
            ours, theirs, here = found.take(elsewhere), other.take(elsewhere), batch.take(elsewhere)
            gain[elsewhere], stderr[elsewhere] = self.judge.gained(ours, theirs, here, attempt)
        return other, known, gain, stderr, steps

    def _from_the_prior(self, start: Gaussians, found: Found, batch: Batch) -> Found:
        """Where another mode is clearly better than that of the encoder, go there.

        The likeliest of some draws from the prior is a place that the encoder knows nothing of. Where it is far less
        likely than the guide's own mean, a search from there would be one from anywhere, and is left out.
        """
        affordable = found.steps + _BRIEFLY + self.most_steps <= self._max_steps
        if self.most_steps < _MOST_REFINEMENTS or not bool(affordable.any()):
            return found
        attempt = ELSEWHERE + 1
        draws = self.density.draw_prior(batch, _PRIOR_DRAWS, (self.seed, Stream.STEP, attempt))
        value, best = self.density.value(draws, batch).nan_to_num(-torch.inf).max(0)
        own = self.density.value(found.gaussians.mean.unsqueeze(0), batch)[0]
        likely = value > own - _LIKELY - draws.shape[2]
        rows = torch.nonzero(affordable & likely & found.gain.isfinite()).flatten()
        if len(rows) == 0:
            return found
        here, gaussians = batch.take(rows), found.gaussians.take(rows)
        mean = draws[best[rows], rows]
        other, known, gain, stderr, steps = self.gain_elsewhere(gaussians, mean, here, attempt)
        found.steps[rows] += steps
        higher = torch.nonzero(gain > self._tolerance + 3 * stderr).flatten()
        if len(higher) == 0:
            return found
        some, again = start.take(rows[higher]), here.take(higher)
        moved = self._climbed(some, other.take(higher), known[higher], again, attempt, 0)
        better = self.judge.better(moved, found.take(rows[higher]), again, attempt)
        found.put(rows[higher][better], moved.take(better))
        found.steps[rows[higher]] += moved.steps
        return found

    def found_elsewhere(self, start: Gaussians, gaussians: Gaussians, batch: Batch, steps: Tensor) -> Found:
        """What another search has found, tested as if it were of this one."""
        known = self.curvature_at(gaussians.mean, batch)
        nodes = nodes_of(gaussians, batch, 8 * TEST_DRAWS, (self.seed, Stream.STEP, ELSEWHERE), "matched")
        known = positive(slope_and_curvature(self.density, gaussians, known, batch, nodes)[1])
        return self.judge.tested(start, gaussians, known, batch, steps, ELSEWHERE)

    def curvature_at(self, mean: Tensor, batch: Batch) -> Matrices:
        """The curvature of -log p(v_i, u) at a place, made positive definite."""
        return positive(widened(self._curvature.at(mean.to(self.density.dtype), batch)))

    def _refined(self, start: Gaussians, curvature: Matrices, batch: Batch, earlier: Gaussians | None) -> Found:
        """By fresh draws in every step: cheap, and enough for nearly all rows."""
        found, known = start.copy(), curvature.clone()
        steps = torch.zeros_like(batch.keys)
        if self.most_steps:
            known = self._approached(found, known, batch)
            steps = self._refine(found, known, batch, 0)
        if self.most_steps and earlier is not None:
            steps += self._from_earlier(found, known, earlier, batch)
        return self.judge.tested(start, found, known, batch, steps, 0)

    def _from_earlier(
        self, found: Gaussians, known: Matrices, earlier: Gaussians, batch: Batch
    ) -> Int64[Tensor, " row"]:
        """Go on, in place, from guides of an earlier search where they are better; how many refinements that took."""
        attempt, steps = ELSEWHERE + 2, torch.zeros_like(batch.keys)
        nodes = nodes_of(found, batch, TEST_DRAWS, (self.seed, Stream.SELECT, attempt), grid=False)
        better = nodes.mean(self.judge.gain(found, earlier, batch, nodes)) > self._tolerance  # NaN is not
        rows = torch.nonzero(better).flatten()
        if len(rows):
            some, here = earlier.take(rows), batch.take(rows)
            curvature = self.curvature_at(some.mean, here)
            steps[rows] = self._refine(some, curvature, here, attempt)
            found.put(rows, some)
            known[rows] = curvature
        return steps

    def _climbed(
        self, start: Gaussians, begin: Gaussians, known: Matrices, batch: Batch, attempt: int, size: int
    ) -> Found:
        """At fixed nodes, many of them."""
        found, elements = begin.copy(), begin.mean.shape[1]
        count = _CLIMB_NODES.get(elements, tuple(more * max(TEST_DRAWS, elements) for more in _CLIMB_DRAWS))[size]
        steps, known = torch.zeros_like(batch.keys), known.clone()
        for rows in pieces_of(torch.arange(len(batch), device=known.device), found, count):
            some, curvature, here = found.take(rows), known[rows], batch.take(rows)
            nodes = nodes_of(some, here, count, (self.seed, Stream.STEP, attempt, 1), "matched")
            steps[rows] = climb(self.density, some, curvature, here, nodes, self._tolerance, self.most_steps)
            found.put(rows, some)
            known[rows] = curvature
        return self.judge.tested(start, found, known, batch, steps, attempt)

    def _approached(self, found: Gaussians, curvature: Matrices, batch: Batch) -> Matrices:
        """Better places to begin, in place, and the curvature there.

        Rows that are far from a mode take a Newton step; where the curvature's own precision is better than that of the
        guide, it is taken.
        """
        slope = self.density.slope(found.mean.unsqueeze(0), batch)
        step = times(inverse_of(torch.linalg.cholesky_ex(curvature)[0]), slope)[0]
        # Refinements go no further than that in one step.
        rows = torch.nonzero((step * slope[0]).sum(-1) > step.shape[-1]).flatten()
        mean, here = found.mean.clone(), curvature.clone()
        if len(rows):
            mean[rows] = self._risen(found.mean[rows], step[rows], batch.take(rows))
            here[rows] = self.curvature_at(mean[rows], batch.take(rows))
        laplace = type(found)(mean, found.own_form(here).clone())
        nodes = nodes_of(found, batch, TEST_DRAWS // 2, (self.seed, Stream.SELECT, 0), grid=False)
        better = nodes.mean(self.judge.gain(found, laplace, batch, nodes)) > 0
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
