"""A VAE with several layers of latents, one above the other."""

import itertools
from collections.abc import Sequence

import pyro
from jaxtyping import Float
from torch import Tensor, cat, nn

from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import Likelihood
from pplvae.models.checks import check_columns, unique_name
from pplvae.models.parts import Decoder
from pplvae.priors import StandardNormal


class HierarchicalVAE(nn.Module):
    r"""p(h_L) p(h_{L-1} | h_L) ... p(h_1 | h_2) p(v | h_1), every conditional a factorised Gaussian made by a network.

    The guide goes down like the model, q(h_L | v) q(h_{L-1} | h_L, v) ... q(h_1 | h_2, v), or with `top_down=False` up,
    q(h_1 | v) q(h_2 | h_1) ... q(h_L | h_{L-1}). Both can have the dependencies of the posterior: given h_1, the layers
    above do not depend on v. A guide that goes up is to be fitted with `objective="Trace_ELBO"`: the KL term of
    `TraceMeanField_ELBO`, the default of `fit`, holds only for latents in the order of the model, and Pyro warns.

    Args:
        visible: columns of v.
        latent: dimensions of h_1, h_2, ..., from the data upwards; one number stands for [latent, latent // 2].
        hidden: widths of the hidden layers of every network of the guide; those of the model have them in reverse.
        likelihood: p(v | h_1), one of `likelihoods.LIKELIHOODS` or an object.
        top_down: whether the guide goes down, from h_L to h_1.

    Raises:
        ValueError: fewer than two layers, or an empty one.

    References:
        Stochastic backpropagation and approximate inference in deep generative models (Rezende, Mohamed and Wierstra,
        2014), arXiv 1401.4082; Ladder variational autoencoders (Sønderby et al., 2016), arXiv 1602.02282, for guides
        in the order of the model.

    >>> HierarchicalVAE(64, [8, 4, 2]).generate(3).shape
    torch.Size([3, 64])
    """

    def __init__(
        self,
        visible: int,
        latent: int | Sequence[int],
        hidden: Sequence[int] = (128,),
        *,
        likelihood: str | Likelihood = "bernoulli",
        top_down: bool = True,
    ) -> None:
        super().__init__()
        self.visible, self.top_down = visible, top_down
        self.latents = [latent, max(1, latent // 2)] if isinstance(latent, int) else list(latent)
        if len(self.latents) < 2 or min(self.latents) < 1:
            raise ValueError(f"Expected at least two layers of at least one latent each, got {self.latents}.")
        self.decoder = Decoder(self.latents[0], hidden, visible, likelihood)
        self.prior = StandardNormal(self.latents[-1])
        self.conditionals = nn.ModuleList(
            FactorisedGaussian(above, below, list(hidden)[::-1]) for below, above in itertools.pairwise(self.latents)
        )
        self.encoders = nn.ModuleList(
            FactorisedGaussian(inputs, latent, hidden)
            for inputs, latent in zip(self._guide_inputs(), self.latents, strict=True)
        )

    def _guide_inputs(self) -> list[int]:
        """Columns that the guide's networks see, from the data upwards."""
        seen = self.decoder.features
        if self.top_down:
            return [above + seen for above in self.latents[1:]] + [seen]
        return [seen, *self.latents[:-1]]

    def model(self, v: Tensor, total: Tensor | None = None) -> None:
        """p(v, h_1, ..., h_L; θ), rows on plate "data", latent sites "h_1" to "h_L", observed site "v"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = pyro.sample(f"h_{len(self.latents)}", self.prior(v))  # pyright: ignore[reportArgumentType]
            for layer in range(len(self.latents) - 1, 0, -1):
                h = pyro.sample(f"h_{layer}", self.conditionals[layer - 1](h))
            pyro.sample("v", self.decoder(h, self.decoder.total(v, total)), obs=v)

    def guide(self, v: Tensor, total: Tensor | None = None) -> None:
        """q(h_1, ..., h_L; λ_φ(v)), rows on plate "data"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        seen = self.decoder.likelihood.features(v)
        with pyro.plate("data", len(v)):
            if self.top_down:
                self._downwards(seen)
            else:
                self._upwards(seen)

    def _upwards(self, seen: Tensor) -> None:
        below = seen
        for layer, encoder in enumerate(self.encoders, start=1):
            below = pyro.sample(f"h_{layer}", encoder(below))

    def _downwards(self, seen: Tensor) -> None:
        h = pyro.sample(f"h_{len(self.latents)}", self.encoders[-1](seen))
        for layer in range(len(self.latents) - 1, 0, -1):
            h = pyro.sample(f"h_{layer}", self.encoders[layer - 1](cat([h, seen], -1)))

    def generate(self, count: int, total: Tensor | None = None) -> Float[Tensor, "row column"]:
        """Draw rows from p(v), layer by layer from the top; counts for totals of shape (count, 1)."""
        like = next(self.parameters())
        h = self.prior(like).sample(like.new_empty(count).shape)
        for conditional in reversed(self.conditionals):
            h = conditional(h).sample()
        return self.decoder(h, total).sample()
