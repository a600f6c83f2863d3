"""Whether reported errors are right: over many seeds, how far each figure is from the truth, in its standard errors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

import pplvae
from benchmarks import truth_models as models
from benchmarks.truth_models import Guides, Pair

FIGURES = ("elbo_amortised", "elbo_local", "amortisation_gap")
_ROUNDING = 1e-9  # nats: a standard error below is that of rounding alone


class Case(NamedTuple):
    """A pair, and how many seeds it is measured with."""

    make: Callable[[], Pair]
    seeds: int = 50
    annealed: int = 0  # seeds of the evidence by annealing


CASES = (
    Case(lambda: models.linear(1)),
    Case(lambda: models.linear(5), annealed=10),
    Case(lambda: models.linear(20)),
    Case(lambda: models.linear(60, rows=30)),
    Case(lambda: models.linear_laplace(3), seeds=25),
    Case(models.nonlinear),
    Case(lambda: models.bernoulli(rows=40), annealed=10),
    Case(lambda: models.poisson_gamma(rows=40)),
    Case(models.heavy_tailed),
    Case(models.discrete, seeds=5),  # summed over: it has no noise
)
QUICK = (Case(lambda: models.linear(3, rows=20), seeds=3), Case(lambda: models.heavy_tailed(20), seeds=3))


@dataclass(frozen=True)
class Errors:
    """Of one figure, less the truth.

    Attributes:
        pair: its name.
        figure: such as "elbo_local".
        nats: axes (seed, row).
        stderr: as it was reported.
    """

    pair: str
    figure: str
    nats: np.ndarray
    stderr: np.ndarray

    @property
    def has_noise(self) -> bool:
        """Whether the figure has an error beyond rounding."""
        return bool((self.stderr > _ROUNDING).any())

    @property
    def scores(self) -> np.ndarray:
        """In units of the reported standard error; of figures that have one."""
        return (self.nats / self.stderr)[np.isfinite(self.nats) & (self.stderr > 0)]

    @property
    def mean(self) -> tuple[float, float]:
        """Mean error in nats, with its standard error from the means of the seeds."""
        of_seeds = self.nats.mean(1)
        return float(of_seeds.mean()), float(of_seeds.std(ddof=1) / np.sqrt(len(of_seeds)))

    def missed(self) -> str:
        """What of the requirement is not met; empty where all is."""
        if not self.has_noise:
            return "" if abs(self.nats).max() < _ROUNDING else "not exact"
        (mean, error), found = self.mean, []
        if not 0.95 < self.scores.std() < 1.05:
            found.append("spread")
        if abs(mean) > 2 * error:
            found.append("mean")
        return ", ".join(found)


def measure(cases: Sequence[Case], report: Callable[[Errors], None]) -> list[Errors]:
    """Every figure of every case; each is reported when it is there."""
    found = []
    for case in cases:
        pair = case.make()
        figures = [*_gaps(pair, case.seeds), _evidence(pair, case.seeds, "importance")]
        if case.annealed:
            figures.append(_evidence(pair, case.annealed, "ais"))
        for errors in figures:
            report(errors)
            found.append(errors)
    return found


def _gaps(pair: Pair, seeds: int) -> list[Errors]:
    nats: dict[str, list[np.ndarray]] = {name: [] for name in FIGURES}
    stderr: dict[str, list[np.ndarray]] = {name: [] for name in FIGURES}
    amortised = pair.elbo(pair.encoded)
    for seed in range(seeds):
        result = pplvae.amortisation_gap(pair.model, pair.guide, pair.rows, seed=seed)
        local = pair.elbo(returned(result))
        for name, truth in zip(FIGURES, (amortised, local, local - amortised), strict=True):
            nats[name].append(_less(result.rows[name], truth))
            stderr[name].append(result.rows[f"{name}_stderr"].values)
    return [Errors(pair.name, name, np.array(nats[name]), np.array(stderr[name])) for name in FIGURES]


def _evidence(pair: Pair, seeds: int, method: str) -> Errors:
    nats, stderr = [], []
    for seed in range(seeds):
        rows = pplvae.log_evidence(pair.model, pair.guide, pair.rows, method=method, seed=seed).rows
        nats.append(_less(rows["log_evidence"], pair.evidence))
        stderr.append(rows["log_evidence_stderr"].values)
    return Errors(pair.name, f"log_evidence, {method}", np.array(nats), np.array(stderr))


def returned(result: Any, guide: str = "local") -> Guides:
    """Lambda of every row, as the comparison returns it."""
    return {name: torch.as_tensor(lam.sel(guide=guide).values) for name, lam in result.parameters.items()}


def _less(figure: Any, truth: Tensor | None) -> np.ndarray:
    assert truth is not None
    return figure.values - truth.numpy()
