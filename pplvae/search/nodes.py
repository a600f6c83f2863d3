"""Where the mean under a Gaussian is taken: draws keyed by row, or for one and two latents a grid."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.estimates import mean_and_stderr
from pplvae.programs.noise import Kind, RowNoise
from pplvae.programs.shapes import PerDraw, PerRow, Vectors
from pplvae.search.gaussian import Gaussians

_REACH = 6.5  # standard deviations on either side: beyond lies a share of 1e-10
_GRID_FROM = {1: 64, 2: 1024}  # latents, and from how many nodes on a grid is better than draws
_NEGLIGIBLE = 1e-3  # of a node's fair share: where log p is not finite there, it does not count
_SETS = 4
_MOST_AT_ONCE = 2**22  # numbers in the nodes of some rows: of these a dozen such tensors are made


class Nodes(NamedTuple):
    """Standard normals of every row, mirrored ones last, with their weights in a mean.

    Attributes:
        noise: the normals.
        weight: one number for each of them, 1 on average; a single one for draws, which all count alike.
    """

    noise: Vectors
    weight: Float[Tensor, "#particle #row #element"]

    def take(self, rows: Tensor) -> "Nodes":
        """The nodes of some rows."""
        return Nodes(self.noise[:, rows], self.weight)

    def weighted(self, values: Vectors) -> Vectors:
        """Values at the nodes such that their plain mean is the mean under the Gaussian."""
        counts = values.isfinite() | (self.weight > _NEGLIGIBLE)
        return self.weight * torch.where(counts, values, 0.0)

    def mean(self, values: PerDraw) -> PerRow:
        """The mean of values at the nodes."""
        return self.weighted(values.unsqueeze(-1)).squeeze(-1).mean(0)


def nodes_of(
    like: Gaussians, batch: Batch, count: int, address: tuple[int, ...], kind: Kind = "antithetic", *, grid: bool = True
) -> Nodes:
    """About so many nodes.

    Args:
        like: gives the number of latents.
        batch: the rows.
        count: how many; even.
        address: names the draws; see `RowNoise`.
        kind: of the draws.
        grid: whether a grid may stand in for draws.
    """
    elements = like.mean.shape[1]
    if grid and _is_grid(elements, count):
        return _grid(like, elements, count, 0.5, _REACH)
    blank = like.mean.expand(count, *like.mean.shape)
    noise = RowNoise(batch.keys, count, address, kind).normals(blank.flatten(0, 1)).unflatten(0, blank.shape[:2])
    return Nodes(noise, torch.ones_like(noise[:1, :1, :1]))


def nodes_in_sets(
    like: Gaussians, batch: Batch, count: int, address: tuple[int, ...], *, reach: float = _REACH, most: int = _SETS
) -> list[Nodes]:
    """Nodes that say how far a mean can be trusted: independent sets of matched draws, or two grids half a step apart.

    The errors of the two grids are about opposite, so that they differ by twice the error of either.

    Args:
        like: gives the number of latents.
        batch: the rows.
        count: of each set.
        address: names the draws; see `RowNoise`.
        reach: of a grid, in standard deviations on either side.
        most: sets of draws.
    """
    elements = like.mean.shape[1]
    if _is_grid(elements, count):
        return [_grid(like, elements, count, offset, reach) for offset in (0.5, 0.0)]
    return [nodes_of(like, batch, count, (*address, k), "matched") for k in range(most)]


def mean_over(sets: Sequence[Nodes], values: Callable[[Nodes], PerDraw]) -> tuple[PerRow, PerRow]:
    """The mean of values at the nodes of one set, or of both grids, with its standard error."""
    if len(sets) == 1:
        return mean_and_stderr(values(sets[0]))
    one, other = (nodes.mean(values(nodes)) for nodes in sets)
    return 0.5 * (one + other), 0.5 * (one - other).abs()


def pieces_of(rows: Tensor, like: Gaussians, count: int) -> tuple[Tensor, ...]:
    """Rows in pieces, whose nodes memory holds together.

    Args:
        rows: positions.
        like: gives the number of latents.
        count: nodes of a row.
    """
    return rows.split(max(1, _MOST_AT_ONCE // (count * like.mean.shape[1])))


def _is_grid(elements: int, count: int) -> bool:
    return count >= _GRID_FROM.get(elements, count + 1)


def _grid(like: Gaussians, elements: int, count: int, offset: float, reach: float) -> Nodes:
    """Equal steps, weighted by the density: exact to rounding where log p is smooth on their scale.

    Args:
        like: gives type and device.
        elements: latents, 1 or 2.
        count: nodes.
        offset: of the first from zero, in steps; 0 or 0.5.
        reach: see `nodes_in_sets`.

    References:
        The exponentially convergent trapezoidal rule (Trefethen and Weideman, 2014), SIAM Review 56.
    """
    sides = 2 * round(count ** (1 / elements) / 2)
    step = 2 * reach / sides
    positive = step * (torch.arange(sides // 2, dtype=like.mean.dtype, device=like.mean.device) + offset)
    share = torch.ones_like(positive)
    if offset == 0:
        share[0] = 0.5  # zero is its own mirror image, and stands there twice
    line, shares = torch.cat([positive, -positive]), torch.cat([share, share])
    # In this order a node's mirror image stands half of all nodes further on.
    first, weight = positive.unsqueeze(-1), share
    if elements == 2:
        first = torch.cartesian_prod(positive, line)
        weight = torch.cartesian_prod(share, shares).prod(-1)
    points = torch.cat([first, -first])
    weight = torch.cat([weight, weight]) * (-0.5 * points.square().sum(-1)).exp()
    weight = (weight / weight.mean()).reshape(-1, 1, 1)
    return Nodes(points.unsqueeze(1).expand(-1, len(like.mean), -1), weight)
