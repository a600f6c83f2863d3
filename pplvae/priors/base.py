"""What a model asks of a prior."""

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution


@runtime_checkable
class Prior(Protocol):
    """p(h), with parameters of its own or none."""

    def __call__(self, like: Tensor) -> Distribution:
        """p(h) with batch shape () and event shape (latent,), on the device and with the dtype of `like`.

        Parameters of the prior's own stay where its module is: with those of the model.
        """
        ...


def zeros(count: int, like: Tensor) -> Float[Tensor, " count"]:
    """So many zeros on the device and in the dtype of rows; in torch's default dtype where these are integers."""
    dtype = like.dtype if like.is_floating_point() else torch.get_default_dtype()
    return torch.zeros(count, dtype=dtype, device=like.device)


class Deviations(nn.Module):
    """Standard deviations of independent latents: 1, or learned from there.

    Args:
        latent: dimension of h.
        learned: whether they are parameters.
    """

    def __init__(self, latent: int, *, learned: bool) -> None:
        super().__init__()
        self.latent = latent
        self.log_deviation = nn.Parameter(torch.zeros(latent)) if learned else None

    def forward(self, like: Tensor) -> Float[Tensor, " latent"]:
        """One number per latent."""
        return zeros(self.latent, like) + 1 if self.log_deviation is None else self.log_deviation.exp()
