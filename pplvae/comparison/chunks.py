"""Rows on their way through a comparison: some at a time, each with the guide that was optimised for it."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cache, cached_property
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor
from tqdm.auto import tqdm

from pplvae.batch import Batch
from pplvae.chunking import rows_at_once
from pplvae.comparison.estimates import joined
from pplvae.comparison.localise import LocalGuides, Offsets
from pplvae.comparison.optimise import Optimum, Schedule
from pplvae.comparison.own import OwnGuides
from pplvae.data import Rows
from pplvae.errors import in_users_words
from pplvae.inspection import inspect_pair
from pplvae.isolate import evaluation_mode, isolated, validation
from pplvae.noise import Stream
from pplvae.rows import Layout, Program

Draws = Float[Tensor, "particle row"]
MakeGuides = Callable[[Tensor, int], Any]  # from positions of rows and a number of draws to `LocalGuides` or the like
Columns = dict[str, Any]  # by name: one entry per row, a tensor or an array

# Draws of a row that are taken at once while scoring; even. Later blocks are larger, as they are of few rows.
_FIRST_BLOCKS, _UNTIL, _LATER_BLOCKS = 50, 1000, 200


class Chunk:
    """Rows that are optimised together and scored in blocks of draws, some at a time.

    Args:
        own: the search for each row's own guide.
        batch: the rows.
    """

    def __init__(self, own: OwnGuides, batch: Batch) -> None:
        self.own, self.batch = own, batch
        self.model, self.guide, self.layout = own.model, own.guide, own.layout
        self.schedule, self.seed = own.schedule, own.seed

    def take(self, index: Any) -> "Chunk":
        """Some of the rows."""
        return Chunk(self.own, self.batch.take(index))

    def guides(self, index: Any, particles: int) -> LocalGuides:
        """The guides of some of the rows."""
        return self.own.guides(self.batch, index, particles)

    @cached_property
    def optimum(self) -> Optimum:
        """Each row's own guide; the search runs when it is first asked for."""
        return self.own(self.batch)

    @cached_property
    def zeros(self) -> Offsets:
        """Offsets at which every row has the amortised guide."""
        return self.guides(slice(None), 1).zeros()

    def log_weights(
        self,
        offsets: Offsets,
        particles: int,
        *,
        before: int = 0,
        index: Tensor | None = None,
        stream: Stream = Stream.SCORE,
        evidence: bool = False,
        guides: MakeGuides | None = None,
    ) -> Draws:
        """Log weights of guides from fresh draws, mirrored ones last; the same stream gives the same noise.

        Args:
            offsets: of all rows.
            particles: draws in all.
            before: how many of them are there already and are not drawn again; whole blocks.
            index: positions of some rows, on the CPU; by default all.
            stream: names the noise.
            evidence: `LocalGuides.evidence_weights` instead: they differ where discrete latents are summed over.
            guides: makes the guides that the offsets move; by default those of the guide's own family.
        """
        make = guides or self.guides
        everyone = torch.arange(len(self.batch)) if index is None else index

        def of(some: Tensor) -> Draws:
            moved = {key: offset[some] for key, offset in offsets.items()}
            made = cache(lambda count: make(some, count))  # once for all blocks, and with them the encoder

            def draw(count: int, start: int) -> Tensor:
                weights = made(count).evidence_weights if evidence else made(count).log_weights
                return weights(moved, (self.seed, stream, start))

            return in_blocks(draw, particles, before)

        at_once = rows_at_once(self.batch.tensors, _copies(self.layout, _block(particles - 1)))
        return torch.cat([of(some) for some in everyone.split(at_once)], 1)


def in_blocks(draw: Callable[[int, int], Tensor], particles: int, before: int = 0) -> Draws:
    """Draws in blocks whose size depends on nothing but their place: the noise of a draw is named by its block.

    Args:
        draw: from a number of draws, and the number of those before them, to log weights, mirrored ones last.
        particles: draws in all.
        before: how many of them are left out, as they are there already; whole blocks.
    """
    with torch.no_grad():
        blocks, start = [], before
        while start < particles:
            count = min(_block(start), particles - start)
            blocks.append(draw(count, start).to(torch.float64))
            start += count
        return joined(blocks)


def _block(draw: int) -> int:
    """Size of the block in which a draw stands, unless it is the last one."""
    return _FIRST_BLOCKS if draw < _UNTIL else _LATER_BLOCKS


def _copies(layout: Layout, block: int) -> int:
    """How often a row stands in what a program is called with while a block is scored (see `LocalGuides`)."""
    everything = bool(layout.states) and set(layout.states) == set(layout.axes)
    draws = 2 if layout.held else 1 if everything else block
    return draws * math.prod(len(states.values) for states in [*layout.states.values(), *layout.summed.values()])


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
        drawn from their guide as it is; "first_order_because" says why the second-order method was not used, if so.
    """
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    labelled = all(part.labels is not None for part in parts.values())
    found: list[xr.Dataset] = []
    about: dict[str, str] = {}
    total = sum(len(part) for part in parts.values())
    with tqdm(total=total, desc="comparing", unit="row", disable=None if progress else True) as bar:
        for part in parts.values():
            dtype = next((t.dtype for t in part.tensors if t.is_floating_point()), None)
            with isolated(seed, dtype=dtype), evaluation_mode(model, guide):
                layout = inspect_pair(model, guide, part.tensors)
                whole = batch_of(part.tensors)
                own = OwnGuides(model, guide, layout, schedule, seed)
                with validation(False):  # the pair has been checked on every row
                    for start in range(0, len(part), chunk_size):
                        rows = slice(start, start + chunk_size)
                        chunk = Chunk(own, whole.take(rows))
                        with in_users_words("pair of model and guide", chunk.batch.tensors):
                            columns = measure(chunk)
                        found.append(_dataset(columns, part[rows], chunk.batch.keys, labelled))
                        bar.update(len(chunk.batch))
                about = {
                    "lambda": ", ".join(layout.free),
                    "held": ", ".join(layout.held),
                    "first_order_because": own.reason,
                }
    return xr.concat(found, dim="row").assign_attrs(about)


def add(columns: Columns, name: str, value: Any, stderr: Any) -> None:
    """An estimate and its Monte Carlo standard error."""
    columns[name], columns[f"{name}_stderr"] = value, stderr


def spread(groups: Sequence[tuple[Tensor, Columns]], rows: int) -> Columns:
    """Columns of groups of rows as columns of all.

    Args:
        groups: positions of rows, and their columns.
        rows: in all. What a row has no column for is NaN, 0, False or "skipped".
    """
    found: Columns = {}
    for index, columns in groups:
        for name, values in columns.items():
            some = values.cpu().numpy() if isinstance(values, Tensor) else values
            if name not in found:
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
    "shortfall",
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
