"""Rows on their way through a comparison: some at a time, each with the guide that was optimised for it."""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pplvae.data import Rows
from pplvae.errors import ProgramError
from pplvae.isolate import validation
from pplvae.programs.batch import Batch
from pplvae.programs.chunking import rows_at_once
from pplvae.programs.estimates import joined
from pplvae.programs.failures import in_users_words
from pplvae.programs.memory import LEAST, bytes_of, rows_in
from pplvae.programs.noise import Stream
from pplvae.programs.opening import opened
from pplvae.programs.pieces import check_chunk_size
from pplvae.programs.progress import Progress
from pplvae.programs.reading import Layout, Program
from pplvae.programs.shapes import Lambda, PerDraw
from pplvae.programs.widening import widened
from pplvae.ranks.group import Ranks, on_this_machine, ranks
from pplvae.scoring.kept import keeping, some_of
from pplvae.scoring.scores import GaussianScores, Scored, Scores, block_of, blocks
from pplvae.scoring.tables import Columns, as_dataset, merged
from pplvae.scoring.together import Together, Work, keeping_together
from pplvae.search.first_order import MakeGuides
from pplvae.search.kinds import by_kind, decide
from pplvae.search.local_guides import LocalGuides
from pplvae.search.missed import look_for_missed
from pplvae.search.optimum import Optimum, Schedule
from pplvae.search.other_modes import Modes
from pplvae.search.own_gaussian import Encoded
from pplvae.search.own_guides import OwnGuides


class Chunk:
    """Rows that are optimised together and scored in blocks of draws, some at a time.

    Args:
        own: the search for each row's own guide.
        batch: the rows.
        earlier: lambda of their own guides under earlier weights, which shortens the search.
    """

    def __init__(self, own: OwnGuides, batch: Batch, earlier: Lambda | None = None) -> None:
        self.own, self.batch, self._earlier = own, batch, earlier

    def take(self, index: Any) -> "Chunk":
        """Some of the rows."""
        earlier = self._earlier and {key: values[index] for key, values in self._earlier.items()}
        return Chunk(self.own, self.batch.take(index), earlier)

    def guides(self, index: Any, particles: int) -> LocalGuides:
        """The guides of some of the rows."""
        return self.own.guides(self.batch, index, particles)

    @cached_property
    def encoded(self) -> Encoded | None:
        """The encoder's guides as Gaussians, where that is what they are."""
        return self.own.encoded(self.batch)

    @cached_property
    def optimum(self) -> Optimum:
        """Each row's own guide; the search runs when it is first asked for."""
        return self.own(self.batch, self.encoded, self._earlier)

    @cached_property
    def modes(self) -> Modes | None:
        """Each row's modes; None where they cannot be looked for."""
        return self.own.modes(self.batch, self.optimum)

    @cached_property
    def own_lambda(self) -> Lambda:
        """Lambda of each row's own guide, in unconstrained space."""
        lam = self.guides(slice(None), 1).lam()
        return {key: lam[key] + offset for key, offset in self.optimum.offsets.items()}

    @cached_property
    def zeros(self) -> Lambda:
        """Offsets at which every row has the amortised guide."""
        return self.guides(slice(None), 1).zeros()

    def scores(self, guide: str) -> Scores:
        """Draws of a guide, "amortised" or "local", whose mean is its ELBO."""
        given = self.encoded if guide == "amortised" else self.optimum
        if self.own.gaussian is None or given is None or given.gaussians is None or given.curvature is None:
            return partial(self._scores, self.zeros if guide == "amortised" else self.optimum.offsets)
        own = self.own.gaussian
        return GaussianScores(own.form, own.density, given.gaussians, given.curvature, self.batch, self.own.seed)

    def _scores(self, offsets: Lambda, particles: int, *, index: Tensor, stream: Stream) -> Scored:
        elbo = self.log_weights(offsets, particles, index=index, stream=stream)
        if not self.own.layout.states:
            return Scored(elbo, elbo)
        return Scored(elbo, self.log_weights(offsets, particles, index=index, stream=stream, evidence=True))

    def log_weights(
        self,
        offsets: Lambda,
        particles: int,
        *,
        index: Tensor | None = None,
        stream: Stream = Stream.SCORE,
        evidence: bool = False,
        guides: MakeGuides | None = None,
    ) -> PerDraw:
        """Log weights of guides from fresh draws, mirrored ones last; the same stream gives the same noise.

        Args:
            offsets: of all rows.
            particles: draws in all.
            index: positions of some rows, on the CPU; by default all.
            stream: names the noise.
            evidence: `LocalGuides.evidence_weights` instead: they differ where discrete latents are summed over.
            guides: makes the guides that the offsets move; by default those of the guide's own family.
        """
        everyone = torch.arange(len(self.batch)) if index is None else index
        layout = self.own.layout
        at_once = rows_at_once(self.batch.tensors, _copies(layout, block_of(particles - 1)), layout.observed)
        found = [
            self._log_weights(offsets, particles, some, stream, guides or self.guides, evidence=evidence)
            for some in everyone.split(at_once)
        ]
        return torch.cat(found, 1)

    def _log_weights(
        self,
        offsets: Lambda,
        particles: int,
        index: Tensor,
        stream: Stream,
        make: MakeGuides,
        *,
        evidence: bool,
    ) -> PerDraw:
        moved = {key: offset[index] for key, offset in offsets.items()}
        made: dict[int, Any] = {}  # by size: once for all blocks, and with them the encoder
        found = []
        for start, count in blocks(particles):
            if count not in made:
                made[count] = make(index, count)
            weights = made[count].evidence_weights if evidence else made[count].log_weights
            with torch.no_grad():
                found.append(widened(weights(moved, (self.own.seed, stream, start))))
        return joined(found)


def _copies(layout: Layout, block: int) -> int:
    """How often a row stands in what a program is called with while a block is scored (see `LocalGuides`)."""
    everything = bool(layout.states) and set(layout.states) == set(layout.axes)
    draws = 2 if layout.redrawn else 1 if everything else block
    states = math.prod(len(states.values) for states in layout.states.values())
    return draws * states * (layout.summed.count if layout.summed else 1)


def over_chunks(
    measure: Callable[[Chunk], Columns],
    model: Program,
    guide: Program,
    parts: Mapping[str, Rows],
    schedule: Schedule,
    *,
    kind: str,
    asked: Mapping[str, Any],
    seed: int,
    chunk_size: int,
    store: str | Path | None = None,
    memory: int | str | None = None,
    progress: bool = False,
    batch_of: Callable[[Sequence[Tensor]], Batch] = Batch.of,
    simulated: int = 0,
) -> xr.Dataset:
    """Measure all rows, some at a time, in a process state of their own.

    Args:
        measure: from a chunk to columns, one entry per row.
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        parts: rows by name.
        schedule: see `Chunk`.
        kind: what is measured.
        asked: the settings that the columns depend on, to become attributes.
        seed: the same.
        chunk_size: rows per chunk.
        store: a folder for what has been measured; what is there is not measured again.
        memory: what the process may take beside the rows, which limits the chunks, too.
        progress: show a progress bar, on a terminal.
        batch_of: makes a batch of all rows.
        simulated: rows on which better optima that the search misses are looked for.

    Returns:
        The columns over dimension "row", with the coordinates id, part, content key, and label where all have one. The
        attribute "lambda" names what is free in a row's own guide, "held" the latents that belong to all rows and are
        drawn from their guide as it is; "first_order_because" says why the second-order method was not used, if so.
    """
    check_chunk_size(chunk_size)
    labelled = all(part.labels is not None for part in parts.values())
    found: list[xr.Dataset] = []
    about: dict[str, dict[str, str]] = {}
    looked: Mapping[str, Any] = {}
    here, sets = ranks(), list(parts.values())
    total = sum(len(part) for part in sets)
    request = {"kind": kind, **asked, "seed": seed, "rows_at_most": chunk_size}
    request["chunk_size"] = _rows_at_once(here, chunk_size, memory, sets)
    shown = Progress(shown=progress and here.is_first, rows=total)

    @contextmanager
    def opened_part(place: int) -> Iterator[tuple[OwnGuides, Batch]]:
        part = sets[place]
        with opened(model, guide, part.tensors, seed) as layout, validation(False):  # it is checked on every row
            whole = batch_of(part.tensors)
            own = OwnGuides(model, guide, layout, schedule, seed, progress=shown)
            kept.check_pair(place, partial(_said_of_some, own, whole))
            yield own, whole

    @contextmanager
    def at_work(place: int) -> Iterator[Work]:
        with opened_part(place) as (own, whole):
            decide(own, whole)  # one row for all, whoever measures what
            look = {} if place or not simulated else {f"missed-{simulated}": partial(_looked, own, whole, simulated)}
            yield Work(lambda start: _measured(measure, own, whole.take(slice(start, start + size))), look)

    keep = keeping if here.size == 1 else partial(keeping_together, here)
    with keep(store, request, parts) as kept, shown.bar(total, "comparing", "row") as bar:
        size: int = kept.asked["chunk_size"]
        pieces = [(place, start) for place, part in enumerate(sets) for start in range(0, len(part), size)]
        if isinstance(kept, Together):
            kept.measure_all(pieces, at_work)
            kept.check_whole(pieces)
        for place, part in enumerate(sets):
            with opened_part(place) as (own, whole):
                for start in range(0, len(part), size):
                    rows = slice(start, start + size)
                    columns = kept.columns(place, start, partial(_measured, measure, own, whole.take(rows)))
                    if not own.is_decided:  # rows that are there decide for those that are not
                        decide(own, whole.take(rows))
                    found.append(as_dataset(columns, part[rows], whole.keys[rows], labelled=labelled))
                    bar.update(len(whole.keys[rows]))
                if simulated and not looked:  # once: the model is the same for all parts
                    looked = kept.found(f"missed-{simulated}", partial(_looked, own, whole, simulated))
            about[part.name] = {
                "lambda": ", ".join(own.layout.free),
                "held": ", ".join(own.layout.held),
                "first_order_because": own.reason,
            }
    return xr.concat(found, dim="row").assign_attrs({**_of_all(about), **looked, **asked})


def _rows_at_once(here: Ranks, chunk_size: int, memory: int | str | None, parts: Sequence[Rows]) -> int:
    """Rows of a chunk, as many as fit into memory; as few as on any rank, since chunks are the same for all."""
    allowed = bytes_of(memory, parts[0].values.device)
    if memory is None:
        allowed = bytes_of(max(allowed // on_this_machine(), LEAST))
    size = min([chunk_size, *(rows_in(allowed, part.tensors) for part in parts)])
    return -int(here.largest_(torch.tensor(-size)))


def _measured(measure: Callable[[Chunk], Columns], own: OwnGuides, batch: Batch) -> Columns:
    try:
        with in_users_words("pair of model and guide", batch.tensors):
            groups = by_kind(own, batch)
            if len(groups) == 1:
                return measure(Chunk(groups[0][1], batch))
            return merged([(index, measure(Chunk(of, batch.take(index)))) for index, of in groups], len(batch))
    except (MemoryError, torch.OutOfMemoryError, ProgramError) as error:
        if not _is_of_memory(error) or len(batch) == 1:
            raise
    halves = torch.arange(len(batch)).chunk(2)
    return merged([(index, _measured(measure, own, batch.take(index))) for index in halves], len(batch))


def _is_of_memory(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that memory has ended."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    of_allocator = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)  # torch's, on the CPU
    return of_allocator or (error is not None and _is_of_memory(error.__cause__))


def _looked(own: OwnGuides, batch: Batch, simulated: int) -> dict[str, Any]:
    with in_users_words("pair of model and guide", batch.tensors):
        return look_for_missed(own, batch, simulated)


def _said_of_some(own: OwnGuides, batch: Batch) -> np.ndarray:
    """Log weights of some rows, by which a pair with other parameters is told."""
    chunk = Chunk(own, batch.take(some_of(len(batch))))
    with in_users_words("pair of model and guide", chunk.batch.tensors):
        return chunk.log_weights(chunk.zeros, 2).cpu().numpy()


def _of_all(parts: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
    """What is said of every part: once where it is the same, else part by part."""
    found = {}
    for name in next(iter(parts.values())):
        said = {part: about[name] for part, about in parts.items()}
        same = len(set(said.values())) == 1
        found[name] = next(iter(said.values())) if same else "; ".join(f"{part}: {text}" for part, text in said.items())
    return found
