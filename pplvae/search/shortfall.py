"""What a further step would still win of the ELBO at a Gaussian guide, on draws that no search has seen.

At the optimum of a Gaussian family the mean slope of log p(v, h) vanishes, and the precision is the mean curvature in
the family's form. Both are estimated here from fresh draws. In the metric of the curvature their distance from that is
a vector y of numbers whose squares add up to the nats that a natural-gradient step wins. The mean of y·y over draws is
too large by the noise of the draws; products of different sets of draws are not (a U-statistic), and leaving out one
batch after the other gives their error.

That is what one step wins. Where it does not arrive, because mean and precision pull against each other or because the
curvature is not what it was taken for, the step is taken on the same draws and y looked at again: if it shrinks by a
factor of r only, 1 / (1 - r) times as much is left.

References:
    A class of statistics with asymptotically normal distribution (Hoeffding, 1948), for U-statistics; The jackknife
    estimate of variance (Efron and Stein, 1981).
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.shapes import Matrices, PerRow
from pplvae.search.density import Density
from pplvae.search.gaussian import Gaussians, inverse_of, times
from pplvae.search.nodes import Nodes
from pplvae.search.refinement import slope_and_curvature

_UPPER = 2.353  # standard errors to the upper 95 % end, where they come from four sets (Student's t, 3 degrees)
_OVERSHOOT = 0.5  # of y, turned round: a step that goes further too far shows that y is not what it was taken for
_LARGEST_SHRINKAGE = 0.95  # of y in a step; slower than that cannot be told from standing still

Standardised = Float[Tensor, "row number"]


class Shortfall(NamedTuple):
    """What is left of the ELBO of each row, in nats, with its standard error; unbiased, so it may be negative."""

    nats: PerRow
    stderr: PerRow

    @property
    def upper(self) -> PerRow:
        """The upper end of a 95 % interval; what is left is not negative, whatever the draws say."""
        return self.nats.clamp(min=0) + _UPPER * self.stderr


class ShortfallTest:
    """The test at Gaussian guides of one pair.

    Args:
        density: log p(v_i, u).
        tolerance: nats; a second look is taken at the rows for which it decides whether they are below.
    """

    def __init__(self, density: Density, tolerance: float) -> None:
        self._density, self._tolerance = density, tolerance

    def __call__(self, gaussians: Gaussians, curvature: Matrices, batch: Batch, sets: Sequence[Nodes]) -> Shortfall:
        """What is left at Gaussian guides.

        Args:
            gaussians: of every row.
            curvature: of -log p(v_i, u) under them, as far as it is known; positive definite.
            batch: the rows.
            sets: fresh nodes, see `nodes.nodes_in_sets`.
        """
        root = torch.linalg.cholesky_ex(curvature)[0]
        slope, target, each = self._looked_at(gaussians, gaussians, root, curvature, batch, sets)
        found = _products(each)
        # NaN where something is not finite, which is below nothing.
        near = (found.upper < self._tolerance) & (found.upper / (1 - _LARGEST_SHRINKAGE) >= self._tolerance)
        rows = torch.nonzero(near).flatten()
        if len(rows) == 0:
            return found
        now, here = gaussians.take(rows), batch.take(rows)
        step = times(inverse_of(root[rows]), slope[rows].unsqueeze(0))[0]
        moved = now.moved(now.mean + step, target[rows], torch.ones_like(step[:, 0]))
        _, _, after = self._looked_at(now, moved, root[rows], curvature[rows], here, [sets[0].take(rows)])
        before = each[0, rows]
        shrinkage = (after[0].square().sum(-1) / before.square().sum(-1)).sqrt()
        # A step that goes somewhat too far turns y round: what is left is less than it promised, not more.
        turned = ((after[0] * before).sum(-1) <= 0) & (shrinkage < _OVERSHOOT)
        shrinkage = torch.where(turned, torch.zeros_like(shrinkage), shrinkage)
        factor = torch.ones_like(found.nats)
        factor[rows] = 1 / (1 - shrinkage.nan_to_num(1.0).clamp(max=_LARGEST_SHRINKAGE))
        return Shortfall(factor * found.nats, factor * found.stderr)

    def _looked_at(
        self, at: Gaussians, now: Gaussians, root: Matrices, known: Matrices, batch: Batch, sets: Sequence[Nodes]
    ) -> tuple[Tensor, Tensor, Float[Tensor, "set row number"]]:
        """Mean slope and precision asked for at the nodes of Gaussians, and set by set y in the metric of others."""
        slopes, estimates = zip(
            *(slope_and_curvature(self._density, now, known, batch, nodes) for nodes in sets), strict=True
        )
        targets = [now.own_form(estimate) for estimate in estimates]
        each = [
            _standardised(at, root, slope, target - now.precision)
            for slope, target in zip(slopes, targets, strict=True)
        ]
        return torch.stack(slopes).mean(0), torch.stack(targets).mean(0), torch.stack(each)


def _standardised(gaussians: Gaussians, root: Matrices, slope: Tensor, difference: Tensor) -> Standardised:
    """Numbers whose squares add up to the nats that a natural-gradient step wins."""
    half = torch.linalg.solve_triangular(root, slope.unsqueeze(-1), upper=False).squeeze(-1) * 0.5**0.5
    return torch.cat([half, gaussians.standardised(difference)], 1)


def _products(each: Float[Tensor, "set row number"]) -> Shortfall:
    """The mean product of different sets, with its error: jackknifed, or for two grids from what they differ."""
    count, total, squares = len(each), each.sum(0), each.square().sum(-1)
    nats = (total.square().sum(-1) - squares.sum(0)) / (count * (count - 1))
    if count == 2:
        return Shortfall(nats, ((squares[0] - squares[1]).abs() + (each[0] - each[1]).square().sum(-1)) / 2)
    left_out = ((total - each).square().sum(-1) - (squares.sum(0) - squares)) / ((count - 1) * (count - 2))
    variance = (count - 1) / count * (left_out - left_out.mean(0)).square().sum(0)
    return Shortfall(nats, variance.sqrt())
