"""Each row's own guide of a program, found without pplvae: a plain loop of torch's Adam over lambda of all rows."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

Lam = Mapping[str, Tensor]  # lambda of every row, rows first, in unconstrained space
Elbo = Callable[[Lam, int], Tensor]  # of lambda and a number of draws: unbiased draws of the ELBO, axes (draw, row)

_AT_ONCE = 50  # draws of all rows in one evaluation of the score


@dataclass(frozen=True)
class Scores:
    """What was found, in nats: means over the rows, and their Monte Carlo standard errors.

    Attributes:
        elbo: of the encoder's lambda.
        elbo_stderr: its error.
        gap: what the rows' own lambda wins, on the same draws.
        gap_stderr: its error.
    """

    elbo: float
    elbo_stderr: float
    gap: float
    gap_stderr: float


def by_hand(
    start: Lam, elbo: Elbo, *, steps: int, draws: int = 16, step: float = 0.05, score_draws: int = 2000
) -> Scores:
    """Climb from the encoder's lambda, and score both ends on the same fresh draws.

    Args:
        start: the encoder's lambda.
        elbo: draws of the ELBO, differentiable in lambda.
        steps: of Adam; the step size falls to zero in a cosine.
        draws: per row and step.
        step: the first step size.
        score_draws: per row.
    """
    torch.manual_seed(1)
    lam = {name: value.detach().clone().requires_grad_() for name, value in start.items()}
    optimiser = torch.optim.Adam(lam.values(), lr=step)
    for k in range(steps):
        for group in optimiser.param_groups:
            group["lr"] = 0.5 * step * (1 + math.cos(math.pi * k / steps))
        optimiser.zero_grad()
        (-elbo(lam, draws).mean(0).sum()).backward()  # the sum over rows: none has an influence on another's steps
        optimiser.step()
    with torch.no_grad():
        before, after = _scored(start, elbo, score_draws), _scored(lam, elbo, score_draws)
    return Scores(*_mean(before), *_mean(after - before))


def _scored(lam: Lam, elbo: Elbo, draws: int) -> Tensor:
    torch.manual_seed(2)
    return torch.cat([elbo(lam, min(draws, _AT_ONCE)) for _ in range(max(1, draws // _AT_ONCE))])


def _mean(draws: Tensor) -> tuple[float, float]:
    means = draws.mean(1)  # over the rows
    return float(means.mean()), float(means.std() / math.sqrt(len(means)))


def normal(value: Tensor, loc: Tensor | float, log_scale: Tensor | float) -> Tensor:
    """The log-density of a normal, element by element."""
    log_scale = torch.as_tensor(log_scale)
    return -0.5 * ((value - loc) * (-log_scale).exp()).square() - log_scale - 0.5 * math.log(2 * math.pi)


def bernoulli(value: Tensor, probs: Tensor) -> Tensor:
    """The log-probability by a Bernoulli, element by element; of grey values, minus the cross entropy."""
    probs = probs.clamp(torch.finfo(probs.dtype).eps, 1 - torch.finfo(probs.dtype).eps)
    return value * probs.log() + (1 - value) * (-probs).log1p()


def drawn(lam: Lam, draws: int, name: str = "") -> tuple[Tensor, Tensor]:
    """Draws of factorised normals of lambda `<name>loc` and `<name>log_scale`, and log q: axes (draw, row, element)."""
    loc, log_scale = lam[f"{name}loc"], lam[f"{name}log_scale"]
    value = loc + log_scale.exp() * torch.randn(draws, *loc.shape)
    return value, normal(value, loc, log_scale).sum(-1)
