"""Each row's own optimum of the ELBO: Adam with a step size per row, lowered when the row stops rising.

Rows never meet: the loss is the sum over rows, the noise is keyed by row, each row has its own step size and leaves the
batch when it has converged. So a row's answer does not depend on which rows it was optimised with.
"""

from collections.abc import Callable, Collection
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.estimates import mean_and_stderr
from pplvae.programs.noise import Kind, Stream
from pplvae.programs.shapes import Lambda
from pplvae.search.local_guides import Start
from pplvae.search.optimum import FIRST_ORDER, Optimum, Schedule, Status


@runtime_checkable
class Guides(Protocol):
    """A batch of rows, each with a guide of its own that offsets move."""

    batch: Batch

    def elements(self) -> int:
        """How many latent numbers a row has in what its noise is matched over."""
        ...

    def rows_at_once(self, draws: int) -> int:
        """How many rows may go through the programs together with so many draws."""
        ...

    def starts(self) -> list[Start]:
        """Where the search starts: at zero, and elsewhere too where the slope may vanish there."""
        ...

    def log_weights(
        self, offsets: Lambda, address: tuple[int, ...], kind: Kind = ..., *, stick_the_landing: bool = ...
    ) -> Float[Tensor, "particle row"]:
        """Draws whose mean is the ELBO of each row, in nats."""
        ...


MakeGuides = Callable[[Int64[Tensor, " active"], int], Guides]
Tell = Callable[[int], object]

_OPEN, _CONVERGED, _NONFINITE = 0, 1, 2
_SELECTED_AT_ONCE = 2**15  # rows × draws


def optimise(
    make_guides: MakeGuides,
    rows: int,
    schedule: Schedule,
    seed: int,
    start: Lambda | None = None,
    *,
    tell: Tell = lambda _steps: None,
) -> Optimum:
    """Maximise every row's ELBO over its own offset, from the amortised guide on.

    Args:
        make_guides: gives the guides of a subset of the chunk's rows (by position) at a number of draws.
        rows: number of rows in the chunk.
        schedule: settings.
        seed: names the noise.
        start: offsets to begin with; by default those of the guides, zero among them.
        tell: called with a number of steps when these have been taken.

    Returns:
        For each row the best offset by the selection sample (where it began among the candidates), status and steps.
    """
    found = []
    starts = [Start(start)] if start is not None else make_guides(torch.arange(rows), 2).starts()
    for begin in starts:
        offsets = begin.offsets
        if begin.held:  # what each state asks of the rest is found before any is preferred
            offsets = _run(_Search(make_guides, rows, schedule, seed, offsets, begin.held), tell).best
        found.append(_run(_Search(make_guides, rows, schedule, seed, offsets), tell))
    return _best_of(found)


def _run(search: "_Search", tell: Tell) -> "_Search":
    while len(search.active) and search.step < search.schedule.max_steps:
        tell(search.run_window())
    return search


class _Search:
    def __init__(
        self,
        make_guides: MakeGuides,
        rows: int,
        schedule: Schedule,
        seed: int,
        start: Lambda,
        held: Collection[str] = (),
    ) -> None:
        self._make_guides, self.schedule, self._seed, self._held = make_guides, schedule, seed, held
        self.step = 0
        first = make_guides(torch.arange(rows), 2)
        self._selection_draws = schedule.selection_draws_for(first.elements())
        most = max(1, _SELECTED_AT_ONCE // self._selection_draws)
        self._selected_at_once = min(most, first.rows_at_once(self._selection_draws))
        self.active = torch.arange(rows, device=first.batch.keys.device)
        self.best = {key: offset.clone() for key, offset in start.items()}
        self._start, self._start_weights = start, self._select(start)
        self._best_weights = self._start_weights.clone()
        self.status = torch.where(self._start_weights.isfinite().all(0), _OPEN, _NONFINITE)
        self.steps = torch.zeros_like(self.active)
        # State of the active rows, in the order of `active`.
        self._now = {key: offset.clone() for key, offset in start.items()}
        self._mean = {key: torch.zeros_like(offset) for key, offset in start.items()}
        self._square = {key: torch.zeros_like(offset) for key, offset in start.items()}
        self._rate = self._best_weights.new_full((rows,), schedule.first_step)
        self._cycle_start = self._best_weights.mean(0)
        self._broken = torch.zeros_like(self.status, dtype=torch.bool)
        self._retire(self.status != _OPEN)

    def run_window(self) -> int:
        """Take a window of steps, then judge the mean offset of its second half on the selection sample; how many."""
        schedule = self.schedule
        batch = self._make_guides(self.active, schedule.draws)
        steps = min(schedule.window, schedule.max_steps - self.step)
        half = max(1, steps // 2)
        average = {key: torch.zeros_like(offset) for key, offset in self._now.items()}
        self._broken = torch.zeros_like(self._broken)
        for k in range(steps):
            self._adam_step(batch)
            if k >= steps - half:
                for key in average:
                    average[key] += self._now[key] / half
        self._judge(average)
        return steps

    def _adam_step(self, batch: Guides) -> None:
        self.step += 1
        offsets = {key: offset.requires_grad_() for key, offset in self._now.items()}
        weights = batch.log_weights(offsets, (self._seed, Stream.STEP, self.step), stick_the_landing=True)
        gradients = torch.autograd.grad(weights.mean(0).sum(), list(offsets.values()), allow_unused=True)
        with torch.no_grad():
            for (key, offset), gradient in zip(offsets.items(), gradients, strict=True):
                self._now[key] = offset.detach()
                if gradient is not None and key not in self._held:  # None: nothing depends on this offset
                    self._broken |= ~gradient.isfinite().reshape(len(gradient), -1).all(1)
                    self._now[key] = self._now[key] + self._adam(key, gradient.nan_to_num(0.0, 0.0, 0.0))

    def _adam(self, key: str, gradient: Tensor) -> Tensor:
        """The step of Adam (Kingma and Ba, 2015) that raises the ELBO.

        The squares are forgotten ten times faster than usual: the large gradients of a far-off start would otherwise
        keep the steps tiny for a thousand more (0.33 nat short, against 0.005, where the noise of v is small).
        """
        self._mean[key] = 0.9 * self._mean[key] + 0.1 * gradient
        self._square[key] = 0.99 * self._square[key] + 0.01 * gradient**2
        mean, square = self._mean[key] / (1 - 0.9**self.step), self._square[key] / (1 - 0.99**self.step)
        rate = self._rate.reshape(-1, *[1] * (gradient.ndim - 1))
        return rate * mean / (square.sqrt() + 1e-8)

    def _select(self, candidate: Lambda) -> Float[Tensor, "particle active"]:
        """Log weights of the active rows on the selection sample, some rows at a time."""
        at_once, found = self._selected_at_once, []
        for first in range(0, len(self.active), at_once):
            batch = self._make_guides(self.active[first : first + at_once], self._selection_draws)
            offsets = {key: offset[first : first + at_once] for key, offset in candidate.items()}
            with torch.no_grad():
                found.append(batch.log_weights(offsets, (self._seed, Stream.SELECT), "matched"))
        return torch.cat(found, 1)

    def _judge(self, candidate: Lambda) -> None:
        schedule, active = self.schedule, self.active
        weights = self._select(candidate)
        gain, stderr = mean_and_stderr(weights - self._best_weights[:, active])
        # The later mean, taken at smaller steps, is kept unless it is worse by a standard error: keeping the winner
        # of noisy looks instead left 3 times as many nats on the table (0.0066 and 0.0019 on a linear-Gaussian model).
        better, worse = (torch.nonzero(rows).flatten() for rows in (gain > -stderr, ~(gain > -stderr)))  # NaN is worse
        for key, offset in candidate.items():
            self.best[key][active[better]] = offset[better]
        self._best_weights[:, active[better]] = weights[:, better]
        self.steps[active] = self.step
        # A row that has been shaken away from its best goes back, and on with smaller steps.
        for key, offset in self._now.items():
            offset[worse] = self.best[key][active[worse]]
        enough = schedule.tolerance * self._rate / schedule.first_step
        self._rate = torch.where(gain > enough, self._rate, self._rate / 2)
        self._end_cycles(self._rate < schedule.last_step)

    def _end_cycles(self, ended: Tensor) -> None:
        """End the cycle of rows whose step size has run out: those that gained too little retire, others restart."""
        elbo = self._best_weights[:, self.active].mean(0)
        idle = ended & ~(elbo - self._cycle_start > self.schedule.tolerance)
        self.status[self.active] = torch.where(idle, torch.where(self._broken, _NONFINITE, _CONVERGED), _OPEN)
        self._rate = torch.where(ended, self.schedule.first_step / 4, self._rate)
        self._cycle_start = torch.where(ended, elbo, self._cycle_start)
        self._retire(idle)

    def _retire(self, leaving: Tensor) -> None:
        staying = torch.nonzero(~leaving).flatten()
        self.active, self._rate = self.active[staying], self._rate[staying]
        self._cycle_start, self._broken = self._cycle_start[staying], self._broken[staying]
        for state in (self._now, self._mean, self._square):
            for key in state:
                state[key] = state[key].detach()[staying]

    def finish(self) -> Float[Tensor, " row"]:
        """Put rows that have gained nothing back to their start, and return the ELBO of all on the selection sample."""
        gained = (self._best_weights - self._start_weights).mean(0) > 0
        for key, offset in self.best.items():
            offset[~gained] = self._start[key][~gained]
        return torch.where(gained, self._best_weights.mean(0), self._start_weights.mean(0))


def _best_of(searches: list[_Search]) -> Optimum:
    """The best offsets of each row over several starts; the first one unless another gained."""
    first = searches[0]
    elbo, steps = first.finish(), first.steps.clone()
    for other in searches[1:]:
        theirs = other.finish()
        better = theirs > elbo
        for key, offset in first.best.items():
            offset[better] = other.best[key][better]
        first.status[better] = other.status[better]
        elbo, steps = torch.where(better, theirs, elbo), steps + other.steps
    names = {_OPEN: Status.MAX_STEPS, _CONVERGED: Status.CONVERGED, _NONFINITE: Status.NONFINITE}
    untested = torch.full_like(elbo, torch.nan)
    status = [names[code] for code in first.status.tolist()]
    return Optimum(first.best, status, steps, [FIRST_ORDER] * len(steps), untested, untested.clone())
