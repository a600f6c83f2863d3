"""What a further step would still win, for guides of any family: a Newton step on some draws, judged on others.

A row's optimum by Adam is tested by another method. On one sample the ELBO is a plain function of a row's offsets; a
few conjugate gradients, with products of its second derivative from differences of slopes, give the Newton step there.

That step follows the noise e of the slope g as well. With the curvature H it wins (g + e)' H^-1 (g + e) / 2 nats on
its own sample, which is too much, and (g' H^-1 g - e' H^-1 e) / 2 on a fresh one, which is too little. Their mean is
right but for a term of mean zero: it is the shortfall that is reported. A row that wins on the fresh sample takes the
step and is tested again.

References:
    Numerical optimization (Nocedal and Wright, 2006), chapter 7, for truncated Newton steps.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pplvae.programs.estimates import mean_and_stderr
from pplvae.programs.noise import Stream
from pplvae.programs.shapes import Lambda, PerDraw
from pplvae.search.first_order import Guides, MakeGuides
from pplvae.search.optimum import Optimum, Schedule, Status

_ROUNDS = 4
_UPPER = 1.645  # standard errors to the upper 95 % end, where they come from many draws
_STEP_DRAWS, _TEST_DRAWS = 128, 256  # in the first round; twice as many in each that follows
_PRODUCTS = 12  # with the second derivative, in a step
_LENGTHS = (1.0, 0.5, 0.25, 0.1)  # of a step, of which the first sample keeps the best
_SMALLEST = 0.05  # share of the tolerance that a step must win on its own sample to be looked at

Flat = Float[Tensor, "row number"]


def prove(make_guides: MakeGuides, optimum: Optimum, schedule: Schedule, seed: int) -> Optimum:
    """Test where a search has ended, and take further steps from there, in place, as long as they win.

    Args:
        make_guides: see `optimise`.
        optimum: of all rows.
        schedule: settings.
        seed: names the noise.
    """
    rows = torch.nonzero(torch.tensor([status is Status.CONVERGED for status in optimum.status])).flatten()
    rows = rows.to(optimum.steps.device)
    for round_ in range(_ROUNDS):
        if len(rows) == 0:
            break
        rows = rows[~_tested(make_guides, optimum, rows, schedule, seed, round_)]
    for row in rows.tolist():
        optimum.status[row] = Status.SHORT
    return optimum


def untested(optimum: Optimum) -> Optimum:
    """Mark the rows that call themselves converged as untested, in place."""
    optimum.status = [Status.UNTESTED if status is Status.CONVERGED else status for status in optimum.status]
    return optimum


def _tested(
    make_guides: MakeGuides, optimum: Optimum, rows: Tensor, schedule: Schedule, seed: int, round_: int
) -> Bool[Tensor, " row"]:
    """Whether rows are at their optimum; the others are moved by the step that was tried, where it wins."""
    draws = _TEST_DRAWS * 2**round_
    pieces = rows.split(make_guides(rows[:1], 2).rows_at_once(draws))
    return torch.cat([_tested_together(make_guides, optimum, some, schedule, seed, round_) for some in pieces])


def _tested_together(
    make_guides: MakeGuides, optimum: Optimum, rows: Tensor, schedule: Schedule, seed: int, round_: int
) -> Bool[Tensor, " row"]:
    """`_tested`, of so many rows that they go through the programs together."""
    now = {key: offset[rows] for key, offset in optimum.offsets.items()}
    step_batch = make_guides(rows, _STEP_DRAWS * 2**round_)
    step = _stepped(step_batch, now, (seed, Stream.STEP, 0, round_), _SMALLEST * schedule.tolerance)
    test_batch = make_guides(rows, _TEST_DRAWS * 2**round_)
    with torch.no_grad():
        address = (seed, Stream.SELECT, 2, round_)
        difference = test_batch.log_weights(step.offsets, address) - test_batch.log_weights(now, address)
    fresh, stderr = mean_and_stderr(difference)
    nats = torch.where(step.taken, (step.gain + fresh) / 2, step.gain)
    stderr = torch.hypot(step.stderr, stderr) / 2
    optimum.shortfall[rows], optimum.shortfall_stderr[rows] = nats.to(optimum.shortfall), stderr.to(optimum.shortfall)
    fits = nats + _UPPER * stderr < schedule.tolerance
    wins = (fresh > 0) & ~fits
    for key, offset in optimum.offsets.items():
        offset[rows[wins]] = step.offsets[key][wins]
    return fits


class _Step(NamedTuple):
    """A step of every row, and what it wins on its own sample.

    Attributes:
        offsets: after it.
        taken: whether any length of it won enough.
        gain: nats; where none did, what the slope and the curvature had promised.
        stderr: its standard error.
    """

    offsets: Lambda
    taken: Bool[Tensor, " row"]
    gain: Float[Tensor, " row"]
    stderr: Float[Tensor, " row"]


def _stepped(batch: Guides, offsets: Lambda, address: tuple[int, ...], enough: float) -> _Step:
    """The Newton step of a sample, taken by the rows that win enough by it there."""

    def elbo(x: Flat) -> PerDraw:
        return batch.log_weights(_unflattened(x, offsets), address)

    def slope(x: Flat) -> Flat:
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            return torch.autograd.grad(elbo(x).mean(0).sum(), x)[0].nan_to_num(0.0, 0.0, 0.0)

    start = _flattened(offsets)
    with torch.no_grad():
        first = slope(start)
        direction = _conjugate_gradients(slope, start, first)
        before = elbo(start)
        kept, gain, stderr = start, (first * direction).sum(1) / 2, torch.zeros_like(before[0])
        best = torch.full_like(gain, enough)
        for length in _LENGTHS:
            tried = start + length * direction
            won, error = mean_and_stderr(elbo(tried) - before)
            better = won > best
            best, gain = torch.where(better, won, best), torch.where(better, won, gain)
            stderr, kept = torch.where(better, error, stderr), torch.where(better.unsqueeze(1), tried, kept)
    return _Step(_unflattened(kept, offsets), best > enough, gain, stderr)


def _conjugate_gradients(slope: Callable[[Flat], Flat], start: Flat, first: Flat) -> Flat:
    """The Newton step of every row, from products with the second derivative by central differences."""
    width = torch.finfo(start.dtype).eps ** (1 / 3)
    step, residual, along = torch.zeros_like(start), first, first
    square = residual.square().sum(1)
    going = square > 0
    for _ in range(min(_PRODUCTS, start.shape[1])):
        size = width / along.norm(dim=1, keepdim=True).clamp(min=1e-30)
        product = (slope(start - size * along) - slope(start + size * along)) / (2 * size)
        curvature = (along * product).sum(1)
        going = going & (curvature > 0)
        length = torch.where(going, square / curvature, 0.0).unsqueeze(1)
        step, residual = step + length * along, residual - length * product
        new = residual.square().sum(1)
        along = residual + (new / square.clamp(min=1e-300)).unsqueeze(1) * along
        square = new
    # Where the first curvature was negative, the slope itself, no longer than 1.
    uphill = first / first.norm(dim=1, keepdim=True).clamp(min=1)
    return torch.where((step == 0).all(1, keepdim=True), uphill, step)


def _flattened(offsets: Mapping[str, Tensor]) -> Flat:
    return torch.cat([offset.reshape(len(offset), -1) for offset in offsets.values()], 1)


def _unflattened(x: Flat, like: Mapping[str, Tensor]) -> Lambda:
    pieces = x.split([offset[0].numel() for offset in like.values()], dim=1)
    return {key: piece.reshape(offset.shape) for (key, offset), piece in zip(like.items(), pieces, strict=True)}
