"""Whether log p(v) and its error are right where posteriors have several modes, against integrals over grids."""

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

import pplvae
from pplvae.errors import PplvaeWarning

_REACH, _STEPS, _STEPS_OF_TWO = 6.0, 60_000, 1_200
_TRUSTED = 0.7  # k-hat above which an estimate does not claim to be right
_FAR = 0.1  # nats

Seen = Callable[[Tensor], Tensor]  # the mean of v, from latents in the last axis


class Problem(NamedTuple):
    """v ~ N(f(h), noise²), h standard normal, and guides that are the same for every row.

    Attributes:
        name: of f.
        latents: how many.
        seen: f.
        noise: standard deviation.
        by_element: whether f acts on each latent alone, so that log p(v) is a sum of integrals over one.
        family: of the guide.
        rows: how many.
        seed: of the rows.
    """

    name: str
    latents: int
    seen: Seen
    noise: float
    by_element: bool = False
    family: Callable[..., dist.TorchDistribution] = dist.Normal
    rows: int = 100
    seed: int = 5

    def drawn(self) -> Tensor:
        """Rows of the model."""
        generator = torch.Generator().manual_seed(self.seed)
        mean = self.seen(torch.randn(self.rows, self.latents, dtype=torch.float64, generator=generator))
        return mean + self.noise * torch.randn(mean.shape, dtype=torch.float64, generator=generator)

    def model(self, v: Tensor) -> None:
        """As a program."""
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(v.new_zeros(self.latents), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(self.seen(h), self.noise).to_event(1), obs=v)

    def guide(self, v: Tensor) -> None:
        """Near zero, and as wide as the prior."""
        like = v.new_ones(len(v), self.latents)
        with pyro.plate("data", len(v)):
            pyro.sample("h", self.family(0.1 * like, like).to_event(1))

    def log_evidence(self, v: Tensor) -> np.ndarray:
        """Log p(v), in nats."""
        alone = self.latents == 1 or self.by_element
        line = torch.linspace(-_REACH, _REACH, (_STEPS if alone else _STEPS_OF_TWO) + 1, dtype=torch.float64)
        step = (line[1] - line[0]).log()
        if self.by_element:
            prior, likelihood = dist.Normal(0.0, 1.0).log_prob(line), dist.Normal(self.seen(line), self.noise)
            return sum((prior + likelihood.log_prob(x.unsqueeze(-1))).logsumexp(-1) + step for x in v.T).numpy()
        h = line.unsqueeze(-1) if alone else torch.cartesian_prod(line, line)
        prior, likelihood = dist.Normal(0.0, 1.0).log_prob(h).sum(-1), dist.Normal(self.seen(h), self.noise)
        each = [(prior + likelihood.log_prob(row).sum(-1)).logsumexp(0) for row in v]
        return (torch.stack(each) + self.latents * step).numpy()


def network(seed: int) -> Problem:
    """One or two latents, a network with one hidden layer and one to four columns, all drawn at random."""
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=torch.float64, generator=generator)

    latents, columns = 1 + seed % 2, int(torch.randint(1, 5, (1,), generator=generator))
    gain, noise = (float(torch.rand(1, generator=generator)) for _ in range(2))
    first, offset, second = (1 + 3 * gain) * draw(latents, 8), draw(8), 0.5 * draw(8, columns)
    bend = (torch.tanh, torch.sin, torch.relu)[seed % 3]
    return Problem(
        "random networks", latents, lambda h: bend(h @ first + offset) @ second, 0.05 * 10**noise, rows=30, seed=seed
    )


def _tanh() -> Seen:
    weight = torch.randn(2, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return lambda h: torch.tanh(3 * h) @ weight


PROBLEMS = (
    Problem("h²", 1, torch.square, 0.1, by_element=True),
    Problem("h²", 1, torch.square, 0.02, by_element=True),
    Problem("two h²", 2, torch.square, 0.2, by_element=True),
    Problem("four h²", 4, torch.square, 0.1, by_element=True, rows=40),
    Problem("two h², Laplace guide", 2, torch.square, 0.03, by_element=True, family=dist.Laplace, rows=40),
    Problem("sin 3h", 1, lambda h: torch.sin(3 * h), 0.2),
    Problem("h₁ h₂", 2, lambda h: h.prod(-1, keepdim=True), 0.2),
    Problem("h₁² + h₂²", 2, lambda h: h.square().sum(-1, keepdim=True), 0.3, rows=60),
    Problem("tanh network", 2, _tanh(), 0.3),
)
QUICK = (Problem("h²", 1, torch.square, 0.1, by_element=True, rows=10),)
_METHODS = ("importance", "ais")
_NETWORKS = {"importance": 24, "ais": 8}  # by the method


class Found(NamedTuple):
    """Of rows of one problem, or of several.

    Attributes:
        name: of the problem.
        method: of the estimate.
        error: less the truth, in nats.
        stderr: as reported.
        pareto_k: as reported.
        seconds: of one core.
    """

    name: str
    method: str
    error: np.ndarray
    stderr: np.ndarray
    pareto_k: np.ndarray
    seconds: float

    @property
    def trusted(self) -> np.ndarray:
        """Which rows claim to be right."""
        return self.pareto_k < _TRUSTED


def measured(problem: Problem, method: str) -> Found:
    """What one method says of a problem's rows."""
    v = problem.drawn()
    began = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PplvaeWarning)
        rows = pplvae.log_evidence(problem.model, problem.guide, v, method=method).rows
    seconds = time.process_time() - began
    value, stderr, k_hat = (rows[name].values for name in ("log_evidence", "log_evidence_stderr", "pareto_k"))
    name = problem.name if problem.seed != 5 else f"{problem.name}, noise {problem.noise:g}"
    return Found(name, method, value - problem.log_evidence(v), stderr, k_hat, seconds)


def measure(problems: Sequence[Problem] = PROBLEMS, *, with_networks: bool = True) -> Iterator[Found]:
    """Every problem by both methods, and networks drawn at random together."""
    for problem in problems:
        for method in _METHODS:
            yield measured(problem, method)
    if with_networks:
        for method, count in _NETWORKS.items():
            some = [measured(network(100 + seed), method) for seed in range(count)]
            names = ("error", "stderr", "pareto_k")
            error, stderr, k_hat = (np.concatenate([getattr(each, name) for each in some]) for name in names)
            yield Found(f"{count} random networks", method, error, stderr, k_hat, sum(each.seconds for each in some))


HEAD = (
    *("seen", "method", "rows", "k-hat below 0.7", "mean error, nats", "spread", "5 errors too low"),
    *(f"{_FAR} nats too low", "CPU s"),
)


def line(found: Found) -> Sequence[str]:
    """One line of a table: of the rows that claim to be right."""
    error, stderr = found.error[found.trusted], np.maximum(found.stderr[found.trusted], 1e-4)
    return (
        found.name,
        found.method,
        str(len(found.error)),
        f"{100 * found.trusted.mean():.0f} %",
        f"{error.mean():+.4f}",
        f"{(error / stderr).std():.2f}",
        f"{100 * (error < -5 * stderr).mean():.1f} %",
        f"{100 * (error < -_FAR).mean():.1f} %",
        f"{found.seconds:.0f}",
    )
