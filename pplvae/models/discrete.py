"""A VAE whose latents are categorical variables."""

import itertools
from collections.abc import Sequence

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.likelihoods import Likelihood
from pplvae.models.checks import check_columns, unique_name
from pplvae.models.parts import Decoder
from pplvae.nets import MLP
from pplvae.priors import Categorical
from pplvae.programs.discrete import MOST_STATES


class DiscreteVAE(nn.Module):
    r"""p(h) p(v | h) with `latent` categorical variables of `classes` classes each; h is one-hot, (latent, classes).

    Prior and guide are factorised, :math:`q(h; λ) = \prod_k \text{Cat}(h_k; λ_k(v))`; the prior's logits are learnt.
    There are classes ** latent joint states. Up to 512 of them, `objective="TraceEnum_ELBO"` sums over all, without
    noise; with more, `objective="ScoreFunction"` draws them. Objectives that reparametrise (`TraceMeanField_ELBO`,
    which is the default of `fit`) are refused by Pyro.

    Args:
        visible: columns of v.
        latent: number of categorical variables.
        classes: of each of them.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        likelihood: p(v | h), one of `likelihoods.LIKELIHOODS` or an object.

    Raises:
        ValueError: no latents, or fewer than two classes.

    References:
        Neural variational inference and learning in belief networks (Mnih and Gregor, 2014), arXiv 1402.0030.

    >>> DiscreteVAE(64, latent=3, classes=4).generate(5).shape
    torch.Size([5, 64])
    """

    def __init__(
        self,
        visible: int,
        latent: int,
        classes: int = 10,
        hidden: Sequence[int] = (128,),
        *,
        likelihood: str | Likelihood = "bernoulli",
    ) -> None:
        super().__init__()
        if latent < 1 or classes < 2:
            raise ValueError(f"Expected at least one latent and two classes, got {latent} and {classes}.")
        self.visible, self.latent, self.classes = visible, latent, classes
        self.prior = Categorical(latent, classes)
        self.decoder = Decoder(latent * classes, hidden, visible, likelihood)
        self.encoder = MLP(self.decoder.features, hidden, [latent * classes])

    def model(self, v: Tensor, total: Tensor | None = None) -> None:
        """p(v, h; θ), rows on plate "data", latent site "h", observed site "v"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", self.prior(v))  # pyright: ignore[reportArgumentType]
            pyro.sample("v", self.given(h, self.decoder.total(v, total)), obs=v)  # pyright: ignore[reportArgumentType]

    def guide(self, v: Tensor, total: Tensor | None = None) -> None:
        """q(h; λ_φ(v)), rows on plate "data", latent site "h"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        (logits,) = self.encoder(self.decoder.likelihood.features(v))
        family = _OneHots(dist.OneHotCategorical(logits=logits.unflatten(-1, (self.latent, self.classes))), 1)
        # "expand", because a decoder's rows are those of v. With too many states even TraceEnum_ELBO draws them.
        infer = {"enumerate": "parallel", "expand": True} if self.classes**self.latent <= MOST_STATES else {}
        with pyro.plate("data", len(v)):
            pyro.sample("h", family, infer=infer)  # pyright: ignore[reportArgumentType]

    def given(self, h: Float[Tensor, "*state row latent classes"], total: Tensor | None = None) -> Distribution:
        """p(v | h) with batch shape `(*state, row)`; counts, of rows with these totals."""
        batch = h.shape[:-2]
        if total is not None:
            total = total.expand(*batch, 1).reshape(-1, 1)
        fn = self.decoder(h.reshape(-1, self.latent * self.classes), total)
        return fn if len(batch) == 1 else _Unflattened(fn, batch)

    def generate(self, count: int, total: Tensor | None = None) -> Float[Tensor, "row column"]:
        """Draw rows from p(v); counts for totals of shape (count, 1)."""
        like = next(self.parameters())
        h = self.prior(like).sample(like.new_empty(count).shape)
        return self.given(h, total).sample()


class _OneHots(dist.Independent):
    """Independent one-hot variables that list their joint states: Pyro's `Independent` does not form the product."""

    @property
    def has_enumerate_support(self) -> bool:
        return True

    def enumerate_support(self, expand: bool = True) -> Float[Tensor, "state *batch latent classes"]:
        latent, classes = self.event_shape
        index = torch.tensor([*itertools.product(range(classes), repeat=latent)])
        states = torch.eye(classes)[index].to(self.base_dist.logits)
        states = states.reshape(-1, *[1] * len(self.batch_shape), latent, classes)
        return states.expand(-1, *self.batch_shape, latent, classes) if expand else states


class _Unflattened(dist.TorchDistribution):
    """A distribution over a flat batch, with its batch axes given back: decoders and likelihoods know only one."""

    def __init__(self, flat: Distribution, batch_shape: torch.Size) -> None:
        self._flat = flat
        super().__init__(batch_shape, flat.event_shape, validate_args=False)

    def log_prob(self, value: Tensor) -> Tensor:
        value = value.expand(self.batch_shape + self.event_shape)
        return self._flat.log_prob(value.reshape(-1, *self.event_shape)).reshape(self.batch_shape)
