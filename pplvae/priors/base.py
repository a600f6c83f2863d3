"""What a model asks of a prior."""

from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution


@runtime_checkable
class Prior(Protocol):
    """p(h), with parameters of its own or none."""

    def __call__(self, like: Tensor) -> Distribution:
        """p(h) with batch shape () and event shape (latent,), on the device and with the dtype of `like`."""
        ...
