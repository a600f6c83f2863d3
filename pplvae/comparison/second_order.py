"""Each row's own optimum where its guide is Gaussian: Newton steps to the mode, then natural-gradient refinements.

The ELBO of a Gaussian guide is highest where the mean slope of log p(v, h) under it vanishes and its precision is the
mean curvature, in the form that the family has. A refinement estimates both from mirrored draws with second moments of
exactly 1 and 0, which have no noise where log p is cubic (30 times less than mirrored draws have with a network of 10
latents, 8 times less with 50). The Gauss-Newton curvature serves twice: steps of the mean are taken in its metric, and
of the mean curvature only what differs from it is left to the draws (a control variate). How many refinements a row
takes follows from how much they differ among each other.

References:
    The variational Gaussian approximation revisited (Opper and Archambeau, 2009); Fast and simple natural-gradient
    variational inference (Lin, Khan and Schmidt, 2019), arXiv 1906.02914, for Price's theorem in this place.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pplvae.comparison.curvature import Curvature, Matrices
from pplvae.comparison.density import Density, PerDraw, Vectors
from pplvae.comparison.estimates import mean_and_stderr
from pplvae.comparison.gaussian import Gaussians
from pplvae.noise import Kind, RowNoise, Stream, matchable
from pplvae.rows import Batch

PerRow = Float[Tensor, " row"]

_NEWTON_STEPS = 1  # to the mode: a refinement moves the mean as well, and costs no more
_HALVINGS = 6  # of a Newton step that does not rise
_FEWEST_DRAWS = 32  # of a refinement
_FREEDOM = 8  # numbers that noise is told from, at least
_FALLEN = 0.2  # of the mean so far: what a row has left has fallen so far that the refinements before do not count
_MOST_REFINEMENTS = 200
_SLOWEST = 0.1  # share of a natural-gradient step
_NEAR = 1.0  # nats: a standard error of what the mode is better by; a guide that is further off is left for it
_SELECTION_DRAWS = 16  # at first; four times as many where they cannot tell whether a row has gained
_MOST_SELECTION_DRAWS = 2048
_SHARE = 0.5  # of the tolerance that noise may leave; the rest is for the distance from the optimum
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


class _Place(NamedTuple):
    """A mean of every row, the curvature of log p(v_i, u) there, and whether all of that is finite."""

    mean: Float[Tensor, "row element"]
    curvature: Matrices
    inverse: Matrices
    finite: Bool[Tensor, " row"]


class _Sample(NamedTuple):
    """The ELBO of a Gaussian of every row, but for a constant, draw by draw, and the noise of the draws."""

    noise: Vectors
    elbo: PerDraw


class _Rows(NamedTuple):
    """Rows that are being refined: their Gaussians, and sums over the refinements that count.

    What a row has left is in nats: what its mean slope, and the distance of its precision from the mean curvature, cost
    of the ELBO. Noise adds to it.
    """

    position: Int64[Tensor, " row"]
    gaussians: Gaussians
    curvature: Matrices
    inverse: Matrices
    rate: PerRow  # of the mean
    precision_rate: PerRow
    slope: Tensor  # of the last refinement, as the next
    difference: Tensor
    left: PerRow  # by the last refinement
    expected: PerRow  # after it, if that falls again by as much
    count: PerRow
    means: Tensor
    precisions: Tensor
    slopes: Tensor
    differences: Tensor
    lefts: PerRow

    def take(self, index: Tensor) -> "_Rows":
        return _Rows(*(values.take(index) if isinstance(values, Gaussians) else values[index] for values in self))


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
            jitter = some.spread(self._noise(some, rows, 2, (Stream.STEP, attempt)))[0]
            other = self._search(some, some.mean + jitter, rows, attempt)
            better = other.gain > found.gain[again]
            found.gaussians.put(again[better], other.gaussians.take(better))
            for ours, theirs in zip(found[1:4], other[1:4], strict=True):  # gain, stderr, settled
                ours[again[better]] = theirs[better]
            found.steps[again] += other.steps
        return found

    def _noise(
        self, like: Gaussians, batch: Batch, draws: int, address: tuple[int, ...], kind: Kind = "antithetic"
    ) -> Vectors:
        blank = like.mean.expand(draws, *like.mean.shape)
        noise = RowNoise(batch.keys, draws, (self._seed, *address), kind)
        return noise.normals(blank.flatten(0, 1)).unflatten(0, blank.shape[:2])

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
        noise = self._noise(gaussians, batch, draws, (Stream.SELECT, draws))
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
        steps = torch.full_like(batch.keys, self._newton)
        settled = self._refine(found, mode, batch, attempt, steps)
        return Found(found, *self._gain(start, found, batch, sample), settled, mode.finite, steps)

    def _stay(
        self, start: Gaussians, here: _Place, found: Gaussians, mode: _Place, batch: Batch, sample: _Sample
    ) -> _Place:
        """Begin the refinements of a row where it started, in place, unless its mode is clearly better.

        A good guide is near its optimum, and may lie over several modes.
        """
        gain, stderr = mean_and_stderr(self._elbo(found, sample.noise, batch) - sample.elbo)
        stays = here.finite & ((gain < 2 * stderr) & (stderr < _NEAR) | ~mode.finite)
        rows = torch.nonzero(stays).flatten()
        found.put(rows, start.take(rows))
        return _Place(*(per_row(stays, ours, theirs) for ours, theirs in zip(here, mode, strict=True)))

    def _climb(self, start: _Place, batch: Batch) -> _Place:
        """Newton steps towards the mode of log p(v_i, u), each halved until it rises."""
        place, mean = start, start.mean.clone()
        value = self._density.value(mean.unsqueeze(0), batch)[0]
        for _ in range(self._newton):
            step = _times(place.inverse, self._density.slope(mean.unsqueeze(0), batch))[0]
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

    def _place(self, mean: Tensor, batch: Batch) -> _Place:
        curvature, inverse = _positive(self._curvature.at(mean, batch))
        return _Place(mean, curvature, inverse, inverse.flatten(1).isfinite().all(1))

    def _refine(
        self, found: Gaussians, begin: _Place, batch: Batch, attempt: int, steps: Int64[Tensor, " row"]
    ) -> Bool[Tensor, " row"]:
        """Refine all rows, in place, until each has settled or may go no further; which have."""
        settled = torch.zeros_like(begin.finite)
        rows = _begin(found, begin, torch.nonzero(begin.finite).flatten())
        for k in range(self._refinements):
            if len(rows.position) == 0:
                break
            here = batch.take(rows.position)
            rows = self._refined(rows, here, (Stream.STEP, attempt, 2 + k))
            done, latest = self._have_settled(rows)
            last = done | ~rows.lefts.isfinite() if k < self._refinements - 1 else torch.ones_like(done)
            ended = rows.take(last)
            averages = type(found)(_over(ended.means, ended.count), _over(ended.precisions, ended.count))
            found.put(ended.position, averages)
            found.put(rows.position[latest], rows.gaussians.take(latest))
            steps[rows.position] += 1
            settled[rows.position[done]] = True
            rows = rows.take(torch.nonzero(~last).flatten())
        return settled

    def _refined(self, rows: _Rows, batch: Batch, address: tuple[int, ...]) -> _Rows:
        """One refinement of every row: new draws, a step of the mean and of the precision."""
        now = rows.gaussians
        inverse = now.covariance_like(rows.curvature, rows.inverse)
        draws = max(_FEWEST_DRAWS, 2 * matchable(now.mean.shape[1]))
        noise = self._noise(now, batch, draws, address, "matched")
        away = now.spread(noise)
        slope = self._density.slope(now.mean + away, batch)
        pairs = slope.unflatten(0, (2, -1)).mean(0)
        mean_slope = pairs.mean(0)
        # -E[d² log p] = Gauss-Newton curvature - E[d² of what it leaves of log p].
        missed = now.curvature(noise, slope + _times(rows.curvature, away))
        target = now.own_form(rows.curvature) - missed.mean(0)
        step = _times(inverse, mean_slope.unsqueeze(0))[0]
        length = (step * mean_slope).sum(-1)
        left = length / 2 + now.nats(target - now.precision)
        # A step that overshoots turns the next one round, one that is short leaves it the same direction.
        kept = (rows.slope * step).sum(-1) / (rows.slope * _times(inverse, rows.slope.unsqueeze(0))[0]).sum(-1)
        rate = _better(rows.rate, kept)
        kept = now.alike(rows.difference, target - now.precision)
        precision_rate = _better(rows.precision_rate, kept)
        # No further than the optimum's own draws lie from it: a slope of noise must not throw a row away.
        step = step * (length / step.shape[-1]).clamp(min=1).rsqrt().unsqueeze(-1)
        moved = now.moved(now.mean + rate.unsqueeze(-1) * step, target, precision_rate)
        goes_on = left >= _FALLEN * rows.lefts / rows.count  # False for the first

        def added(total: Tensor, value: Tensor) -> Tensor:
            return per_row(goes_on, total + value, value)

        return _Rows(
            rows.position,
            moved,
            rows.curvature,
            rows.inverse,
            rate,
            precision_rate,
            mean_slope,
            target - now.precision,
            left,
            left * (left / rows.left).clamp(max=1),
            added(rows.count, torch.ones_like(rows.count)),
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
        inverse = rows.gaussians.covariance_like(rows.curvature, rows.inverse)
        slope, difference = _over(rows.slopes, rows.count), _over(rows.differences, rows.count)
        left = (_times(inverse, slope.unsqueeze(0))[0] * slope).sum(-1) / 2 + rows.gaussians.nats(difference)
        noise = (rows.lefts / rows.count - left) / (rows.count - 1)
        near = (1 - _SHARE) * self._tolerance
        average = (noise < _SHARE * self._tolerance) & (left - noise < near)
        average &= self._tells(slope, rows.count - 1)
        latest = (rows.expected < near) & self._tells(slope, torch.ones_like(rows.count))
        return average | latest, latest

    @staticmethod
    def _tells(slope: Tensor, refinements: PerRow) -> Bool[Tensor, " row"]:
        """Whether so many refinements are enough to tell noise from what is left; each shows two numbers an element."""
        return 2 * slope.shape[1] * refinements >= _FREEDOM


def _begin(found: Gaussians, begin: _Place, index: Tensor) -> _Rows:
    some = found.take(index)
    one = torch.ones_like(some.mean[:, 0])
    return _Rows(
        index,
        some,
        begin.curvature[index],
        begin.inverse[index],
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


def per_row(chosen: Bool[Tensor, " row"], yes: Tensor, no: Tensor) -> Tensor:
    """One value where a row is chosen, another where not."""
    return torch.where(chosen.reshape(-1, *[1] * (yes.ndim - 1)), yes, no)


def _better(rate: PerRow, kept: PerRow) -> PerRow:
    """A share of the whole step, from what the last one left of its cause: none if it was right."""
    kept = kept.nan_to_num(0.0).clamp(-2, 0.5)
    return (rate / (1 - kept)).clamp(_SLOWEST, 1)


def _over(total: Tensor, count: PerRow) -> Tensor:
    """An average, row by row."""
    return total / count.reshape(-1, *[1] * (total.ndim - 1))


def _times(matrices: Matrices, vectors: Vectors) -> Vectors:
    """A row's matrix times each of its vectors."""
    return torch.bmm(vectors.transpose(0, 1), matrices.mT).transpose(0, 1)


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
