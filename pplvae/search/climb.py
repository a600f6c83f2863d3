"""A climb that never falls: the search for rows that refinements with fresh draws have not brought to their optimum.

The ELBO of a Gaussian at fixed nodes is a plain function of its mean and scale, with a gradient. Quasi-Newton steps in
it, halved until it has risen enough, always arrive at a place where it rises no more. That is the optimum of those
nodes. So many are taken that it is near enough to that of the ELBO itself.

References:
    Updating quasi-Newton matrices with limited storage (Nocedal, 1980), Mathematics of Computation 35.
"""

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.shapes import Matrices, PerDraw, PerRow
from pplvae.search.density import Density
from pplvae.search.gaussian import Gaussians, inverse_of, times
from pplvae.search.nodes import Nodes
from pplvae.search.refinement import learned, per_row, slope_and_curvature

Numbers = Float[Tensor, "row number"]

_LEAST_RISE = 1e-3  # share of what the gradient promises, from which on a step is taken
_SHORTEST = 2.0**-20  # share of a whole step
_REST = 0.01  # share of the tolerance: of a row that has so little left, the search ends
_REMEMBERED = 10  # steps from which the shape of the ELBO is learned


def node_elbos(density: Density, gaussians: Gaussians, nodes: Nodes, batch: Batch) -> PerDraw:
    """The ELBO of every row at each node, less a constant that is the same for all guides."""
    return density.value(gaussians.mean + gaussians.deviations(nodes.noise), batch) + gaussians.log_volume()


def climb(
    density: Density, found: Gaussians, known: Matrices, batch: Batch, nodes: Nodes, tolerance: float, most: int
) -> Int64[Tensor, " row"]:
    """Take every row to the optimum at fixed nodes, in place.

    Args:
        density: log p(v_i, u).
        found: where they begin, and then where they end.
        known: of the curvature of -log p under them; in the end, what the nodes say of it.
        batch: the rows.
        nodes: of every row.
        tolerance: nats.
        most: steps of a row.

    Returns:
        The steps that each row has taken.
    """
    elbo = _NodeElbo(density, found.copy(), known, batch, nodes)
    rows = torch.arange(len(batch), device=found.mean.device)
    place = elbo.start()
    value, gradient = elbo.value(place, rows), elbo.gradient(place, rows)
    memory = _Memory(gradient)
    steps, rate = torch.zeros_like(batch.keys), torch.ones_like(value)
    for _ in range(most):
        direction = memory.direction(gradient[rows], rows)
        promised = (direction * gradient[rows]).sum(-1)
        going = promised > 2 * _REST * tolerance  # a whole step wins half of what the gradient promises
        rows, direction, promised = rows[going], direction[going], promised[going]
        if len(rows) == 0:
            break
        # No further in one step than a draw of the posterior lies from its mean.
        reach = (direction.square().mean(-1)).clamp(min=1).rsqrt()
        step = (rate[rows] * reach).unsqueeze(-1) * direction
        new = elbo.value(place[rows] + step, rows)
        rises = new > value[rows] + _LEAST_RISE * (step * gradient[rows]).sum(-1)
        steps[rows] += 1
        rate[rows] = torch.where(rises, 1.0, rate[rows] / 2)
        moved = rows[rises]
        if len(moved):
            place[moved] += step[rises]
            value[moved] = new[rises]
            before, gradient[moved] = gradient[moved], elbo.gradient(place[moved], moved)
            memory.add(step[rises], before - gradient[moved], moved)
        rows = rows[rate[rows] > _SHORTEST]
    found.put(torch.arange(len(batch), device=value.device), elbo.gaussians(place))
    estimate = slope_and_curvature(density, found, known, batch, nodes)[1]
    known.copy_(learned(known, estimate, 1.0)[0])
    return steps


class _NodeElbo:
    """The ELBO at fixed nodes, as a function of numbers in which its curvature is about 1 in every direction.

    Args:
        density: log p(v_i, u).
        origin: the Gaussians at zero.
        known: the curvature of -log p there.
        batch: the rows.
        nodes: of every row.
    """

    def __init__(self, density: Density, origin: Gaussians, known: Matrices, batch: Batch, nodes: Nodes) -> None:
        self._density, self._origin, self._batch, self._nodes = density, origin, batch, nodes
        self._root = torch.linalg.cholesky_ex(inverse_of(torch.linalg.cholesky_ex(known)[0]))[0]

    def start(self) -> Numbers:
        """The numbers of the guides where the climb begins: zero."""
        mean = self._origin.mean
        return torch.cat([torch.zeros_like(mean), self._origin.no_change()], 1)

    def gaussians(self, place: Numbers, rows: Tensor | slice = slice(None)) -> Gaussians:
        """The Gaussians at some numbers."""
        origin = self._origin.take(rows)
        away, change = place.tensor_split([origin.mean.shape[1]], 1)
        return origin.changed(origin.mean + times(self._root[rows], away.unsqueeze(0))[0], change)

    def value(self, place: Numbers, rows: Tensor) -> PerRow:
        """The ELBO of some rows; minus infinity where it is not finite."""
        nodes = self._nodes.take(rows)
        elbos = node_elbos(self._density, self.gaussians(place, rows), nodes, self._batch.take(rows))
        return nodes.mean(elbos).nan_to_num(-torch.inf, -torch.inf, -torch.inf)

    def gradient(self, place: Numbers, rows: Tensor) -> Numbers:
        """The gradient of the ELBO of some rows."""
        nodes, now = self._nodes.take(rows), self.gaussians(place, rows)
        slope = nodes.weighted(self._density.slope(now.mean + now.deviations(nodes.noise), self._batch.take(rows)))
        away = times(self._root[rows].mT, slope.mean(0, keepdim=True))[0]
        change = self._origin.take(rows).change_slope(now, nodes.noise, slope)
        return torch.cat([away, change], 1).nan_to_num(0.0, 0.0, 0.0)


class _Memory:
    """The last steps of every row and the changes of the gradient over them, for quasi-Newton steps (L-BFGS).

    Args:
        like: numbers of every row.
    """

    def __init__(self, like: Numbers) -> None:
        self._steps = torch.zeros(_REMEMBERED, *like.shape, dtype=like.dtype, device=like.device)
        self._falls = torch.zeros_like(self._steps)  # of the gradient

    def add(self, step: Numbers, fall: Numbers, rows: Tensor) -> None:
        """Remember a step of some rows, unless the gradient has not fallen over it: it shows no curvature."""
        shown = (step * fall).sum(-1) > 1e-8 * step.square().sum(-1)
        some = rows[shown]
        for remembered, latest in ((self._steps, step), (self._falls, fall)):
            remembered[:, some] = torch.cat([latest[shown].unsqueeze(0), remembered[:-1, some]])

    def direction(self, gradient: Numbers, rows: Tensor) -> Numbers:
        """The quasi-Newton step of some rows."""
        steps, falls = self._steps[:, rows], self._falls[:, rows]
        size = (steps * falls).sum(-1)
        inverse = torch.where(size > 0, 1 / size, 0.0)
        shares, rest = [], gradient
        for step, fall, over in zip(steps, falls, inverse, strict=True):  # the latest first
            shares.append(over * (step * rest).sum(-1))
            rest = rest - shares[-1].unsqueeze(-1) * fall
        latest = (size[0] / falls[0].square().sum(-1)).nan_to_num(1.0, 1.0, 1.0)
        rest = per_row(size[0] > 0, latest.unsqueeze(-1) * rest, rest)
        for step, fall, over, share in reversed(list(zip(steps, falls, inverse, shares, strict=True))):
            rest = rest + (share - over * (fall * rest).sum(-1)).unsqueeze(-1) * step
        return rest
