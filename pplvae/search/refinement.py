"""Natural-gradient refinements of Gaussian guides, row by row, until what noise and distance leave is small.

The ELBO of a Gaussian guide is highest where the mean slope of log p(v, h) under it vanishes and its precision is the
mean curvature, in the form that the family has. A refinement estimates both from mirrored draws with second moments of
exactly 1 and 0, which have no noise where log p is cubic: 30 times less than mirrored draws have with a network of 10
latents, 8 times less with one of 50. What is known of the curvature serves twice: steps of the mean are taken in its
metric, and of the mean curvature only what differs from it is left to the draws (a control variate). At first that is
Gauss-Newton's at one place; draws enough to match all second moments show the whole mean curvature. How many
refinements a row takes follows from how much they differ among each other, and how fast what is left falls.

References:
    The variational Gaussian approximation revisited (Opper and Archambeau, 2009); Fast and simple natural-gradient
    variational inference (Lin, Khan and Schmidt, 2019), arXiv 1906.02914, for Price's theorem in this place; Two-point
    step size gradient methods (Barzilai and Borwein, 1988), for steps from what the last one left.
"""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream, matchable
from pplvae.programs.shapes import Matrices, PerRow
from pplvae.search.density import Density
from pplvae.search.gaussian import Gaussians, inverse_of, times
from pplvae.search.nodes import Nodes, nodes_of

_FEWEST_DRAWS = 24
_FEWEST_NODES = 64  # of a single latent, where a grid does better than draws
_ROUGH = 3  # refinements with no more draws, where others need more than twice as many: noise does not matter yet
_FREEDOM = 8  # numbers that noise is told from, at least
_FALLEN = 0.2  # if less than this share of the mean so far is left, the refinements before do not count any more
_CLOSE = 0.1  # nats: of a row that is further off, the last refinement alone does not say that it has settled
_SLOWEST = 0.1  # share of a whole step
_SHARE = 0.5  # of the tolerance that noise may leave; the rest is for the distance from the optimum


class _Rows(NamedTuple):
    """Rows that are being refined: their Gaussians, and sums over the refinements that count.

    "Left" is how many nats of ELBO a row lacks because its mean slope is not zero and its precision is not the mean
    curvature. Noise in these two makes it look larger than it is.
    """

    position: Int64[Tensor, " row"]
    gaussians: Gaussians
    curvature: Matrices  # as far as it is known
    inverse: Matrices  # of that
    rate: PerRow  # of the mean
    precision_rate: PerRow
    slope: Tensor  # of the last refinement, as the next
    difference: Tensor
    left: PerRow  # by the last refinement
    expected: PerRow  # after it, by how fast that falls
    number: PerRow  # of refinements that count
    means: Tensor
    precisions: Tensor
    slopes: Tensor
    differences: Tensor
    lefts: PerRow

    def take(self, index: Tensor) -> "_Rows":
        some: Any = (values.take(index) if isinstance(values, Gaussians) else values[index] for values in self)
        return _Rows(*some)

    def at_full_rate(self) -> "_Rows":
        """The same, with nothing learned about the length of steps: that was in another metric."""
        one, nothing = torch.ones_like(self.rate), torch.zeros_like
        blank = {"slope": nothing(self.slope), "difference": nothing(self.difference)}
        return self._replace(rate=one, precision_rate=one, **blank)


class Refinement:
    """The refinements of the rows of one pair.

    Args:
        density: log p(v_i, u).
        tolerance: nats that noise and distance from the optimum may leave.
        most: refinements of a row.
        seed: names the noise.
    """

    def __init__(self, density: Density, tolerance: float, most: int, seed: int) -> None:
        self._density, self._tolerance, self._most, self._seed = density, tolerance, most, seed

    def __call__(self, found: Gaussians, curvature: Matrices, batch: Batch, attempt: int) -> Int64[Tensor, " row"]:
        """Refine all rows, in place, until each has settled or may go no further.

        Args:
            found: where they begin.
            curvature: of -log p(v_i, u) at their means, positive definite; a row where it is not finite is left alone.
                What has been learned of it is written into it.
            batch: the rows.
            attempt: names the noise.

        Returns:
            How many refinements each row took.
        """
        steps = torch.zeros_like(batch.keys)
        finite = curvature.flatten(1).isfinite().all(1) & found.mean.isfinite().all(1)
        rows = _begin(found, curvature, torch.nonzero(finite).flatten())
        elements = found.mean.shape[1]
        enough = max(_FEWEST_NODES if elements == 1 else _FEWEST_DRAWS, 2 * matchable(elements))
        rough = _ROUGH if elements > 1 and enough > 2 * _FEWEST_DRAWS else 0
        for k in range(self._most):
            if len(rows.position) == 0:
                break
            here = batch.take(rows.position)
            if k == rough:
                rows = rows.at_full_rate()
            address = self._seed, Stream.STEP, attempt, 2 + k
            nodes = nodes_of(rows.gaussians, here, _FEWEST_DRAWS if k < rough else enough, address, "matched")
            # Where the curvature began counts as one more estimate; of few draws the diagonal is all that can be used.
            rows = self._refined(rows, here, nodes, 0.0 if k < rough else 1 / (2 + k - rough))
            done, latest = self._have_settled(rows)
            last = done | ~rows.lefts.isfinite() if k < self._most - 1 else torch.ones_like(done)
            # Positions, since each mask would make the processor wait for a device.
            at_last, at_latest, on = (torch.nonzero(rows_are).flatten() for rows_are in (last, latest, ~last))
            ended = rows.take(at_last)
            averages = type(found)(_over(ended.means, ended.number), _over(ended.precisions, ended.number))
            found.put(ended.position, averages)
            found.put(rows.position[at_latest], rows.gaussians.take(at_latest))
            curvature[ended.position] = ended.curvature
            steps[rows.position] += 1
            rows = rows.take(on)
        return steps

    def _refined(self, rows: _Rows, batch: Batch, nodes: Nodes, weight: float) -> _Rows:
        """One refinement of every row: a step of the mean and of the precision.

        Args:
            rows: that are being refined.
            batch: these rows.
            nodes: of their Gaussians.
            weight: of what the draws say in what is known of the curvature.
        """
        now = rows.gaussians
        mean_slope, estimate = slope_and_curvature(self._density, now, rows.curvature, batch, nodes)
        target = now.own_form(estimate)
        curvature, inverse = learned(rows.curvature, estimate, weight)
        step = times(inverse, mean_slope.unsqueeze(0))[0]
        left = (step * mean_slope).sum(-1) / 2 + now.nats(target - now.precision)
        # A step that overshoots turns the next one round, one that is short leaves it the same direction.
        kept = (rows.slope * step).sum(-1) / (rows.slope * times(inverse, rows.slope.unsqueeze(0))[0]).sum(-1)
        rate = _better(rows.rate, kept)
        before, after = (now.standardised(error) for error in (rows.difference, target - now.precision))
        kept = (before * after).sum(-1) / before.square().sum(-1)
        precision_rate = _better(rows.precision_rate, kept)
        # No further than a draw of the posterior lies from its mean: a slope of noise must not throw a row away.
        length = (step * mean_slope).sum(-1) / step.shape[-1]
        step = step * length.clamp(min=1).rsqrt().unsqueeze(-1)
        moved = now.moved(now.mean + rate.unsqueeze(-1) * step, target, precision_rate)
        goes_on = left >= _FALLEN * rows.lefts / rows.number  # False for the first

        def added(total: Tensor, value: Tensor) -> Tensor:
            return per_row(goes_on, total + value, value)

        return _Rows(
            rows.position,
            moved,
            curvature,
            inverse,
            rate,
            precision_rate,
            mean_slope,
            target - now.precision,
            left,
            _still_left(left, left / rows.left),
            added(rows.number, torch.ones_like(rows.number)),
            added(rows.means, moved.mean),
            added(rows.precisions, moved.precision),
            added(rows.slopes, mean_slope),
            added(rows.differences, target - now.precision),
            added(rows.lefts, left),
        )

    def _have_settled(self, rows: _Rows) -> tuple[Bool[Tensor, " row"], Bool[Tensor, " row"]]:
        """Which rows have, and those of them whose last refinement is better than the average.

        Either the average of the refinements that count is near enough to the optimum, or what is left has fallen so
        fast that the last refinement must have come near enough.
        """
        slope, difference = _over(rows.slopes, rows.number), _over(rows.differences, rows.number)
        left = (times(rows.inverse, slope.unsqueeze(0))[0] * slope).sum(-1) / 2 + rows.gaussians.nats(difference)
        noise = (rows.lefts / rows.number - left) / (rows.number - 1)
        near = (1 - _SHARE) * self._tolerance
        average = (noise < _SHARE * self._tolerance) & (left - noise < near)
        shown = 2 * slope.shape[1]  # numbers that a refinement shows: the slope and the precision of each element
        average &= shown * (rows.number - 1) >= _FREEDOM
        latest = (rows.expected < near) & (rows.left < _CLOSE) & (shown >= _FREEDOM)
        return average | latest, latest


def _begin(found: Gaussians, curvature: Matrices, index: Tensor) -> _Rows:
    some = found.take(index)
    one = torch.ones_like(some.mean[:, 0])
    return _Rows(
        index,
        some,
        curvature[index],
        torch.zeros_like(curvature[index]),
        one,
        one,
        torch.zeros_like(some.mean),
        torch.zeros_like(some.precision),
        0 * one,
        0 * one,
        0 * one,
        torch.zeros_like(some.mean),
        torch.zeros_like(some.precision),
        torch.zeros_like(some.mean),
        torch.zeros_like(some.precision),
        0 * one,
    )


def learned(known: Matrices, estimate: Matrices, weight: float) -> tuple[Matrices, Matrices]:
    """An average of what is known of a curvature and an estimate, where it is positive definite, and its inverse."""
    average = torch.lerp(known, estimate, weight)
    root, failed = torch.linalg.cholesky_ex(average)
    root = per_row(failed > 0, torch.linalg.cholesky_ex(known)[0], root)
    return per_row(failed > 0, known, average), inverse_of(root)


def slope_and_curvature(
    density: Density, gaussians: Gaussians, known: Matrices, batch: Batch, nodes: Nodes
) -> tuple[Float[Tensor, "row element"], Matrices]:
    """The mean slope of log p(v_i, u) under Gaussians, and minus its mean second derivative.

    Args:
        density: log p.
        gaussians: of every row.
        known: what is known of the curvature; only what differs from it is left to the nodes.
        batch: the rows.
        nodes: of the Gaussians.
    """
    away = gaussians.deviations(nodes.noise)
    slope = density.slope(gaussians.mean + away, batch)
    beyond = nodes.weighted(slope + times(known, away))
    # -E[d² log p] = known curvature - E[d² of what it leaves of log p].
    return beyond.mean(0), known - gaussians.curvature(nodes.noise, beyond)


def per_row(chosen: Bool[Tensor, " row"], yes: Tensor, no: Tensor) -> Tensor:
    """One value where a row is chosen, another where not."""
    return torch.where(chosen.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def _better(rate: PerRow, kept: PerRow) -> PerRow:
    """The next step length.

    Args:
        rate: the last one, as a share of the whole step.
        kept: how much of the slope (or of the precision's error) that step left: 0 if its length was right, above 0 if
            it was too short, below 0 if it went too far.
    """
    kept = kept.nan_to_num(0.0).clamp(-2, 0.5)
    return (rate / (1 - kept)).clamp(_SLOWEST, 1)


def _still_left(left: PerRow, share: PerRow) -> PerRow:
    """What is left of the ELBO after a refinement, in nats.

    Mean and precision each take a step of their own. Where they pull against each other, the steps are short, and what
    one of them promises is less than what is left: all further steps together win more. If each leaves the same share
    of what it found, they add up to a geometric series.

    Args:
        left: what the refinement found to win.
        share: of that in what the one before found.
    """
    share = share.clamp(max=1)
    return left * share / (1 - share.sqrt())


def _over(total: Tensor, count: PerRow) -> Tensor:
    """An average, row by row."""
    return total / count.reshape(-1, *[1] * (total.ndim - 1))
