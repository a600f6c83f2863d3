"""Rows of a chunk along their annealing paths: a pilot first, then rows of equally long paths together."""

from collections.abc import Callable, Iterator
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from pplvae.evidence.annealing import Annealer, Annealing, AnnealingPath
from pplvae.evidence.gaussian_space import GaussianSpace
from pplvae.programs.latents import LatentSpace
from pplvae.scoring.chunks import Chunk
from pplvae.scoring.tables import Columns, merged
from pplvae.search.other_modes import Modes


def per_path(
    chunk: Chunk, settings: Annealing, run: Callable[[Annealer, AnnealingPath, Tensor], Columns], *, passes: int = 1
) -> Columns:
    """Pilot some rows of a chunk, then run those of them that need equally many temperatures together; then the next.

    Args:
        chunk: the rows.
        settings: of the annealing.
        run: from chains, their frozen paths, and the rows' positions in the chunk, to columns.
        passes: how often it takes a row along its path.
    """
    groups = []
    with chunk.own.progress.bar(len(chunk.batch) * passes, "annealing", "path", inside=True) as bar:
        for piece in _pieces(chunk, settings):
            began = perf_counter()
            pilot = annealer_of(chunk, piece, settings)
            path = pilot.pilot()
            needed = pilot.steps_for(path).cpu()
            seconds = perf_counter() - began
            moves = passes * float(needed.sum()) / len(needed)
            price = seconds * (1 + moves / (len(path.temperatures) - 1))
            chunk.own.progress.price("annealed importance sampling", price, len(piece))
            for count in needed.unique().tolist():
                among = torch.nonzero(needed == count).flatten()
                index = piece[among]
                annealer = annealer_of(chunk, index, settings, bar.update)
                groups.append((index, run(annealer, path.take(among, count), index)))
    return merged(groups, len(chunk.batch))


def _pieces(chunk: Chunk, settings: Annealing) -> Iterator[Tensor]:
    """Positions of rows that go through memory together; those with about as many modes together."""
    everyone = torch.arange(len(chunk.batch))
    modes = chunk.modes if settings.start == "guide" else None
    for some in modes.alike(everyone) if modes is not None else [everyone]:
        yield from some.split(settings.rows_at_once())


def annealer_of(
    chunk: Chunk, index: Tensor, settings: Annealing, tell: Callable[[float], Any] | None = None
) -> Annealer:
    """Chains of some rows of a chunk, from where the settings say; `tell` is called as in `Annealer`."""
    batch = chunk.batch.take(index).times(settings.particles)
    space = space_of(chunk, index, settings.start, settings.particles)
    return Annealer(space, batch, settings, chunk.own.seed, tell)


def space_of(chunk: Chunk, index: Tensor, start: str, particles: int) -> LatentSpace | GaussianSpace:
    """The latents of some rows: under Gaussians of the posterior's shape at its modes, or under a guide that is none.

    Where there are several modes, Gaussians at them replace guides of any family.

    Args:
        chunk: the rows.
        index: positions of some of them.
        start: as in `Annealing`; from the prior, the rows' own guides are not needed.
        particles: draws of each row.
    """
    own, encoded = chunk.own.gaussian, chunk.encoded
    modes = chunk.modes if start == "guide" else None
    if modes is None and own is not None and encoded is not None:
        modes = Modes.one(encoded.gaussians, encoded.curvature)
    if modes is not None and (own is not None or modes.has_several(index)):
        search = chunk.own.posterior(chunk.batch)
        assert search is not None  # which has found the modes
        batch, density = chunk.batch.take(index).times(particles), search.density
        return GaussianSpace(chunk.own.model, chunk.own.layout, density.parts, modes.take(index), batch, density.dtype)
    offsets = chunk.zeros if start == "prior" else chunk.optimum.offsets
    return chunk.guides(index, particles).space({key: offset[index] for key, offset in offsets.items()})
