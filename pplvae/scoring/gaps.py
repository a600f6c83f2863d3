"""The amortisation gap of some rows, of paired draws, and how the search for each row's own guide ended."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from pplvae.programs.estimates import mean_and_stderr, with_rounding
from pplvae.programs.noise import Stream
from pplvae.scoring.chunks import Chunk
from pplvae.scoring.scores import Scored, Scores
from pplvae.scoring.tables import Columns, add
from pplvae.search.optimum import Status

GUIDES = ("amortised", "local")
Sample = dict[str, Scored]  # by guide: draws of the same rows on the same noise


def drawn(scores: Mapping[str, Scores], particles: int, index: Tensor, stream: Stream) -> Sample:
    """So many draws of each guide at some rows, all on the same noise."""
    return {guide: draw(particles, index=index, stream=stream) for guide, draw in scores.items()}


def gap_columns(sample: Sample) -> Columns:
    """Both ELBOs and the gap, of paired draws."""
    amortised, local = (sample[guide].elbo for guide in GUIDES)
    columns: Columns = {}
    for name, draws in (
        ("elbo_amortised", amortised),
        ("elbo_local", local),
        ("amortisation_gap", local - amortised),
    ):
        mean, stderr = mean_and_stderr(draws)
        add(columns, name, mean, with_rounding(stderr, sample["amortised"].log_weights))
    return columns


def ending_columns(chunk: Chunk, index: Tensor, sample: Sample) -> Columns:
    """How the search for each row's own guide ended."""
    finite = torch.stack([sample[guide].elbo.isfinite().all(0) for guide in GUIDES]).all(0).tolist()
    status = [chunk.optimum.status[row] for row in index.tolist()]
    ended = [s if ok else Status.NONFINITE for s, ok in zip(status, finite, strict=True)]
    method = np.array([chunk.optimum.method[row] for row in index.tolist()])
    columns: Columns = {"status": np.array([s.name.lower() for s in ended]), "steps": chunk.optimum.steps[index]}
    add(columns, "shortfall", chunk.optimum.shortfall[index], chunk.optimum.shortfall_stderr[index])
    return columns | {"method": method}
