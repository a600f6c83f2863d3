"""Each row's own optimum of the ELBO: Adam with a step size per row, halved when the row stops rising.

Rows never meet: the loss is the sum over rows, the noise is keyed by row, each row has its own step size and leaves the
batch when it has converged. So a row's answer does not depend on which rows it was optimised with.
"""

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

import torch
from jaxtyping import Int64
from torch import Tensor

from pplvae.comparison.estimates import mean_and_stderr
from pplvae.comparison.localise import LocalGuides, Offsets

MakeBatch = Callable[[Int64[Tensor, " active"], int], LocalGuides]


class Status(Enum):
    """How the optimisation of a row ended."""

    CONVERGED = "The ELBO stopped rising at the smallest step size."
    MAX_STEPS = "`max_steps` was reached while the ELBO might still rise: raise `max_steps`."
    NONFINITE = "The ELBO of the row is NaN or infinite: look at the row, and at the support of the guide."


@dataclass(frozen=True)
class Schedule:
    """Settings of the search; step sizes are in unconstrained units of lambda.

    Attributes:
        max_steps: gradient steps per row at most.
        tolerance: nats; a window of steps that gains less than this lowers the row's step size.
        draws: fresh draws per row and step.
        window: steps between two looks at a row.
        selection_draws: draws per row of the sample, never optimised on, by which the best offset is kept.
        first_step: initial step size.
        last_step: a row whose step size has fallen below has converged.
    """

    max_steps: int = 3000
    tolerance: float = 0.01
    draws: int = 8
    window: int = 25
    selection_draws: int = 64
    first_step: float = 0.1
    last_step: float = 0.002


@dataclass
class Optimum:
    """Offsets of a chunk of rows, with how each row ended."""

    offsets: Offsets
    status: list[Status]
    steps: Int64[Tensor, " row"]


# Streams of noise: the first word after the seed in an address. Scoring has one of its own (see `gaps`).
_STEP, _SELECT = 1, 2


def optimise(make_batch: MakeBatch, rows: int, schedule: Schedule, seed: int) -> Optimum:
    """Maximise every row's ELBO over its own offset, from the amortised guide on.

    Args:
        make_batch: gives the local guides of a subset of the chunk's rows (by position) at a number of draws.
        rows: number of rows in the chunk.
        schedule: settings.
        seed: names the noise.

    Returns:
        For each row the best offset by the selection sample (offset zero among the candidates), status and steps.
    """
    search = _Search(make_batch, rows, schedule, seed)
    while len(search.active) and search.step < schedule.max_steps:
        search.run_window()
    return search.result()


class _Search:
    def __init__(self, make_batch: MakeBatch, rows: int, schedule: Schedule, seed: int) -> None:
        self._make_batch, self._schedule, self._seed = make_batch, schedule, seed
        self.step = 0
        everyone = make_batch(torch.arange(rows), schedule.selection_draws)
        self.active = torch.arange(rows, device=everyone.keys.device)
        self._best = everyone.zeros()
        with torch.no_grad():
            self._start_weights = everyone.log_weights(self._best, (seed, _SELECT), "matched")
        self._best_weights = self._start_weights.clone()
        self._finite = self._best_weights.isfinite().all(0)
        # State of the active rows, in the order of `active`.
        self._now = {key: offset.clone() for key, offset in self._best.items()}
        self._mean = {key: torch.zeros_like(offset) for key, offset in self._best.items()}
        self._square = {key: torch.zeros_like(offset) for key, offset in self._best.items()}
        self._rate = self._best_weights.new_full((rows,), schedule.first_step)
        self._steps = torch.zeros_like(self.active)
        self._converged = torch.zeros_like(self._finite)
        self._retire(~self._finite)

    def run_window(self) -> None:
        """Take a window of steps, then judge the mean offset of its second half on the selection sample."""
        schedule = self._schedule
        batch = self._make_batch(self.active, schedule.draws)
        half = schedule.window // 2
        average = {key: torch.zeros_like(offset) for key, offset in self._now.items()}
        for k in range(schedule.window):
            self._adam_step(batch)
            if k >= schedule.window - half:
                for key in average:
                    average[key] += self._now[key] / half
        self._judge(average)

    def _adam_step(self, batch: LocalGuides) -> None:
        self.step += 1
        offsets = {key: offset.requires_grad_() for key, offset in self._now.items()}
        weights = batch.log_weights(offsets, (self._seed, _STEP, self.step), stick_the_landing=True)
        gradients = torch.autograd.grad(weights.mean(0).sum(), list(offsets.values()), allow_unused=True)
        with torch.no_grad():
            for (key, offset), gradient in zip(offsets.items(), gradients, strict=True):
                if gradient is not None:
                    self._now[key] = offset.detach() + self._adam(key, gradient.nan_to_num(0.0, 0.0, 0.0))

    def _adam(self, key: str, gradient: Tensor) -> Tensor:
        """The step of Adam (Kingma and Ba, 2015), upwards; its usual constants."""
        self._mean[key] = 0.9 * self._mean[key] + 0.1 * gradient
        self._square[key] = 0.999 * self._square[key] + 0.001 * gradient**2
        mean, square = self._mean[key] / (1 - 0.9**self.step), self._square[key] / (1 - 0.999**self.step)
        rate = self._rate.reshape(-1, *[1] * (gradient.ndim - 1))
        return rate * mean / (square.sqrt() + 1e-8)

    def _judge(self, candidate: Offsets) -> None:
        schedule, active = self._schedule, self.active
        selection = self._make_batch(active, schedule.selection_draws)
        with torch.no_grad():
            weights = selection.log_weights(candidate, (self._seed, _SELECT), "matched")
        gain, stderr = mean_and_stderr(weights - self._best_weights[:, active])
        # The later mean, taken at smaller steps, is kept unless it is worse by a standard error: keeping the winner
        # of noisy looks instead left 3 times as many nats on the table (0.0066 and 0.0019 on a linear-Gaussian model).
        better = gain > -stderr  # False for NaN
        for key, offset in candidate.items():
            self._best[key][active[better]] = offset[better]
        self._best_weights[:, active[better]] = weights[:, better]
        self._steps[active] = self.step
        self._rate = torch.where(gain > schedule.tolerance, self._rate, self._rate / 2)
        # A row that has been shaken away from its best goes back, and on with smaller steps.
        for key, offset in self._now.items():
            offset[~better] = self._best[key][active[~better]]
        self._converged[active] = self._rate < schedule.last_step
        self._retire(self._rate < schedule.last_step)

    def _retire(self, leaving: Tensor) -> None:
        staying = ~leaving
        self.active, self._rate = self.active[staying], self._rate[staying]
        for state in (self._now, self._mean, self._square):
            for key in state:
                state[key] = state[key].detach()[staying]

    def result(self) -> Optimum:
        """Offsets, status and steps of all rows; a row that has gained nothing keeps the amortised guide."""
        gained = (self._best_weights - self._start_weights).mean(0) > 0
        for offset in self._best.values():
            offset[~gained] = 0
        ended = torch.where(self._converged, 0, torch.where(self._finite, 1, 2)).tolist()
        status = [[Status.CONVERGED, Status.MAX_STEPS, Status.NONFINITE][k] for k in ended]
        return Optimum(self._best, status, self._steps)
