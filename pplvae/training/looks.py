"""Looks at the amortisation gap while a pair is being fitted: always of the same rows, each from the look before."""

import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pplvae.data import Rows
from pplvae.errors import StoreError
from pplvae.isolate import evaluation_mode, generators_kept, reseed, validation
from pplvae.programs.batch import Batch
from pplvae.programs.failures import in_users_words
from pplvae.programs.inspection import inspect_pair
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Program, WholePlates
from pplvae.programs.shapes import Lambda
from pplvae.scoring.chunks import Chunk
from pplvae.scoring.gaps import GUIDES, drawn, ending_columns, gap_columns
from pplvae.scoring.precision import FEWEST_DRAWS, FEWEST_PLAIN_DRAWS
from pplvae.scoring.tables import as_dataset
from pplvae.search.optimum import Schedule
from pplvae.search.own_guides import OwnGuides
from pplvae.statistics.means import means_of

_TERMS = {"gap": "amortisation_gap", "elbo_amortised": "elbo_amortised", "elbo_local": "elbo_local"}
_ERRORS = {"": "mean", "_stderr": "stderr", "_mc_stderr": "mc_stderr"}
SECONDS = "look_seconds"
_FIRST = 2  # rows by which it is seen at the start whether a pair can be compared


@dataclass(frozen=True)
class Look:
    """What a look finds.

    Attributes:
        line: numbers by the name of their column.
        own: lambda of each row's own guide, by part.
    """

    line: dict[str, float] = field(default_factory=dict)
    own: dict[str, Lambda] = field(default_factory=dict)


def columns_of_part(part: str) -> list[str]:
    """The columns of a history that looks at the rows of a part fill."""
    return [f"{part}_{name}{error}" for name in _TERMS for error in _ERRORS] + [f"{part}_converged"]


class Looks:
    """The looks of one fit; it leaves weights, buffers, gradients, modes and generators as it finds them.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        parts: rows by the name of their part.
        every: epochs from one look to the next.
        most: rows of each part, at most; chosen by the seed.
        seed: names the noise, which is the same in every look, and that of `amortisation_gap` with this seed.

    Attributes:
        own: lambda of each row's own guide at the last look that was due, by part.

    Raises:
        ProgramError: a pair that cannot be compared row by row.
    """

    def __init__(
        self, model: Program, guide: Program, parts: Mapping[str, Rows], *, every: int, most: int, seed: int
    ) -> None:
        self._model, self._guide, self._every, self._seed = model, guide, every, seed
        self._rows = {part: rows[chosen(len(rows), most, seed)] for part, rows in parts.items()}
        self._batches = {
            part: Batch.of(rows.tensors).take(torch.as_tensor(chosen(len(rows), most, seed)))
            for part, rows in parts.items()
        }
        self._schedule = Schedule()
        self.own: dict[str, Lambda] = {}
        with self._undisturbed():
            self._layout = inspect_pair(model, guide, next(iter(parts.values())).tensors)
            self._sizes = self._tried()

    @property
    def names(self) -> list[str]:
        """The columns that a look fills."""
        return [name for part in self._batches for name in columns_of_part(part)] + [SECONDS]

    def is_due(self, epoch: int) -> bool:
        """Whether it is time for a look at the end of an epoch."""
        return (epoch + 1) % self._every == 0

    def __call__(self) -> Look:
        """Measure the gap of all chosen rows, under the weights that the programs have now."""
        began, found = time.perf_counter(), Look()
        with self._undisturbed(), WholePlates(self._layout.whole):
            for part, batch in self._batches.items():
                # Of its own for each part, since masked rows decide on the method.
                own = OwnGuides(self._model, self._guide, self._layout, self._schedule, self._seed)
                chunk = Chunk(own, batch, self.own.get(part))
                found.line.update(_line_of(part, self._measured(chunk, self._rows[part])))
                found.own[part] = chunk.own_lambda
        found.line[SECONDS] = time.perf_counter() - began
        return found

    def tensors(self) -> dict[str, Tensor]:
        """What the next look begins with, for a file."""
        return {f"{part}/{key}": values for part, own in self.own.items() for key, values in own.items()}

    def take_up(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what a file has of an earlier look.

        Raises:
            StoreError: it is not that of such rows.
        """
        parts: dict[str, Lambda] = {}
        for name, values in tensors.items():
            part, _, key = name.partition("/")
            parts.setdefault(part, {})[key] = (
                values.to(self._batches[part].keys.device) if part in self._batches else values
            )
        for part, own in parts.items():
            rows = len(self._batches[part]) if part in self._batches else 0
            if {key: (len(values), values.shape[1:]) for key, values in own.items()} != {
                key: (rows, size) for key, size in self._sizes.items()
            }:
                raise StoreError(
                    f"The checkpoint's guides of {part} rows are not those of this pair and `compare_rows`: it is "
                    "damaged. Start anew with `existing='overwrite'`."
                )
        self.own = parts

    def _measured(self, chunk: Chunk, rows: Rows) -> xr.Dataset:
        everyone = torch.arange(len(chunk.batch))
        with in_users_words("pair of model and guide", chunk.batch.tensors):
            scores = {guide: chunk.scores(guide) for guide in GUIDES}
            # A fixed number: in the mean over rows, errors are small, and a pilot would be half of the draws.
            draws = FEWEST_DRAWS if chunk.own.gaussian is not None else FEWEST_PLAIN_DRAWS
            sample = drawn(scores, draws, everyone, Stream.SCORE)
            columns = gap_columns(sample) | ending_columns(chunk, everyone, sample)
        return as_dataset(columns, rows, chunk.batch.keys, labelled=False)

    def _tried(self) -> dict[str, torch.Size]:
        """Compare a few rows, so that what is refused is refused now; the shape of each row's lambda."""
        part, batch = next(iter(self._batches.items()))
        few = torch.arange(min(_FIRST, len(batch)))
        with WholePlates(self._layout.whole):
            own = OwnGuides(self._model, self._guide, self._layout, Schedule(max_steps=50), self._seed)
            chunk = Chunk(own, batch.take(few))
            self._measured(chunk, self._rows[part][few.numpy()])
            if own.gaussian is None:  # it has said why
                self._schedule = Schedule(second_order=False)
            return {key: values.shape[1:] for key, values in chunk.own_lambda.items()}

    @contextmanager
    def _undisturbed(self) -> Iterator[None]:
        with generators_kept(), validation(False), evaluation_mode(self._model, self._guide), warnings.catch_warnings():
            reseed(self._seed)
            yield


def chosen(rows: int, most: int, seed: int) -> np.ndarray:
    """Positions of so many rows at most, in order; the same for the same seed."""
    if rows <= most:
        return np.arange(rows)
    return np.sort(np.random.default_rng([abs(seed), rows]).choice(rows, most, replace=False))


def _line_of(part: str, rows: xr.Dataset) -> dict[str, float]:
    means = means_of(rows, list(_TERMS.values())).isel(part=0)
    line = {
        f"{part}_{name}{error}": float(means[column].sel(term=term))
        for name, term in _TERMS.items()
        for error, column in _ERRORS.items()
    }
    return line | {f"{part}_converged": float((rows["status"].values == "converged").mean())}
