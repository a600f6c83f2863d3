"""What the decoder makes of the encoder's guide, and of the row's own: the mean of the likelihood under each."""

import warnings
from collections.abc import Mapping
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from pplvae.data import Rows
from pplvae.errors import PplvaeWarning, ProgramError
from pplvae.isolate import validation
from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream
from pplvae.programs.opening import opened
from pplvae.programs.pieces import rows_with_draws
from pplvae.programs.reading import Layout, Program
from pplvae.programs.shapes import Lambda
from pplvae.scoring.chunks import Chunk
from pplvae.scoring.gaps import GUIDES
from pplvae.search.optimum import Schedule
from pplvae.search.own_guides import OwnGuides

_DRAWS = 64  # of the latents, over which the mean is taken


def with_reconstructions(
    shown: xr.Dataset, model: Program, guide: Program, parts: Mapping[str, Rows], schedule: Schedule, seed: int
) -> xr.Dataset:
    """What the decoder makes of the rows that are shown, under both guides; without it where that is not to be had."""
    found = []
    for name, part in parts.items():
        places = shown["place"].values[shown["part"].values == name]
        try:
            made = _reconstructions(model, guide, part[places], schedule, seed)
        except Exception as error:  # what has been measured until here is worth more than pictures
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            warnings.warn(f"No reconstructions are shown: {reason}", PplvaeWarning, stacklevel=2)
            return shown
        if made is None:
            return shown
        found.append(torch.stack(made))
    both = torch.cat(found, 1).cpu().numpy()
    return shown.assign(reconstruction=(("guide", "shown", "column"), both)).assign_coords(guide=[*GUIDES])


def _reconstructions(model: Program, guide: Program, rows: Rows, schedule: Schedule, seed: int) -> list[Tensor] | None:
    """E_q[E[v | h]] of rows that are vectors, under the encoder's guide and under the row's own.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        rows: some rows, each of which is searched for its own guide again.
        schedule: of the search.
        seed: names the noise.

    Returns:
        Both, of the shape of the rows; None where the guide is not Gaussian, which would make the search dear, where no
        site observes the rows as they are, and where its law has no mean.
    """
    with opened(model, guide, rows.tensors, seed) as layout, validation(False):
        own = OwnGuides(model, guide, layout, schedule, seed)
        chunk = Chunk(own, Batch.of(rows.tensors))
        if layout.held or chunk.encoded is None:
            return None
        found = [_mean(chunk, layout, offsets, rows.values) for offsets in (chunk.zeros, chunk.optimum.offsets)]
    return None if any(mean is None for mean in found) else [mean for mean in found if mean is not None]


def _mean(chunk: Chunk, layout: Layout, offsets: Lambda, like: Tensor) -> Tensor | None:
    """Of all rows, some at a time."""
    pieces = torch.arange(len(like)).split(rows_with_draws(chunk.batch.tensors, _DRAWS))
    found = [_mean_of_piece(chunk, layout, offsets, piece, like[piece]) for piece in pieces]
    means = [mean for mean in found if mean is not None]
    return torch.cat(means) if len(means) == len(found) else None


def _mean_of_piece(chunk: Chunk, layout: Layout, offsets: Lambda, index: Tensor, like: Tensor) -> Tensor | None:
    moved = {key: offset[index] for key, offset in offsets.items()}
    try:
        space = chunk.guides(index, _DRAWS).space(moved)
    except ProgramError:  # latents that are no vector of real numbers
        return None
    with torch.no_grad():
        sites = space.observed(space.draw((chunk.own.seed, Stream.SCORE))[0])
        means = [_mean_of(site, layout.model[name], like) for name, site in sites.items()]
    return next((mean for mean in means if mean is not None), None)


def _mean_of(site: Any, dim: int, like: Tensor) -> Tensor | None:
    law = site["fn"]
    axis = len(law.batch_shape) + dim
    try:
        mean = law.mean
    except NotImplementedError:
        return None
    rows_first = mean.movedim(axis, 0).reshape(_DRAWS, len(like), -1)
    return rows_first.mean(0) if rows_first.shape[1:] == like.shape else None
