"""The variational autoencoder, composed of a prior, a decoder, a likelihood and a guide."""

from collections.abc import Callable, Sequence

import pyro
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import Bernoulli, Gaussian, Likelihood
from pplvae.models.checks import check_columns, unique_name
from pplvae.nets import MLP
from pplvae.priors import Prior, StandardNormal


class VAE(nn.Module):
    """p(v, h; θ) = p(h) p(v | h), with q(h; λ_φ(v)): two plain Pyro programs, `model` and `guide`.

    Args:
        visible: columns of v.
        prior: p(h).
        decoder: from h to the heads of the likelihood, a tuple of tensors.
        likelihood: from heads to p(v | h).
        family: from v to q(h | v), the encoder included.

    >>> import torch
    >>> vae = VAE(
    ...     visible=64,
    ...     prior=StandardNormal(2),
    ...     decoder=MLP(2, [32], [64]),
    ...     likelihood=Bernoulli(),
    ...     family=FactorisedGaussian(64, 2),
    ... )
    >>> vae.generate(3).shape
    torch.Size([3, 64])
    """

    def __init__(
        self,
        visible: int,
        prior: Prior,
        decoder: Callable[[Tensor], tuple[Tensor, ...]],
        likelihood: Likelihood,
        family: Callable[[Tensor], Distribution],
    ) -> None:
        super().__init__()
        self.visible = visible
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.family = family
        self._name = unique_name(self)

    def model(self, v: Tensor) -> None:
        """p(v, h; θ), rows on plate "data", latent site "h", observed site "v"."""
        check_columns(v, self.visible)
        pyro.module(self._name, self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", self.prior(v))  # pyright: ignore[reportArgumentType]
            pyro.sample("v", self.likelihood(*self.decoder(h)), obs=v)  # pyright: ignore[reportArgumentType]

    def guide(self, v: Tensor) -> None:
        """q(h; λ_φ(v)), rows on plate "data", latent site "h"."""
        check_columns(v, self.visible)
        pyro.module(self._name, self)
        with pyro.plate("data", len(v)):
            pyro.sample("h", self.family(v))  # pyright: ignore[reportArgumentType]

    def generate(self, count: int) -> Float[Tensor, "row column"]:
        """Draw rows from p(v): h from the prior, v from the likelihood."""
        like = next(self.parameters())
        h = self.prior(like).sample(like.new_empty(count).shape)
        return self.likelihood(*self.decoder(h)).sample()


class BernoulliVAE(VAE):
    """A VAE for binary rows: standard normal prior, factorised Gaussian guide.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
    """

    def __init__(self, visible: int, latent: int, hidden: Sequence[int] = (128,)) -> None:
        decoder = MLP(latent, list(hidden)[::-1], [visible])
        family = FactorisedGaussian(visible, latent, hidden)
        super().__init__(visible, StandardNormal(latent), decoder, Bernoulli(), family)


class GaussianVAE(VAE):
    """A VAE for real rows whose decoder gives the mean and the bounded standard deviation of every column.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        smallest: least standard deviation of a column, in its units.
        largest: greatest.
    """

    def __init__(
        self,
        visible: int,
        latent: int,
        hidden: Sequence[int] = (128,),
        smallest: float = 0.03,
        largest: float = 3.0,
    ) -> None:
        decoder = MLP(latent, list(hidden)[::-1], [visible, visible])
        family = FactorisedGaussian(visible, latent, hidden)
        super().__init__(visible, StandardNormal(latent), decoder, Gaussian(smallest, largest), family)
