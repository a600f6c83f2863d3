"""Times of pieces of work, taken in turns, and their ratios.

A shared machine drifts: what runs now and what runs a minute later are not comparable. So the competitors take turns,
and what is reported is the quartiles of ratios within a turn.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

Block = Callable[[], float | None]  # a piece of work; a number that it returns is its own time, in seconds


class Missing(Exception):
    """A competitor, or a set of rows, that is not at hand. The message says what is missing."""


@dataclass(frozen=True)
class Settings:
    """What a run was asked for.

    Attributes:
        rounds: turns that are counted.
        quick: smaller sizes: to see that everything runs, not to compare with.
        threads: CPU threads of every competitor.
        device: where the networks and rows are: "cpu" or "cuda".
        cache: folder of fitted weights and reference optima, so that a second run need not make them again.
        rows: that are given guides of their own; None for each workload's own number.
    """

    rounds: int = 5
    quick: bool = False
    threads: int = 1
    device: str = "cpu"
    cache: Path = Path("runs/benchmarks")
    rows: int | None = None

    @property
    def label(self) -> str:
        """What must be equal for two figures to be comparable."""
        rows = "" if self.rows is None else f", {self.rows} rows"
        return f"{'quick' if self.quick else 'full'}, {self.threads} threads, {self.device}{rows}"


class Quartiles(NamedTuple):
    """Of one figure over rounds."""

    low: float
    median: float
    high: float

    def times(self, factor: float) -> "Quartiles":
        """The same in another unit."""
        return Quartiles(*(factor * value for value in self))


def quartiles(values: Sequence[float] | np.ndarray) -> Quartiles:
    """Quartiles of a few values, interpolated."""
    return Quartiles(*np.quantile(np.asarray(values), [0.25, 0.5, 0.75]).tolist())


def ratios(seconds: Mapping[str, Sequence[float]], name: str, to: str) -> Quartiles:
    """Quartiles of the ratio of two competitors' times, formed within each round."""
    return quartiles(np.array(seconds[name]) / np.array(seconds[to]))


def timed(block: Block) -> float:
    """Seconds that a block takes: its own account of it if it gives one."""
    synchronise()
    began = time.perf_counter()
    own = block()
    synchronise()
    return time.perf_counter() - began if own is None else own


def interleaved(blocks: Mapping[str, Block], rounds: int, *, warm_up: bool = True) -> dict[str, list[float]]:
    """Seconds of each block, one after the other, round by round.

    Args:
        blocks: by name.
        rounds: how often.
        warm_up: run every block once before, uncounted: compilers, caches and allocators start there.
    """
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for counted in [False] * warm_up + [True] * rounds:
        for name, block in blocks.items():
            taken = timed(block)
            if counted:
                seconds[name].append(taken)
    return seconds


def synchronise() -> None:
    """Wait for the GPU, whose work is asynchronous; nothing to do without one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
