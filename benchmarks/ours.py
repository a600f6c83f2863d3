"""What is measured of pplvae, in one place: every call into the library that the suite times is here."""

import itertools
import time
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor

import pplvae
from benchmarks.measure import synchronise
from benchmarks.workloads import BATCH, Workload
from pplvae.data import as_parts, as_rows
from pplvae.evidence.annealing import Annealing
from pplvae.evidence.paths import annealer_of
from pplvae.isolate import empty_store, isolated
from pplvae.objectives import Objective
from pplvae.programs.batch import Batch
from pplvae.scoring.chunks import Chunk, over_chunks
from pplvae.scoring.tables import Columns
from pplvae.search.optimum import Schedule
from pplvae.training.gradients import Gradients
from pplvae.training.preparation import follow_rows, prepare
from pplvae.training.steps import Steps


class TrainingBlock:
    """`work.steps` training steps of the workload's own programs, batches of 128.

    Args:
        work: its networks are trained in place.
        compile: ask for the compiled step.
        objective: as `pplvae.fit` takes it.
    """

    def __init__(self, work: Workload, *, compile: bool, objective: Any = "TraceMeanField_ELBO") -> None:
        self._rows, self._store, self._turns = work.block_rows(), empty_store(), itertools.count()
        self._dtype = follow_rows(work.model, work.guide, as_rows(self._rows))
        with self._process_state():
            start = prepare(work.model, work.guide, as_rows(self._rows), None)
            gradients = Gradients(work.model, work.guide, start, Objective(objective))
            adam = torch.optim.Adam(list(start.trained.values()), lr=1e-3, fused=True)
            self._steps = Steps(gradients, adam, compile=compile)

    def __call__(self) -> None:
        """Take the steps, on rows in a fresh order."""
        with self._process_state():
            order = torch.randperm(len(self._rows)).to(self._rows.device)
            shuffled = self._rows[order]
            for first in range(0, len(order), BATCH):
                some = slice(first, first + BATCH)
                self._steps(Batch((shuffled[some],), order[some], order[some]))

    def __str__(self) -> str:
        return str(self._steps)  # what ran the steps, and why not faster

    def _process_state(self) -> AbstractContextManager[Any]:
        return isolated(next(self._turns), store=self._store, dtype=self._dtype)


def training_block(work: Workload, *, compile: bool) -> TrainingBlock:
    """See `TrainingBlock`."""
    return TrainingBlock(work, compile=compile)


def importance_weighted_block(work: Workload, particles: int) -> TrainingBlock:
    """The same with the importance-weighted objective of so many draws a row."""
    return TrainingBlock(work, compile=False, objective=pplvae.objectives.IWAE(particles=particles))


def own_guides(work: Workload, tolerance: float = 0.01) -> tuple[Tensor, Tensor, float]:
    """Mean and log scale of every row's own guide, axes (row, latent), and the seconds that they took.

    Everything that a caller of `amortisation_gap` waits for is in the time, with the fewest scoring draws.

    Args:
        work: the pair and its rows.
        tolerance: as `amortisation_gap` takes it; by default its own.
    """
    synchronise()
    began = time.perf_counter()
    result = pplvae.amortisation_gap(work.model, work.guide, work.rows, particles=4, tolerance=tolerance)
    synchronise()
    seconds = time.perf_counter() - began
    local = result.parameters.sel(guide="local")
    mean, scale = (
        torch.as_tensor(np.asarray(local[name]), dtype=work.rows.dtype, device=work.rows.device)
        for name in ("h.loc", "h.scale")
    )
    return mean, scale.log(), seconds


def annealed(
    work: Workload, *, particles: int, temperatures: int, leapfrog: int, compile: bool = False
) -> tuple[Tensor, float]:
    """Log p(v) in nats of every row, annealed from the prior, and the seconds of the run without its pilot."""
    path = {"particles": particles, "temperatures": temperatures, "leapfrog": leapfrog, "schedule": "linear"}
    settings = Annealing(start="prior", compile=compile, **path)
    weights, seconds = [], []

    def measure(chunk: Chunk) -> Columns:
        for index in torch.arange(len(chunk.batch)).split(settings.rows_at_once()):
            annealer = annealer_of(chunk, index, settings)
            found = annealer.pilot()
            synchronise()
            began = time.perf_counter()
            weights.append(annealer.forward(found)[0])
            synchronise()
            seconds.append(time.perf_counter() - began)
        return {"position": torch.arange(len(chunk.batch))}

    over_chunks(
        measure,
        work.model,
        work.guide,
        as_parts(work.rows),
        Schedule(),
        kind="annealing",
        asked={},
        seed=0,
        chunk_size=len(work.rows),
    )
    log_weights = torch.cat(weights, 1)
    return log_weights.logsumexp(0) - np.log(len(log_weights)), sum(seconds)
