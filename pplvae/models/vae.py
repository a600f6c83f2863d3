"""The variational autoencoder, composed of a prior, a decoder, a likelihood and a guide."""

from collections.abc import Callable, Sequence

import pyro
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.errors import ProgramError
from pplvae.guides import FactorisedGaussian, Family
from pplvae.likelihoods import Bernoulli, Gaussian, Likelihood
from pplvae.models.checks import check_columns, unique_name
from pplvae.models.parts import given, totals
from pplvae.nets import MLP
from pplvae.priors import Prior, StandardNormal


class VAE(nn.Module):
    """p(v, h; θ) = p(h) p(v | h), with q(h; λ_φ(v)): two plain Pyro programs, `model` and `guide`.

    Args:
        visible: columns of v.
        prior: p(h).
        decoder: from h to the heads of the likelihood, a tuple of tensors.
        likelihood: from heads to p(v | h).
        family: from what an encoder is shown of v (`likelihood.features`) to q(h | v).

    A likelihood of counts also takes each row's total (library size, length of a document): a second tensor of rows, of
    shape (row, 1), or else the sum of v. Totals are given, not modelled.

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
        family: Family,
    ) -> None:
        super().__init__()
        self.visible = visible
        self.prior = prior
        self.decoder = decoder
        self.likelihood = likelihood
        self.family = family

    def model(self, v: Tensor, total: Tensor | None = None) -> None:
        """p(v, h; θ), rows on plate "data", latent site "h", observed site "v"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", self.prior(v))  # pyright: ignore[reportArgumentType]
            pyro.sample("v", self.given(h, totals(self.likelihood, v, total)), obs=v)  # pyright: ignore[reportArgumentType]

    def guide(self, v: Tensor, total: Tensor | None = None) -> None:
        """q(h; λ_φ(v)), rows on plate "data", latent site "h"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            pyro.sample("h", self.family(*self._shown(v, total)))  # pyright: ignore[reportArgumentType]

    def _shown(self, v: Tensor, total: Tensor | None) -> tuple[Tensor | None, ...]:
        """What a family is called with: one that refines λ by the ELBO (`sees_rows`) needs the rows themselves."""
        features = self.likelihood.features(v)
        if not getattr(self.family, "sees_rows", False):
            return (features,)
        if not self.family.refines(self.prior, self.decoder, self.likelihood):  # type: ignore[attr-defined]
            raise ProgramError(
                f"{type(self.family).__name__} was made with another prior, decoder or likelihood than those of the "
                "model, and would climb another ELBO. Make it with the model's own."
            )
        return features, v, totals(self.likelihood, v, total)

    def given(self, h: Tensor, total: Tensor | None = None) -> Distribution:
        """p(v | h), of rows with these totals where the likelihood is one of counts.

        Raises:
            ProgramError: a likelihood of counts without totals.
        """
        return given(self.likelihood, self.decoder(h), total)

    def generate(self, count: int, total: Tensor | None = None) -> Float[Tensor, "row column"]:
        """Draw rows from p(v): h from the prior, v from the likelihood; counts for totals of shape (count, 1)."""
        like = next(self.parameters())
        h = self.prior(like).sample(like.new_empty(count).shape)
        return self.given(h, total).sample()


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
