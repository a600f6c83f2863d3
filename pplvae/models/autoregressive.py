"""A VAE whose decoder has parents among the columns: p(v_k | v_1, ..., v_k-1, h), eq. 49-50 of the lecture."""

from collections.abc import Sequence

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import Likelihood
from pplvae.models.checks import check_columns, unique_name
from pplvae.models.observed import columnwise, layers, per_column
from pplvae.nets import MaskedMLP
from pplvae.priors import StandardNormal


class AutoregressiveVAE(nn.Module):
    r"""A VAE whose decoder is a masked network: :math:`p(v \mid h) = \prod_k p(v_k \mid v_1, \dots, v_{k-1}, h)`.

    Such a decoder can model the rows without h, so look whether the latents are used (`latent_use`).

    Args:
        visible: columns of v, at least 2.
        latent: dimension of h.
        hidden: widths of the hidden layers of encoder and decoder, each at least `visible`; by default one of 128
            units, or of `visible`.
        likelihood: of a column given those before it and h; see `ChainRule`.

    Raises:
        UnknownNameError: an unknown likelihood.
        ProgramError: a likelihood whose columns depend on each other.
        ValueError: fewer than 2 columns, or layers that are too narrow.

    References:
        PixelVAE (Gulrajani et al., 2017), arXiv 1611.05013; variational lossy autoencoder (Chen et al., 2017), arXiv
        1611.02731.

    >>> AutoregressiveVAE(6, 2).generate(3).shape
    torch.Size([3, 6])
    """

    def __init__(
        self,
        visible: int,
        latent: int,
        hidden: Sequence[int] | None = None,
        *,
        likelihood: str | Likelihood = "bernoulli",
    ) -> None:
        super().__init__()
        self.visible = visible
        self.likelihood = columnwise(likelihood, visible)
        widths = layers(visible, hidden)
        seen = self.likelihood.features(torch.zeros(1, visible)).shape[1]
        self.prior = StandardNormal(latent)
        self.decoder = MaskedMLP(visible, widths, per_column(self.likelihood, visible), context=latent)
        self.family = FactorisedGaussian(seen, latent, widths)

    def model(self, v: Tensor) -> None:
        """p(v, h; θ), rows on plate "data", latent site "h", observed site "v"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", self.prior(v))  # pyright: ignore[reportArgumentType]
            pyro.sample("v", self.conditionals(v, h), obs=v)  # pyright: ignore[reportArgumentType]

    def guide(self, v: Tensor) -> None:
        """q(h; λ_φ(v)), rows on plate "data", latent site "h"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            pyro.sample("h", self.family(self.likelihood.features(v)))  # pyright: ignore[reportArgumentType]

    def conditionals(self, v: Float[Tensor, "row column"], h: Float[Tensor, "row latent"]) -> Distribution:
        """p(v_k | v_1, ..., v_k-1, h) for all k: evaluated at the same v, it is p(v | h)."""
        return self.likelihood(*self.decoder(v, h))

    @torch.no_grad()
    def generate(self, count: int) -> Float[Tensor, "row column"]:
        """Draw rows from p(v): h from the prior, then one column after the other."""
        v = next(self.parameters()).new_zeros(count, self.visible)
        h = self.prior(v).sample(torch.Size([count]))
        for k in range(self.visible):
            v[:, k] = self.conditionals(v, h).sample()[:, k]
        return v
