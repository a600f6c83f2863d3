"""What a search has won, and what it has left: every answer is judged on draws that no search has seen."""

from dataclasses import dataclass, fields
from functools import partial
from typing import Any

import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream, matchable
from pplvae.programs.shapes import Matrices, PerDraw, PerRow
from pplvae.search.climb import node_elbos
from pplvae.search.density import Density
from pplvae.search.gaussian import Gaussians, times
from pplvae.search.nodes import Nodes, mean_over, nodes_in_sets, pieces_of
from pplvae.search.shortfall import Shortfall, ShortfallTest

TEST_DRAWS = 32  # in each of several sets
_MORE_TEST_NODES = {
    1: (1024,),
    2: (4 * TEST_DRAWS, 16 * TEST_DRAWS, 4096, 16384),
}  # by the number of latents, where those before cannot tell
_CLEARLY_LEFT = 0.5  # of the tolerance: of a row that surely has more left, the search goes on instead of the test


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

    def lost_by(self, other: Gaussians) -> PerRow:
        """The ELBO that is lost by moving the means to those of other Gaussians, in nats."""
        away = (other.mean - self.gaussians.mean).unsqueeze(0)
        return 0.5 * (times(self.curvature, away) * away).sum(-1)[0]

    def put(self, index: Tensor, other: "Found") -> None:
        """Replace some of the rows, but for their steps."""
        self.gaussians.put(index, other.gaussians)
        self.curvature[index], self.gain[index], self.stderr[index] = other.curvature, other.gain, other.stderr
        self.shortfall.nats[index], self.shortfall.stderr[index] = other.shortfall


def _taken(values: Any, index: Tensor) -> Any:
    if isinstance(values, Gaussians):
        return values.take(index)
    return Shortfall(*(some[index] for some in values)) if isinstance(values, Shortfall) else values[index]


class Judge:
    """The judge of one search.

    Args:
        density: log p(v_i, u).
        tolerance: nats that may be left.
        seed: names the draws.
    """

    def __init__(self, density: Density, tolerance: float, seed: int) -> None:
        self._density, self._tolerance, self._seed = density, tolerance, seed
        self._test = ShortfallTest(density, tolerance)

    def is_settled(self, found: Found) -> Bool[Tensor, " row"]:
        """Whether a row is at its optimum within the tolerance, and no lower than it began."""
        lower = found.gain < -2 * found.stderr - 0.1 * self._tolerance
        return (found.shortfall.upper < self._tolerance) & ~lower

    def tested(
        self,
        start: Gaussians,
        found: Gaussians,
        known: Matrices,
        batch: Batch,
        steps: Tensor,
        attempt: int,
    ) -> Found:
        """Where a search has ended, with what it has gained and what is left, on draws that it has not seen.

        Args:
            start: where it began.
            found: where it has ended.
            known: of the curvature there, positive definite.
            batch: the rows.
            steps: that it has taken.
            attempt: names the draws.
        """
        gain, stderr = self.gained(start, found, batch, attempt)
        return Found(found, known, gain, stderr, self._left(found, known, batch, attempt), steps)

    def gained(
        self, start: Gaussians, found: Gaussians, batch: Batch, attempt: int, *, closely: bool = False
    ) -> tuple[PerRow, PerRow]:
        """How much higher the ELBO is than at a start, with its error; rows that may be lower take more draws.

        Args:
            start: some guides.
            found: others.
            batch: the rows.
            attempt: names the draws.
            closely: leave out the look at a few draws, see `_sure_counts`.
        """
        gain, stderr = (torch.full_like(start.mean[:, 0], torch.nan) for _ in range(2))
        rows = torch.arange(len(batch), device=gain.device)
        for count in (_sure_counts if closely else _test_counts)(start.mean.shape[1]):
            for some in pieces_of(rows, start, count):
                old, new, here = start.take(some), found.take(some), batch.take(some)
                sets = nodes_in_sets(old, here, count, (self._seed, Stream.SELECT, attempt, count, 1), most=1)
                gain[some], stderr[some] = mean_over(sets, partial(self.gain, old, new, here))
            rows = rows[(gain[rows] < 4 * stderr[rows]) & (stderr[rows] > self._tolerance)]
            if len(rows) == 0:
                break
        # What cannot be judged has not gained.
        return gain.nan_to_num(-torch.inf, -torch.inf, -torch.inf), stderr.nan_to_num(0.0)

    def _left(self, found: Gaussians, known: Matrices, batch: Batch, attempt: int) -> Shortfall:
        """What a further step would win; while that cannot be told, more draws are taken, each time new ones."""
        left = Shortfall(*(torch.full_like(found.mean[:, 0], torch.inf) for _ in range(2)))
        rows = torch.arange(len(batch), device=found.mean.device)
        for count in _test_counts(found.mean.shape[1]):
            for some in pieces_of(rows, found, count):
                here = batch.take(some)
                sets = nodes_in_sets(found.take(some), here, count, (self._seed, Stream.SELECT, attempt, count))
                left.nats[some], left.stderr[some] = self._test(found.take(some), known[some], here, sets)
            nats, stderr = left.nats[rows], left.stderr[rows]
            # More draws help where noise is the matter. Few draws of what is rarely large, and often nothing, can look
            # sure: where a grid follows, it is asked.
            helped = (nats - 2 * stderr < _CLEARLY_LEFT * self._tolerance) | (
                (found.mean.shape[1] == 2) & nats.isfinite()
            )
            rows = rows[~(Shortfall(nats, stderr).upper < self._tolerance) & helped]
            if len(rows) == 0:
                break
        return Shortfall(*(values.nan_to_num(torch.inf) for values in left))

    def better(self, other: Found, best: Found, batch: Batch, attempt: int) -> Tensor:
        """Which rows of another search are to replace those of the best so far, on draws of their own.

        A settled answer is worth more than one that is not, unless it is clearly lower: in a worse optimum.
        """
        ours, theirs = self.is_settled(best), self.is_settled(other)
        gain, stderr = self.gained(best.gaussians, other.gaussians, batch, -2 - attempt, closely=True)
        chosen = torch.where(theirs & ~ours, gain > -2 * stderr - self._tolerance, gain > 0)
        return torch.nonzero(chosen & other.gain.isfinite()).flatten()

    def gain(self, old: Gaussians, new: Gaussians, batch: Batch, nodes: Nodes) -> PerDraw:
        """By how much one guide's ELBO is above another's, at each node."""
        return node_elbos(self._density, new, nodes, batch) - node_elbos(self._density, old, nodes, batch)


def _test_counts(elements: int) -> tuple[int, ...]:
    """Numbers of nodes for a row's test, to be tried one after the other until the test can tell."""
    few = 8 * TEST_DRAWS if elements == 1 else max(TEST_DRAWS, 2 * matchable(elements))
    return few, *_MORE_TEST_NODES.get(elements, (4 * few, 16 * few, 64 * few))


def _sure_counts(elements: int) -> tuple[int, ...]:
    """Those of them that compare two answers: a few draws miss what is rare, and look sure; two latents have grids."""
    return _test_counts(elements)[-2 if elements == 2 else 1 :]
