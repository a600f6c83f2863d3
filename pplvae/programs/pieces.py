"""A walk over rows: some at a time, each with all of its draws, and a bar that shows how far it is."""

from collections.abc import Iterator, Sequence

from torch import Tensor

from pplvae.programs.chunking import rows_at_once
from pplvae.programs.progress import progress_bar

# Rows x draws in a run of a program: what its layers hold grows with them, however narrow a row is.
_MOST_TILED = 2**14


def rows_with_draws(tensors: Sequence[Tensor], particles: int) -> int:
    """How many rows go through a program at once with all of their draws; at least one.

    At most 2^14 rows x draws, and no more than `rows_at_once` allows. `posterior_means` (1000 draws, one thread) of
    2000 rows of 64 columns, decoder 8-200-200-64, took 26 s and 0.4 GiB so, and 35 s and 3.0 GiB in pieces of 1000; of
    400 rows of 784 columns, decoder 50-400-400-784, 37 s and 0.5 GiB, and 46 s and 2.4 GiB in pieces of 100.

    >>> import torch
    >>> rows_with_draws([torch.zeros(500, 4)], particles=100)
    163
    """
    return min(rows_at_once(tensors, particles), max(1, _MOST_TILED // particles))


def walk(
    tensors: Sequence[Tensor], particles: int, *, rows: int, chunk_size: int, doing: str, progress: bool
) -> Iterator[slice]:
    """Slices of rows that go through a program together.

    Args:
        tensors: rows of the kind, any number of them.
        particles: Monte Carlo draws per row.
        rows: how many there are to walk over.
        chunk_size: rows at once, at most.
        doing: what the bar says.
        progress: show a progress bar, on a terminal.
    """
    size = min(chunk_size, rows_with_draws(tensors, particles))
    with progress_bar(rows, doing, "row", progress=progress) as bar:
        for start in range(0, rows, size):
            piece = slice(start, min(start + size, rows))
            yield piece
            bar.update(piece.stop - piece.start)


def check_chunk_size(chunk_size: int) -> None:
    """Refuse pieces without rows."""
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` is how many rows are taken at once, 1 or more; got {chunk_size}.")
