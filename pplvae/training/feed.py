"""The rows of an epoch, batch by batch, in its order: this rank's share of each, read while the one before is at work.

Rows that lie in a file come into memory a window of batches at a time, and never as a whole.
"""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
from jaxtyping import Int64
from torch import Tensor

from pplvae.data import Rows
from pplvae.ranks.group import Ranks

_WINDOW = 2**26  # bytes of rows that are gathered together; all of a small data set at once


@dataclass(frozen=True)
class Fed:
    """What a step takes.

    Attributes:
        step: of the epoch.
        first: how many rows of the epoch come before the batch.
        of: rows of the batch on all ranks together.
        positions: of this rank's rows in the data set.
        tensors: these rows.
    """

    step: int
    first: int
    of: int
    positions: Int64[Tensor, " row"]
    tensors: tuple[Tensor, ...]


class Feed:
    """The batches of an epoch.

    Args:
        rows: of the epoch.
        order: their positions, as they are to come.
        size: rows of a batch, on all ranks together.
        ranks: of the job, which share each batch.
    """

    def __init__(self, rows: Rows, order: Int64[Tensor, " row"], size: int, ranks: Ranks) -> None:
        self._rows, self._order, self._size, self._ranks = rows, order, size, ranks
        self.starts = range(0, len(order), size)
        row = sum(tensor.element_size() * tensor.shape[1:].numel() for tensor in rows.tensors)
        share = -(-size // ranks.size)
        self._steps = max(1, _WINDOW // max(1, row * share))  # of a window

    def batch(self, step: int) -> tuple[Int64[Tensor, " row"], tuple[Tensor, ...]]:
        """Positions and rows of one batch, those of all ranks."""
        positions = self._order[self.starts[step] : self.starts[step] + self._size]
        return positions, self._taken(positions)

    def counts(self) -> Int64[Tensor, " step"]:
        """Rows of every batch, on all ranks together."""
        return torch.tensor([min(self._size, len(self._order) - first) for first in self.starts])

    def __iter__(self) -> Iterator[Fed]:
        """Batch after batch."""
        windows = [range(k, min(k + self._steps, len(self.starts))) for k in range(0, len(self.starts), self._steps)]
        if len(windows) == 1:
            yield from self._fed(windows[0], self._window(windows[0]))
            return
        with ThreadPoolExecutor(1) as reader:
            coming = reader.submit(self._window, windows[0])
            for window, after in zip(windows, [*windows[1:], None], strict=True):
                here = coming.result()
                if after is not None:
                    coming = reader.submit(self._window, after)
                yield from self._fed(window, here)

    def _mine(self, step: int) -> Int64[Tensor, " row"]:
        some = self._order[self.starts[step] : self.starts[step] + self._size]
        return some[self._ranks.share(len(some))]

    def _window(self, window: range) -> tuple[Tensor, tuple[Tensor, ...]]:
        positions = torch.cat([self._mine(step) for step in window])
        rows = self._taken(positions)
        return positions.to(rows[0].device), rows

    def _fed(self, window: range, gathered: tuple[Tensor, tuple[Tensor, ...]]) -> Iterator[Fed]:
        positions, tensors = gathered
        done = 0
        for step in window:
            of = min(self._size, len(self._order) - self.starts[step])
            mine = self._ranks.share(of)
            some = slice(done, done + mine.stop - mine.start)
            done = some.stop
            yield Fed(step, self.starts[step], of, positions[some], tuple(tensor[some] for tensor in tensors))

    def _taken(self, positions: Tensor) -> tuple[Tensor, ...]:
        return tuple(tensor[positions.to(tensor.device)] for tensor in self._rows.tensors)
