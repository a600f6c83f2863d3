"""A test of uniformity for ranks, with the band that it draws around their ECDF."""

import math
from functools import lru_cache

import numpy as np
from scipy import stats

_FEWEST = 10_000  # sets of uniform ranks that are simulated at least, and at once
_BEYOND = 5  # of them that leave the band, at least


class UniformRanks:
    """How far the ECDF of uniform ranks strays, at all ranks at once.

    At rank r the ECDF of `count` uniform ranks is a binomial count. The statistic is twice the smallest binomial tail
    probability over all ranks; its distribution is found by simulation.

    Args:
        count: of ranks.
        draws: ranks run from 0 to this.
        alpha: probability that a set of uniform ranks leaves the band.
        seed: of the simulation.

    References:
        Säilynoja, Bürkner and Vehtari (2022), arXiv 2103.10522, section 2.2.
    """

    def __init__(self, count: int, draws: int, alpha: float, seed: int) -> None:
        self._alpha = alpha
        simulations = max(_FEWEST, math.ceil(_BEYOND / alpha))
        points = np.arange(1, draws + 1)[:, None] / (draws + 1)
        counts = np.arange(count + 1)
        binomial = stats.binom(count, points)
        self._tails = 2 * np.minimum(binomial.cdf(counts), binomial.sf(counts - 1))
        generator, cells = np.random.default_rng(seed), np.full(draws + 1, 1 / (draws + 1))
        sizes = [min(_FEWEST, simulations - start) for start in range(0, simulations, _FEWEST)]
        blocks = [generator.multinomial(count, cells, size=size).cumsum(1)[:, :-1] for size in sizes]
        self._nulls = np.sort(np.concatenate([self._statistic(block) for block in blocks]))

    @staticmethod
    @lru_cache(maxsize=8)
    def of(count: int, draws: int, alpha: float, seed: int) -> "UniformRanks":
        """The same object for the same arguments: latents share it."""
        return UniformRanks(count, draws, alpha, seed)

    def _statistic(self, below: np.ndarray) -> np.ndarray:
        return np.asarray(self._tails[np.arange(len(self._tails)), below].min(-1))

    def p_value(self, below: np.ndarray) -> float:
        """Probability that uniform ranks stray at least as far.

        Args:
            below: at each rank but the last, how many ranks are not above it.
        """
        return float((1 + np.searchsorted(self._nulls, self._statistic(below), side="right")) / (1 + len(self._nulls)))

    @property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Smallest and largest count at each rank; ranks are inside if and only if their p-value is above alpha."""
        stray = math.floor(self._alpha * (1 + len(self._nulls)) + 1e-9)  # sets of ranks that may leave the band
        inside = self._tails >= self._nulls[stray - 1]
        return inside.argmax(1), inside.shape[1] - 1 - inside[:, ::-1].argmax(1)
