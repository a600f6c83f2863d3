"""Whether `converged` means it: what is truly left at the guides that a search returns, and what it says is left."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

import pplvae
from benchmarks.calibration import returned
from benchmarks.truth_networks import network
from benchmarks.truth_searches import Problem, funnel, random_linear, steep, wavy_search

TOLERANCE = 0.01  # nats; the default of the search
FAR = 5  # tolerances
_LINEAR_MODELS = 200

Make = Callable[[], Problem]

PROBLEMS: Sequence[Make] = (
    *(partial(random_linear, seed) for seed in range(_LINEAR_MODELS)),
    wavy_search,
    funnel,
    steep,
    *(partial(network, kind, latents) for kind in ("Bernoulli", "Gaussian") for latents in (3, 10)),
)
QUICK: Sequence[Make] = (*(partial(random_linear, seed) for seed in range(2)), funnel)


@dataclass(frozen=True)
class Ends:
    """How the searches of a group of rows ended.

    Attributes:
        group: its name.
        converged: whether a row was called so.
        left: nats that were truly left.
        reported: the `shortfall`.
        gain: nats above the encoder, in truth.
        elsewhere: by how many nats another hill is higher; NaN where none was sought.
    """

    group: str
    converged: np.ndarray
    left: np.ndarray
    reported: np.ndarray
    gain: np.ndarray
    elsewhere: np.ndarray

    @classmethod
    def joined(cls, group: str, parts: Iterable["Ends"]) -> "Ends":
        """Several groups as one."""
        names = ("converged", "left", "reported", "gain", "elsewhere")
        columns = zip(*([getattr(part, name) for name in names] for part in parts), strict=True)
        return cls(group, *(np.concatenate(some) for some in columns))

    @property
    def beyond(self) -> float:
        """Share of the converged rows that had more left than the tolerance."""
        return self._share(self.left[self.converged] > TOLERANCE)

    @property
    def far_beyond(self) -> float:
        """Share of the converged rows that had several times the tolerance left."""
        return self._share(self.left[self.converged] > FAR * TOLERANCE)

    @property
    def below(self) -> int:
        """Rows that ended lower than their encoder, by more than a tenth of the tolerance."""
        return int((self.gain < -TOLERANCE / 10).sum())

    @property
    def on_a_lower_hill(self) -> float:
        """Share of the rows above which a hill was found that is higher by several times the tolerance."""
        return self._share(self.elsewhere > FAR * TOLERANCE)

    def missed(self) -> str:
        """What of the requirement is not met; empty where all is."""
        found = {"beyond": self.beyond >= 0.05, "5 times": self.far_beyond > 0, "below encoder": self.below > 0}
        return ", ".join(name for name, is_missed in found.items() if is_missed)

    @staticmethod
    def _share(which: np.ndarray) -> float:
        return float(which.mean()) if len(which) else 0.0


def measure(problems: Sequence[Make]) -> list[Ends]:
    """Every group, in order."""
    groups: dict[str, list[Ends]] = {}
    for make in problems:
        found = _searched(make())
        groups.setdefault(found.group, []).append(found)
    return [Ends.joined(group, parts) for group, parts in groups.items()]


def _searched(problem: Problem) -> Ends:
    # Scores are not looked at here: the fewest draws will do.
    result = pplvae.amortisation_gap(problem.model, problem.guide, problem.rows, particles=4, seed=0)
    left = problem.left(returned(result))
    elsewhere = np.full(len(left.nats), np.nan) if left.elsewhere is None else left.elsewhere.numpy()
    converged = result.rows["status"].values == "converged"
    reported = result.rows["shortfall"].values
    return Ends(problem.group, converged, left.nats.numpy(), reported, left.gain.numpy(), elsewhere)
