"""A VAE of rows with missing entries."""

from collections.abc import Sequence

import pyro
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import Distribution

from pplvae.errors import ProgramError, ShapeError
from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import Likelihood
from pplvae.models.checks import check_columns, unique_name
from pplvae.models.parts import Decoder
from pplvae.priors import StandardNormal
from pplvae.programs.batch import tile

Seen = Bool[Tensor, "row column"]


class IncompleteVAE(nn.Module):
    """p(v_observed, h; θ), with q(h; λ_φ(v_observed, which are observed)). A row is (v, observed).

    Missing entries are left out of the likelihood, which integrates them out: its columns are independent given h. That
    is right where whether an entry is missing does not depend on its value. The encoder sees the values, 0 where
    missing, and which they are; what stands in a missing entry has no effect. Without `observed`, no entry is missing.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers; the decoder has them in reverse.
        likelihood: p(v | h), one of `likelihoods.LIKELIHOODS` or an object.

    Raises:
        ProgramError: a likelihood whose columns are not independent given h, or one that needs each row's total.

    References:
        Handling incomplete heterogeneous data using VAEs (Nazábal et al., 2020), arXiv 1807.03653; MIWAE (Mattei and
        Frellsen, 2019), arXiv 1812.02633, for imputation with importance weights.

    >>> vae = IncompleteVAE(3, 1)
    >>> v, observed = torch.tensor([[1.0, 2.0, 0.0]]), torch.tensor([[1.0, 1.0, 0.0]])
    >>> vae.impute(v, observed, imputations=10)[:, 0, :2].unique(dim=0)
    tensor([[1., 2.]])
    """

    def __init__(
        self, visible: int, latent: int, hidden: Sequence[int] = (128,), *, likelihood: str | Likelihood = "gaussian"
    ) -> None:
        super().__init__()
        self.visible = visible
        self.prior = StandardNormal(latent)
        self.decoder = Decoder(latent, hidden, visible, likelihood)
        if self.decoder.likelihood.takes_total:
            raise ProgramError(
                f"{type(self.decoder.likelihood).__name__} needs the total of each row, which is not known where "
                "entries are missing. Use one without totals: `gaussian`, `bernoulli`, `categorical`, ..."
            )
        masked(self.decoder(torch.zeros(1, latent)), torch.ones(1, visible, dtype=torch.bool))
        self.family = FactorisedGaussian(self.decoder.features + visible, latent, hidden)

    def model(self, v: Tensor, observed: Tensor | None = None) -> None:
        """p(v_observed, h; θ), rows on plate "data", latent site "h", observed site "v"."""
        seen = self._checked(v, observed)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", self.prior(v))  # pyright: ignore[reportArgumentType]
            fn = masked(self.decoder(h), seen)
            pyro.sample("v", fn, obs=_possible(v, seen, fn))  # pyright: ignore[reportArgumentType]

    def guide(self, v: Tensor, observed: Tensor | None = None) -> None:
        """q(h; λ_φ(v_observed)), rows on plate "data", latent site "h"."""
        seen = self._checked(v, observed)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            pyro.sample("h", self._posterior(v, seen))  # pyright: ignore[reportArgumentType]

    def generate(self, count: int) -> Float[Tensor, "row column"]:
        """Draw complete rows from p(v)."""
        like = next(self.parameters())
        return self.decoder(self.prior(like).sample(like.new_empty(count).shape)).sample()

    @torch.no_grad()
    def impute(
        self, v: Tensor, observed: Tensor, imputations: int = 100, *, particles: int | None = None
    ) -> Float[Tensor, "imputation row column"]:
        """Draw missing entries given the observed ones, which stay as they are.

        Args:
            v: the rows; what stands in missing entries has no effect.
            observed: 1 where an entry is observed, 0 where it is missing; of the same shape.
            imputations: of each row.
            particles: Monte Carlo draws per row, of the guide, among which the h of an imputation is chosen by
                importance weight, so that imputations follow p(v_missing | v_observed) as `particles` grows, whatever
                the guide (sampling importance resampling; Mattei and Frellsen, 2019). By default h is the guide's own
                draw.
        """
        seen = self._checked(v, observed)
        h, log_weights = self._weighted(v, seen, imputations if particles is None else particles)
        if particles is not None:
            chosen = td.Categorical(logits=log_weights.T).sample(torch.Size([imputations]))
            h = h.gather(0, chosen.unsqueeze(-1).expand(-1, -1, h.shape[-1]))
        drawn = self.decoder(h.flatten(0, 1)).sample().unflatten(0, (imputations, len(v)))
        return torch.where(seen, v, drawn)

    @torch.no_grad()
    def imputed_mean(
        self, v: Tensor, observed: Tensor, particles: int = 100, *, weighted: bool = False
    ) -> Float[Tensor, "row column"]:
        """Mean of missing entries given the observed ones, which stay as they are.

        Args:
            v: the rows; what stands in missing entries has no effect.
            observed: 1 where an entry is observed, 0 where it is missing; of the same shape.
            particles: Monte Carlo draws per row, of the guide.
            weighted: weight them by self-normalised importance weights (Mattei and Frellsen, 2019), which corrects the
                guide's error as `particles` grows.

        Raises:
            ProgramError: the likelihood has no mean (categories).
        """
        seen = self._checked(v, observed)
        h, log_weights = self._weighted(v, seen, particles)
        weights = (log_weights if weighted else torch.zeros_like(log_weights)).softmax(0)
        mean = self.decoder(h.flatten(0, 1)).mean.unflatten(0, (particles, len(v)))
        if not mean.isfinite().all():
            raise ProgramError(
                f"{type(self.decoder.likelihood).__name__} has no finite mean. Use draws: `impute(v, observed)`."
            )
        return torch.where(seen, v, (weights.unsqueeze(-1) * mean).sum(0))

    def _weighted(
        self, v: Tensor, seen: Seen, particles: int
    ) -> tuple[Float[Tensor, "particle row latent"], Float[Tensor, "particle row"]]:
        """Draws of the guide, and log p(v_observed, h) - log q(h | v_observed) in nats."""
        q = self._posterior(v, seen)
        h = q.sample(torch.Size([particles]))
        seen_often = tile(seen, particles)
        fn = masked(self.decoder(h.flatten(0, 1)), seen_often)
        log_likelihood = fn.log_prob(_possible(tile(v, particles), seen_often, fn)).unflatten(0, (particles, len(v)))
        return h, self.prior(v).log_prob(h) + log_likelihood - q.log_prob(h)

    def _posterior(self, v: Tensor, seen: Seen) -> Distribution:
        features = self.decoder.likelihood.features(torch.where(seen, v, 0.0))
        return self.family(torch.cat([features, seen.to(v.dtype)], -1))

    def _checked(self, v: Tensor, observed: Tensor | None) -> Seen:
        check_columns(v, self.visible)
        if observed is None:
            return torch.ones_like(v, dtype=torch.bool)
        if observed.shape != v.shape:
            raise ShapeError(
                f"`observed` must say of each entry of v, of shape {tuple(v.shape)}, whether it is there (1) or "
                f"missing (0), but has shape {tuple(observed.shape)}."
            )
        return observed.bool()


def masked(fn: Distribution, observed: Seen) -> Distribution:
    """A distribution of rows with its missing entries integrated out: they count 0 nats.

    Args:
        fn: batch shape (row,), event shape (column,).
        observed: whether each entry is observed.

    Raises:
        ProgramError: the columns are not independent, so that leaving one out is not to integrate it out.

    >>> import pyro.distributions as dist
    >>> fn = dist.Normal(torch.zeros(2, 3), 1.0).to_event(1)
    >>> masked(fn, torch.tensor([[True, False, False], [False, False, False]])).log_prob(torch.zeros(2, 3))
    tensor([-0.9189,  0.0000])
    """
    if not isinstance(fn, td.Independent) or fn.reinterpreted_batch_ndims != 1 or fn.base_dist.event_shape:
        raise ProgramError(
            f"Missing entries need a likelihood whose columns are independent given h, an `Independent` of one number "
            f"per column; {type(fn).__name__} of event shape {tuple(fn.event_shape)} says nothing of single columns."
        )
    return fn.base_dist.mask(observed).to_event(1)  # pyright: ignore[reportAttributeAccessIssue]


def _possible(v: Tensor, seen: Seen, fn: Distribution) -> Tensor:
    """The rows with a value inside the support where an entry is missing: what is masked is evaluated all the same."""
    support = fn.base_dist.support  # pyright: ignore[reportAttributeAccessIssue]
    zeros = torch.zeros_like(v)
    return torch.where(seen, v, zeros if support.is_discrete else td.biject_to(support)(zeros))
