"""A guide of two families: each row has that which a function of v chooses for it."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.errors import ProgramError
from pplvae.guides.base import Family


class ByRow(nn.Module):
    """q(h; λ_φ(v)) from one family for some rows and from another for the rest.

    Both are evaluated for all rows, and must have one support. Each row's λ is that of its own family only; if one of
    them names a part of it with `pplvae.local` (a flow does), that is all of λ, and rows of the other are not moved.

    Args:
        first: family of the rows for which `uses_second` is false.
        second: family of the others.
        uses_second: from what an encoder is shown of v, of shape (row, column), to a boolean tensor of shape (row,).

    >>> from pplvae.guides import FactorisedGaussian, FullCovarianceGaussian
    >>> few_latents, many = FactorisedGaussian(6, 2), FullCovarianceGaussian(6, 2)
    >>> guide = ByRow(few_latents, many, lambda v: v.sum(-1) > 3)
    >>> guide(torch.ones(5, 6)).shape()
    torch.Size([5, 2])
    """

    def __init__(self, first: Family, second: Family, uses_second: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.uses_second = first, second, uses_second

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,).

        Raises:
            ProgramError: `uses_second` did not give one boolean per row.
        """
        chosen = self.uses_second(v)
        if chosen.dtype != torch.bool or chosen.shape != (len(v),):
            raise ProgramError(
                f"`uses_second` must give one boolean per row, of shape ({len(v)},), but gave {chosen.dtype} of shape "
                f"{tuple(chosen.shape)}."
            )
        return dist.MaskedMixture(chosen, self.first(v), self.second(v))  # pyright: ignore[reportArgumentType]
