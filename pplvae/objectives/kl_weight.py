"""The weight of the KL term over time."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

KLWeight = float | Callable[[float], float]


class ScaleLatents(Messenger):
    """Weight the KL term of one of Pyro's objectives: scale log p(h) and log q(h) alike.

    Scaling the model's site alone would be ignored by `TraceMeanField_ELBO`, which takes the guide's scale, and would
    leave `Trace_ELBO` with an objective that is no ELBO of anything.
    """

    def __init__(self, weight: float | Tensor) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        # A tensor is not looked at: it would have to come from the device, and could not be captured.
        weighed = isinstance(self.weight, Tensor) or self.weight != 1.0
        if weighed and not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.weight


@dataclass(frozen=True)
class warm_up:
    """A KL weight that rises linearly from 0 to 1.

    Args:
        epochs: when it reaches 1, counted in passes over the rows.

    Raises:
        ValueError: not a positive number of epochs.

    >>> weight = warm_up(10)
    >>> weight(0.0), weight(5.0), weight(20.0)
    (0.0, 0.5, 1.0)
    """

    epochs: float

    def __post_init__(self) -> None:
        _check_positive(self.epochs)

    def __call__(self, epoch: float) -> float:
        """The weight at an epoch."""
        return min(1.0, epoch / self.epochs)


@dataclass(frozen=True)
class cyclical:
    """A KL weight that rises linearly from 0 to 1, stays there, and starts anew.

    Args:
        epochs: length of a cycle, in passes over the rows.
        rising: share of the cycle in which the weight rises.

    Raises:
        ValueError: not a positive number of epochs, or share.

    References:
        Cyclical annealing schedule: a simple approach to mitigating KL vanishing (Fu et al., 2019), arXiv 1903.10145.

    >>> weight = cyclical(10)
    >>> weight(0.0), weight(2.5), weight(9.0), weight(10.0)
    (0.0, 0.5, 1.0, 0.0)
    """

    epochs: float
    rising: float = 0.5

    def __post_init__(self) -> None:
        _check_positive(self.epochs)
        _check_positive(self.rising)

    def __call__(self, epoch: float) -> float:
        """The weight at an epoch."""
        return min(1.0, (epoch % self.epochs) / (self.rising * self.epochs))


def _check_positive(number: float) -> None:
    if not number > 0:
        raise ValueError(f"A KL weight rises over a positive number of epochs, got {number}.")
