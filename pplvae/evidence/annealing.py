"""Annealed importance sampling with Hamiltonian moves: log p(v_i) from below, and on simulated rows from above.

A path of densities leads from a base, the row's own guide or the prior, to p(v_i, h): log f_b = log base + b log ratio.
Rows never meet: temperatures and step sizes are those of the row, found in a pilot run and then frozen, because a
sampler that adapts on its way has no unbiased weights. All rows and chains are in one tensor.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pplvae.errors import UnknownNameError
from pplvae.programs.batch import Batch
from pplvae.programs.capture import Replayed
from pplvae.programs.noise import RowNoise, Stream
from pplvae.programs.shapes import PerDraw, Vectors
from pplvae.programs.widening import widened

_STARTS = ("guide", "prior")
_SCHEDULES = ("adaptive", "linear", "sigmoid")
_MOVED_AT_ONCE = 2**14  # chains × rows
_PILOT_TEMPERATURES, _FEWEST_TEMPERATURES, _MOST_TEMPERATURES = 50, 25, 800
_SETTLING_MOVES = 5  # of the pilot at its first temperature, and of a reverse run at its start


@dataclass(frozen=True)
class Annealing:
    """Settings of annealed importance sampling.

    Attributes:
        start: the base: "guide" (the row's own; where that is Gaussian, with the full covariance that the curvature of
            log p says; where several modes of the posterior are found, such Gaussians at each of them) or "prior".
        particles: Monte Carlo draws per row. Each is a chain that goes along the path.
        temperatures: steps of the path; by default the pilot run chooses, per row, as many as bring the standard
            deviation of the log weights down to `spread`.
        spread: nats; the standard deviation of the log weights that the pilot run chooses `temperatures` for.
        leapfrog: steps of a Hamiltonian move.
        schedule: of temperatures: "adaptive" (per row: equal steps in standard deviations of the log ratio along the
            path, as the pilot run saw them), "linear", or "sigmoid" (Wu et al., 2017).
        acceptance: what step sizes are tuned to in the pilot run.
        compile: put the gradient through torch's compiler: worth its seconds where there are thousands of moves.
    """

    start: str = "guide"
    particles: int = 64
    temperatures: int | None = None
    spread: float = 0.4
    leapfrog: int = 5
    schedule: str = "adaptive"
    acceptance: float = 0.65
    compile: bool = False

    def __post_init__(self) -> None:
        if self.start not in _STARTS:
            raise UnknownNameError("start of the annealing", self.start, _STARTS)
        if self.schedule not in _SCHEDULES:
            raise UnknownNameError("schedule of temperatures", self.schedule, _SCHEDULES)
        for name, least in (("particles", 2), ("temperatures", 2), ("leapfrog", 1)):
            if getattr(self, name) is not None and getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least}, got {getattr(self, name)}.")

    def rows_at_once(self) -> int:
        """Rows that fit into memory together."""
        return max(1, _MOVED_AT_ONCE // self.particles)


@dataclass(frozen=True)
class AnnealingPath:
    """What the pilot run found, frozen.

    Attributes:
        temperatures: from 0 to 1.
        step_sizes: of the move at each temperature, in units of `scale`.
        scale: standard deviations of u under the base, within a mode.
        spread: standard deviation of the log weights of the pilot run.
    """

    temperatures: Float[Tensor, "step row"]
    step_sizes: Float[Tensor, "step row"]
    scale: Float[Tensor, "row element"]
    spread: Float[Tensor, " row"]

    def take(self, index: Tensor, count: int) -> "AnnealingPath":
        """The paths of some rows, with another number of steps."""
        temperatures = _resampled(self.temperatures[:, index], count)
        step_sizes = _resampled(self.step_sizes[:, index], count)
        return AnnealingPath(temperatures, step_sizes, self.scale[index], self.spread[index])


class _Point(NamedTuple):
    """A state of every chain, with what a move needs of it."""

    u: Vectors
    base: PerDraw
    ratio: PerDraw
    base_slope: Vectors
    ratio_slope: Vectors


class Annealer:
    """A batch of rows between their base and their posterior.

    Args:
        space: the latents of the rows, a `LatentSpace` or what has its methods, with `settings.particles` draws each.
        batch: the rows, at the same number of draws.
        settings: see `Annealing`.
        seed: names the noise.
        tell: called after every temperature of a run, with the share of its rows' paths that this was.

    References:
        Annealed importance sampling (Neal, 2001); On the quantitative analysis of decoder-based generative models
        (Wu, Burda, Salakhutdinov and Grosse, 2017), arXiv 1611.04273.
    """

    def __init__(
        self,
        space: Any,
        batch: Batch,
        settings: Annealing,
        seed: int,
        tell: Callable[[float], Any] | None = None,
    ) -> None:
        self._tell = tell or (lambda _: None)
        self._space, self._batch, self._settings, self._seed = space, batch, settings, seed
        # Asked for at every step of every move, on the same shapes.
        self._everything = Replayed(self._everything_at)
        self._slope = Replayed(self._slope_at, compile=settings.compile)
        self._size = batch.copies * sum(tensor.numel() for tensor in batch.tensors)

    def pilot(self) -> AnnealingPath:
        """Run once to tune step sizes, and to see where along the path the log ratio varies."""
        settings = self._settings
        address = (self._seed, Stream.PILOT)
        u = self._start(address)
        scale = u.std(0) if settings.start == "prior" else self._space.scale(u)
        count = settings.temperatures or _PILOT_TEMPERATURES
        grid = _grid("linear" if settings.schedule == "adaptive" else settings.schedule, count, scale)
        point = self._at(u)
        step = torch.full_like(grid[0], scale.shape[1] ** -0.25)
        steps, ratios = [], [point.ratio]
        for t in range(1, len(grid)):
            for again in range(_SETTLING_MOVES if t == 1 else 1):
                point, accepted = self._move(point, grid[t], step, scale, (*address, t, again))
                step = step * torch.exp(accepted - settings.acceptance)
            steps.append(step)
            ratios.append(point.ratio)
        found, ratio = torch.stack([steps[0], *steps]), torch.stack(ratios)
        spread = (grid.diff(dim=0).unsqueeze(1) * ratio[:-1]).sum(0).std(0)
        if settings.schedule != "adaptive":
            return AnnealingPath(grid, found, scale, spread)
        temperatures = _equal_lengths(grid, ratio.std(1).nan_to_num(0.0, 0.0, 0.0))
        return AnnealingPath(temperatures, _interpolate(grid, found, temperatures), scale, spread)

    def steps_for(self, path: AnnealingPath) -> Int64[Tensor, " row"]:
        """How many temperatures each row needs: the variance of the log weights falls as one over their number."""
        count = len(path.temperatures) - 1
        if self._settings.temperatures is not None:
            return torch.full_like(path.spread, count, dtype=torch.int64)
        times = (path.spread / self._settings.spread).square().nan_to_num(1.0, 1.0, 1.0)
        # Powers of two, so that rows run together in few groups.
        return (count * 2 ** times.log2().ceil()).clamp(_FEWEST_TEMPERATURES, _MOST_TEMPERATURES).to(torch.int64)

    def forward(self, path: AnnealingPath) -> tuple[PerDraw, Float[Tensor, " row"]]:
        """From the base to the posterior.

        Returns:
            Log weights, whose mean in the exponential is p(v_i) without bias, and the mean acceptance.
        """
        address = (self._seed, Stream.ANNEAL)
        return self._run(self._start(address), path.temperatures, path.step_sizes, path.scale, address)

    def reverse(self, path: AnnealingPath, exact: Vectors) -> tuple[PerDraw, Float[Tensor, " row"]]:
        """From exact draws of the posterior back to the base.

        Args:
            path: of the forward run.
            exact: draws from p(h | v_i): the latents that simulated rows were made from.

        Returns:
            Log weights, whose mean in the exponential is 1 / p(v_i) without bias, and the mean acceptance.

        References:
            Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani and Adams, 2015),
            arXiv 1511.02543.
        """
        address = (self._seed, Stream.REVERSE)
        point = self._at(exact)
        for k in range(_SETTLING_MOVES):  # the chains of a row start from one draw: move them apart
            one = torch.ones_like(path.temperatures[0])
            point, _ = self._move(point, one, path.step_sizes[-1], path.scale, (*address, 0, k))
        return self._run(point.u, path.temperatures.flip(0), path.step_sizes.flip(0), path.scale, address)

    def _run(
        self, u: Vectors, temperatures: Tensor, step_sizes: Tensor, scale: Tensor, address: tuple[int, ...]
    ) -> tuple[PerDraw, Float[Tensor, " row"]]:
        point = self._at(u)
        log_weights = torch.zeros_like(widened(point.ratio))
        acceptance = []
        last = len(temperatures) - 1
        for t in range(1, last + 1):
            log_weights += (temperatures[t] - temperatures[t - 1]) * point.ratio
            if t < last:
                point, accepted = self._move(point, temperatures[t], step_sizes[t], scale, (*address, t))
                acceptance.append(accepted)
            self._tell(len(scale) / last)
        return log_weights, torch.stack(acceptance).mean(0)

    def _start(self, address: tuple[int, ...]) -> Vectors:
        with torch.no_grad():
            if self._settings.start == "prior":
                return self._space.draw_prior(address)
            return self._space.draw(address)[0]

    def _log_densities(self, u: Vectors) -> tuple[PerDraw, PerDraw]:
        """Log base, and log p(v, u) minus it."""
        if self._settings.start == "prior":
            return self._space.log_prior_and_likelihood(u)
        base = self._space.log_guide(u)
        return base, self._space.log_joint(u) - base

    def _at(self, u: Vectors) -> _Point:
        return _Point(u, *self._everything(u, size=self._size))

    def _everything_at(self, u: Vectors) -> Sequence[Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            base, ratio = self._log_densities(u)
            (base_slope,) = torch.autograd.grad(base.sum(), u, retain_graph=True)
            (ratio_slope,) = torch.autograd.grad(ratio.sum(), u)
        return base.detach(), ratio.detach(), base_slope, ratio_slope

    def _slope_at(self, u: Vectors, temperature: Tensor) -> Sequence[Tensor]:
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            base, ratio = self._log_densities(u)
            return torch.autograd.grad((base + temperature * ratio).sum(), u)

    def _move(
        self, point: _Point, temperature: Tensor, step: Tensor, scale: Tensor, address: tuple[int, ...]
    ) -> tuple[_Point, Float[Tensor, " row"]]:
        """A Hamiltonian move of every chain (Neal, 2011), and the mean acceptance probability of each row.

        The gradient at the end of a move serves as that at the start of the next.
        """
        noise = RowNoise(self._batch.keys, self._batch.particles, address)
        momentum = noise.normals(point.u.flatten(0, 1)).reshape(point.u.shape)
        uniform = noise.uniforms(point.base.flatten()).reshape(point.base.shape)
        stride = step.unsqueeze(-1) * scale  # momenta have unit mass in units of `scale`
        slope = point.base_slope + temperature.unsqueeze(-1) * point.ratio_slope
        u, moving = point.u, momentum + 0.5 * stride * slope
        for k in range(self._settings.leapfrog):
            u = u + stride * moving
            if k < self._settings.leapfrog - 1:
                moving = moving + stride * self._slope(u, temperature, size=self._size)[0]
        end = self._at(u)
        moving = moving + 0.5 * stride * (end.base_slope + temperature.unsqueeze(-1) * end.ratio_slope)
        energy = end.base + temperature * end.ratio - 0.5 * moving.square().sum(-1)
        energy = energy - (point.base + temperature * point.ratio - 0.5 * momentum.square().sum(-1))
        probability = energy.clamp(max=0.0).exp().nan_to_num(0.0)  # a move to where nothing is finite is refused
        accepted = uniform < probability
        kept = _Point(*(_where(accepted, new, old) for new, old in zip(end, point, strict=True)))
        return kept, probability.mean(0)


def _where(accepted: Tensor, new: Tensor, old: Tensor) -> Tensor:
    return torch.where(accepted.unsqueeze(-1) if new.ndim > accepted.ndim else accepted, new, old)


def _grid(schedule: str, count: int, scale: Tensor) -> Float[Tensor, "step row"]:
    grid = torch.linspace(0, 1, count + 1, dtype=scale.dtype, device=scale.device)
    if schedule == "sigmoid":
        grid = torch.sigmoid(8 * grid - 4)
        grid = (grid - grid[0]) / (grid[-1] - grid[0])
    return grid.unsqueeze(1).expand(-1, len(scale))


def _equal_lengths(grid: Float[Tensor, "step row"], spread: Float[Tensor, "step row"]) -> Float[Tensor, "step row"]:
    """Temperatures between which the log ratio varies equally much, in standard deviations."""
    # A floor, so that a stretch where few chains happened to agree is not jumped over.
    spread = spread + 0.1 * spread.mean(0) + torch.finfo(spread.dtype).tiny
    pieces = 0.5 * (spread[1:] + spread[:-1]) * grid.diff(dim=0)
    length = torch.cat([torch.zeros_like(pieces[:1]), pieces.cumsum(0)])
    found = _interpolate(length / length[-1], grid, grid)
    return torch.cat([torch.zeros_like(found[:1]), found[1:-1], torch.ones_like(found[:1])])


def _resampled(path: Float[Tensor, "step row"], count: int) -> Float[Tensor, "point row"]:
    """The same path in another number of steps."""
    along = [_grid("linear", steps, path[0]) for steps in (len(path) - 1, count)]
    return _interpolate(along[0], path, along[1])


def _interpolate(x: Tensor, y: Tensor, at: Tensor) -> Float[Tensor, "point row"]:
    """Piecewise linear y(x) at other points; every column for itself, x increasing."""
    x, y, at = x.T.contiguous(), y.T, at.T.contiguous()
    right = torch.searchsorted(x, at).clamp(1, x.shape[1] - 1)
    x0, x1, y0, y1 = (v.gather(1, i) for v in (x, y) for i in (right - 1, right))
    share = ((at - x0) / (x1 - x0).clamp(min=torch.finfo(x.dtype).tiny)).clamp(0, 1)
    return (y0 + share * (y1 - y0)).T
