"""A climb that never falls: the search for rows that refinements with fresh draws have not brought to their optimum.

The ELBO of a Gaussian at fixed nodes is a plain function of its mean and precision. The natural-gradient direction
rises in it, so a step that is halved until the ELBO has risen enough always arrives at a place where it rises no more.
That is the optimum of those nodes. So many are taken that it is near enough to that of the ELBO itself.
"""

import torch
from jaxtyping import Int64
from torch import Tensor

from pplvae.batch import Batch
from pplvae.comparison.curvature import Matrices
from pplvae.comparison.density import Density
from pplvae.comparison.gaussian import Gaussians, times
from pplvae.comparison.nodes import Nodes, PerRow
from pplvae.comparison.refinement import learned, slope_and_curvature

_LEAST_RISE = 0.1  # share of what the slope promises, from which on a step is taken
_SHORTEST = 2.0**-12  # share of a whole step
_REST = 0.01  # share of the tolerance: of a row that has so little left, the search ends


def node_elbos(density: Density, gaussians: Gaussians, nodes: Nodes, batch: Batch) -> Tensor:
    """The ELBO of every row but for a constant, node by node."""
    return density.value(gaussians.mean + gaussians.spread(nodes.noise), batch) + gaussians.log_volume()


def climb(
    density: Density, found: Gaussians, known: Matrices, batch: Batch, nodes: Nodes, tolerance: float, most: int
) -> Int64[Tensor, " row"]:
    """Take every row to the optimum at fixed nodes, in place.

    Args:
        density: log p(v_i, u).
        found: where they begin, and then where they end.
        known: of the curvature of -log p under them; what is learned of it is written into it.
        batch: the rows.
        nodes: of every row.
        tolerance: nats.
        most: steps of a row.

    Returns:
        The steps that each row has taken.
    """

    def elbo(some: Gaussians, rows: Tensor) -> PerRow:
        here = nodes.take(rows)
        return here.mean(node_elbos(density, some, here, batch.take(rows)))

    rows = torch.arange(len(batch), device=found.mean.device)
    steps, rate = torch.zeros_like(batch.keys), torch.ones_like(found.mean[:, 0])
    value = elbo(found, rows)
    for _ in range(most):
        here, now = batch.take(rows), found.take(rows)
        slope, estimate = slope_and_curvature(density, now, known[rows], here, nodes.take(rows))
        known[rows], inverse = learned(known[rows], estimate, 0.5)
        step, target = times(inverse, slope.unsqueeze(0))[0], now.own_form(estimate)
        along = (step * slope).sum(-1)
        promised = along / 2 + now.nats(target - now.precision)
        going = promised > _REST * tolerance
        # No further in one step than a draw of the posterior lies from its mean.
        step = step * (along / step.shape[-1]).clamp(min=1).rsqrt().unsqueeze(-1)
        tried = now.moved(now.mean + rate[rows].unsqueeze(-1) * step, target, rate[rows])
        new = elbo(tried, rows)
        rises = going & (new > value[rows] + _LEAST_RISE * rate[rows] * promised.clamp(max=1.0))
        found.put(rows[rises], tried.take(rises))
        value[rows[rises]] = new[rises]
        steps[rows[going]] += 1
        rate[rows] = torch.where(rises, (2 * rate[rows]).clamp(max=1), rate[rows] / 2)
        rows = rows[going & (rate[rows] > _SHORTEST)]
        if len(rows) == 0:
            break
    return steps
