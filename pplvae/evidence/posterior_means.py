"""`posterior_means`: E[h | v_i] of every row, corrected by Pareto-smoothed weights of its own guide."""

from typing import Any

import torch
import xarray as xr
from torch import Tensor

from pplvae.data import as_parts
from pplvae.evidence.log_evidence import check_local
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Program
from pplvae.results.arviz import smoothed_weights
from pplvae.scoring.chunks import Chunk, Columns, over_chunks
from pplvae.search.first_order import Schedule


def posterior_means(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    seed: int = 0,
    particles: int = 1000,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    chunk_size: int = 100,
    progress: bool = False,
) -> xr.Dataset:
    """Posterior means of the latents, by importance weighting the row's own guide with a Pareto-smoothed tail.

    Args:
        model: see `amortisation_gap`, as for all arguments that are not listed here.
        guide: the same.
        rows: the same.
        seed: the same.
        particles: draws per row, at least 25; all draws of a chunk are in memory at once.
        tolerance: see `amortisation_gap`.
        max_steps: the same.
        chunk_size: the same.
        progress: the same.

    Returns:
        Over dimension "row": for each latent site `<site>` (its elements along a second dimension) the corrected mean,
        `<site>_stderr` its Monte Carlo error, `<site>_guide` the mean under the guide alone; and `pareto_k`: above 0.7
        the correction cannot be trusted.

    Raises:
        DataError: see `amortisation_gap`.
        ProgramError: the same; and latents that are discrete or belong to all rows.

    References:
        Pareto smoothed importance sampling (Vehtari et al., 2024), arXiv 1507.02646.
    """
    if particles < 25:
        raise ValueError(f"`particles` must be at least 25 for a tail to be fitted, got {particles}.")

    def measure(chunk: Chunk) -> Columns:
        check_local(chunk)
        return _means(chunk, particles)

    schedule = Schedule(tolerance=tolerance, max_steps=max_steps)
    options = {"seed": seed, "chunk_size": chunk_size, "progress": progress}
    return over_chunks(measure, model, guide, as_parts(rows), schedule, **options)


def _means(chunk: Chunk, particles: int) -> Columns:
    space = chunk.guides(slice(None), particles).space(chunk.optimum.offsets)
    with torch.no_grad():
        u, log_q = space.draw((chunk.own.seed, Stream.EVIDENCE))
        log_weights, pareto_k = smoothed_weights((space.log_joint(u) - log_q).to(torch.float64))
        values = space.values(u)
    weights = log_weights.softmax(0)
    columns: Columns = {"pareto_k": pareto_k}
    for name, value in values.items():
        mean, stderr = _weighted(weights, value)
        columns |= {name: mean, f"{name}_stderr": stderr, f"{name}_guide": value.mean(0)}
    return columns


def _weighted(weights: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
    """Self-normalised mean over draws, and its error by the delta method."""
    share = weights.unsqueeze(-1).to(values)
    mean = (share * values).sum(0)
    return mean, (share * (values - mean)).square().sum(0).sqrt()
