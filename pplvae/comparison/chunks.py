"""Rows on their way through a comparison: some at a time, each with the guide that was optimised for it."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from pplvae.comparison.localise import LocalGuides, Offsets
from pplvae.comparison.optimise import Optimum, Schedule, optimise
from pplvae.data import Rows
from pplvae.errors import in_users_words
from pplvae.inspection import inspect_pair
from pplvae.isolate import evaluation_mode, isolated, validation
from pplvae.noise import Stream
from pplvae.rows import Batch, Layout, Program

Draws = Float[Tensor, "particle row"]
Columns = dict[str, Any]  # by name: one entry per row, a tensor or an array

_BLOCK = 50  # draws of every row of a chunk in memory at once while scoring; even


class Chunk:
    """Rows that are optimised together and scored in blocks of draws.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows.
        schedule: of the search for each row's own guide.
        seed: names the noise.
    """

    def __init__(
        self, model: Program, guide: Program, layout: Layout, batch: Batch, schedule: Schedule, seed: int
    ) -> None:
        self.model, self.guide, self.layout = model, guide, layout
        self.batch, self.schedule, self.seed = batch, schedule, seed

    def take(self, index: Any) -> "Chunk":
        """Some of the rows."""
        return Chunk(self.model, self.guide, self.layout, self.batch.take(index), self.schedule, self.seed)

    def guides(self, index: Any, particles: int) -> LocalGuides:
        """The guides of some of the rows."""
        return LocalGuides(self.model, self.guide, self.layout, self.batch.take(index).times(particles))

    @cached_property
    def optimum(self) -> Optimum:
        """Each row's own guide; the search runs when it is first asked for."""
        return optimise(self.guides, len(self.batch), self.schedule, self.seed)

    @cached_property
    def zeros(self) -> Offsets:
        """Offsets at which every row has the amortised guide."""
        return self.guides(slice(None), 1).zeros()

    def log_weights(
        self,
        offsets: Offsets,
        particles: int,
        *,
        index: Any = slice(None),
        stream: Stream = Stream.SCORE,
        evidence: bool = False,
    ) -> Draws:
        """Log weights of guides from fresh draws, mirrored ones last; the same stream gives the same noise.

        With `evidence`, `LocalGuides.evidence_weights`: they differ where discrete latents are summed over.
        """
        moved = {key: offset[index] for key, offset in offsets.items()}

        def draw(count: int, start: int) -> Tensor:
            guides = self.guides(index, count)
            weights = guides.evidence_weights if evidence else guides.log_weights
            return weights(moved, (self.seed, stream, start))

        return in_blocks(draw, particles)


def in_blocks(draw: Callable[[int, int], Tensor], particles: int) -> Draws:
    """Draws in blocks whose size depends on nothing but their number: the noise of a draw is named by its block.

    Args:
        draw: from a number of draws, and the number of those before them, to log weights, mirrored ones last.
        particles: draws in all.
    """
    found = []
    with torch.no_grad():
        for start in range(0, particles, _BLOCK):
            weights = draw(min(_BLOCK, particles - start), start)
            found.append(weights.to(torch.float64).unflatten(0, (2, -1)))
    return torch.cat(found, dim=1).flatten(0, 1)


def over_chunks(
    measure: Callable[[Chunk], Columns],
    model: Program,
    guide: Program,
    parts: Mapping[str, Rows],
    schedule: Schedule,
    *,
    seed: int,
    chunk_size: int,
    progress: bool,
    batch_of: Callable[[Sequence[Tensor]], Batch] = Batch.of,
) -> xr.Dataset:
    """Measure all rows, some at a time, in a process state of their own.

    Args:
        measure: from a chunk to columns, one entry per row.
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        parts: rows by name.
        schedule: see `Chunk`.
        seed: the same.
        chunk_size: rows per chunk.
        progress: show a progress bar, on a terminal.
        batch_of: makes a batch of all rows.

    Returns:
        The columns over dimension "row", with the coordinates id, part, content key, and label where all have one. The
        attribute "lambda" names what is free in a row's own guide, "held" the latents that belong to all rows and are
        drawn from their guide as it is.
    """
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    labelled = all(part.labels is not None for part in parts.values())
    found: list[xr.Dataset] = []
    free: tuple[str, ...] = ()
    held: tuple[str, ...] = ()
    total = sum(len(part) for part in parts.values())
    with tqdm(total=total, desc="comparing", unit="row", disable=None if progress else True) as bar:
        for part in parts.values():
            dtype = next((t.dtype for t in part.tensors if t.is_floating_point()), None)
            with isolated(seed, dtype=dtype), evaluation_mode(model, guide):
                layout = inspect_pair(model, guide, part.tensors)
                free = layout.free
                whole = batch_of(part.tensors)
                held = layout.held
                with validation(False):  # the pair has been checked on every row
                    for start in range(0, len(part), chunk_size):
                        rows = slice(start, start + chunk_size)
                        chunk = Chunk(model, guide, layout, whole.take(rows), schedule, seed)
                        with in_users_words("pair of model and guide", chunk.batch.tensors):
                            columns = measure(chunk)
                        found.append(_dataset(columns, part[rows], chunk.batch.keys, labelled))
                        bar.update(len(chunk.batch))
    return xr.concat(found, dim="row").assign_attrs({"lambda": ", ".join(free), "held": ", ".join(held)})


def add(columns: Columns, name: str, value: Tensor, stderr: Tensor) -> None:
    """An estimate and its Monte Carlo standard error."""
    columns[name], columns[f"{name}_stderr"] = value, stderr


def spread(columns: Columns, index: Tensor, rows: int) -> Columns:
    """Columns of some rows as columns of all; the others are NaN, 0, False or "skipped"."""
    found: Columns = {}
    for name, values in columns.items():
        some = values.cpu().numpy() if isinstance(values, Tensor) else values
        blank = np.nan if some.dtype.kind == "f" else "skipped" if some.dtype.kind == "U" else 0
        kind = some.dtype if some.dtype.kind != "U" else "U16"
        found[name] = np.full((rows, *some.shape[1:]), blank, dtype=kind)
        found[name][index.cpu().numpy()] = some
    return found


_IN_NATS = (
    "elbo",
    "amortisation_gap",
    "log_evidence",
    "approximation_gap",
    "inference_gap",
    "family_gap",
    "jensen_slack",
    "lower",
    "upper",
    "width",
)


def _dataset(columns: Columns, rows: Rows, keys: Tensor, labelled: bool) -> xr.Dataset:
    arrays = {name: v.cpu().numpy() if isinstance(v, Tensor) else v for name, v in columns.items()}
    variables = {n: (("row", *(f"{n} {k}" for k in range(1, a.ndim))), a) for n, a in arrays.items()}
    coordinates = {
        "row": rows.ids,
        "part": ("row", np.array([rows.name] * len(rows))),
        "key": ("row", keys.cpu().numpy()),
    }
    if labelled:
        coordinates["label"] = ("row", rows.labels)
    dataset = xr.Dataset(variables, coords=coordinates)
    for name in columns:
        if name.startswith(_IN_NATS):
            dataset[name].attrs["units"] = "nats"
    return dataset
