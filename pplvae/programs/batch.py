"""Rows on their way through a program, each of them as often as there are draws.

To get S draws for N rows of a program that knows nothing of draws, its rows are passed S times over and the
log-probabilities folded back to (S, N). That asks nothing of the program but its independent data plate.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from pplvae.programs.keys import keys_of_step, row_keys
from pplvae.programs.noise import Stream


def tile(tensor: Tensor, particles: int) -> Tensor:
    """The rows `particles` times one after the other: draw s of row i stands at s * rows + i."""
    return tensor.expand(particles, *tensor.shape).reshape(-1, *tensor.shape[1:])


@dataclass(frozen=True)
class Batch:
    """Rows on their way through a program, each `particles` times.

    Attributes:
        tensors: the rows, once.
        keys: of the rows, for their noise.
        positions: of the rows in the whole data set, for plates that ask which rows they hold.
        particles: draws per row.
        repeats: how often all of that stands there, with the same noise: once for each state of discrete latents.
        step: what the noise of a training step that belongs to all rows hangs on; None where programs draw from torch's
            generator.
        run: of the runs of a program within that step, each with noise of its own.
    """

    tensors: tuple[Tensor, ...]
    keys: Int64[Tensor, " row"]
    positions: Int64[Tensor, " row"]
    particles: int = 1
    repeats: int = 1
    step: Int64[Tensor, ""] | None = None
    run: int = 0

    @classmethod
    def of(cls, tensors: Sequence[Tensor]) -> "Batch":
        """A whole data set, once."""
        return cls(tuple(tensors), row_keys(tensors), torch.arange(len(tensors[0]), device=tensors[0].device))

    @classmethod
    def without_keys(cls, tensors: Sequence[Tensor], positions: Tensor) -> "Batch":
        """Rows for a program whose noise is not keyed by row."""
        return cls(tuple(tensors), positions, positions)

    @classmethod
    def of_step(cls, tensors: Sequence[Tensor], positions: Tensor, address: tuple[int, ...], step: int) -> "Batch":
        """Rows for a training step whose noise is keyed by row, see `keys.keys_of_step`."""
        keys, of_step = keys_of_step(positions, (Stream.TRAIN, *address), step)
        return cls(tuple(tensors), keys, positions, step=of_step)

    def take(self, index: Any) -> "Batch":
        """Some of the rows, by positions or slice."""
        here = [index.to(t.device) if isinstance(index, Tensor) else index for t in self.tensors]
        tensors = tuple(tensor[some] for tensor, some in zip(self.tensors, here, strict=True))
        return replace(self, tensors=tensors, keys=self.keys[index], positions=self.positions[index])

    def times(self, particles: int) -> "Batch":
        """The same rows with another number of draws."""
        return replace(self, particles=particles)

    def again(self, run: int) -> "Batch":
        """The same rows for another run within a training step."""
        return replace(self, run=run)

    def repeated(self, states: int) -> "Batch":
        """The same rows and draws, once for each state."""
        return replace(self, repeats=self.repeats * states)

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def copies(self) -> int:
        """How often each row stands in what the program is called with."""
        return self.repeats * self.particles

    @cached_property
    def tiled(self) -> tuple[Tensor, ...]:
        """What the program is called with."""
        return tuple(tile(tensor, self.copies) for tensor in self.tensors)

    @cached_property
    def index(self) -> Int64[Tensor, " batch"]:
        """Positions of the tiled rows."""
        return tile(self.positions, self.copies)
