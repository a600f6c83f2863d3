"""The schedule that Cremer, Li and Duvenaud (2018, arXiv 1801.03558) published the amortisation gap with.

One row at a time, from mean 0 and log variance 0, Adam with step size 1e-3 and 50 draws a step, until ten windows of
100 steps have passed without a better mean.
"""

import torch
from torch import Tensor

from benchmarks.workloads import Workload

LOGGED_STEPS = 19_600  # a row, on average, as a public reproduction logged it
_DRAWS, _WINDOW, _PATIENCE, _LR = 50, 100, 10, 1e-3


def published_guide(work: Workload, row: int, most_steps: int) -> tuple[Tensor, Tensor, int]:
    """Mean and log scale of one row's own guide, axes (latent,), and the steps that were taken.

    Args:
        work: the model and its rows.
        row: its position.
        most_steps: a cap that the original does not have.
    """
    work = work.copy()
    v = work.rows[row : row + 1]
    mean, log_variance = (torch.zeros(1, work.latent, device=v.device, requires_grad=True) for _ in range(2))
    optimiser = torch.optim.Adam([mean, log_variance], lr=_LR)
    best, idle, window, steps = -torch.inf, 0, [], 0
    while steps < most_steps and idle < _PATIENCE:
        noise = torch.randn(_DRAWS, 1, work.latent, device=v.device)
        h = mean + (0.5 * log_variance).exp() * noise
        log_prior = -0.5 * h.square().sum(-1)
        log_q = -0.5 * (noise.square() + log_variance).sum(-1)
        value = (work.law.log_prob(work.decoder, h, v) + log_prior - log_q).mean()
        optimiser.zero_grad()
        (-value).backward()
        optimiser.step()
        window.append(value.detach())
        steps += 1
        if len(window) == _WINDOW:
            reached = float(torch.stack(window).mean())
            best, idle, window = max(best, reached), 0 if reached > best else idle + 1, []
    return mean.detach()[0], 0.5 * log_variance.detach()[0], steps
