"""What a model asks of a guide's family."""

from typing import Protocol, runtime_checkable

from torch import Tensor
from torch.distributions import Distribution


@runtime_checkable
class Family(Protocol):
    """q(h; λ_φ(v)), the encoder included."""

    def __call__(self, v: Tensor) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,), from what an encoder is shown of v."""
        ...
