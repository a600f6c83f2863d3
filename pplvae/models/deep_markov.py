"""The deep Markov model: latents h_1, h_2, ... with a gated transition, a guide that reads what is to come."""

import pyro
import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.likelihoods import Likelihood
from pplvae.models.checks import unique_name
from pplvae.models.observed import likelihood_of
from pplvae.models.sequences import steps_inside
from pplvae.nets import MLP, BackwardRNN

State = Float[Tensor, "row latent"]
Steps = Float[Tensor, "row time column"]
_LEAST_SCALE = 1e-3  # without it, the density of a transition that is certain grows without limit


class GatedTransition(nn.Module):
    r"""p(h_t | h_t-1): a gate mixes a linear and a nonlinear mean, column by column.

    .. math::
        \mu = (1 - g(h)) \odot (W h + b) + g(h) \odot \tilde\mu(h), \qquad
        \sigma = \text{softplus}(A \max(\tilde\mu(h), 0) + a)

    W starts as the identity, so that an untrained chain remembers.

    Args:
        latent: dimension of h_t.
        hidden: units of the hidden layers.

    References:
        Structured inference networks for nonlinear state space models (Krishnan et al., 2017), arXiv 1609.09869.
    """

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.gate = MLP(latent, [hidden], [latent])
        self.proposal = MLP(latent, [hidden], [latent])
        self.linear = nn.Linear(latent, latent)
        nn.init.eye_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.scale = nn.Linear(latent, latent)

    def forward(self, h: State) -> Distribution:
        """p(h_t | h_t-1) with batch shape (row,) and event shape (latent,)."""
        (logits,), (proposed,) = self.gate(h), self.proposal(h)
        gate = torch.sigmoid(logits)
        mean = (1 - gate) * self.linear(h) + gate * proposed
        return _normal(mean, self.scale(torch.relu(proposed)))


class Combiner(nn.Module):
    """q(h_t | h_t-1, v_t, v_t+1, ...): the mean of what h_t-1 and what the rest of the sequence say.

    Args:
        latent: dimension of h_t.
        hidden: size of the recurrent network's state.

    References:
        As for `GatedTransition`, the structured guide "DKS".
    """

    def __init__(self, latent: int, hidden: int) -> None:
        super().__init__()
        self.past = nn.Linear(latent, hidden)
        self.mean = nn.Linear(hidden, latent)
        self.scale = nn.Linear(hidden, latent)

    def forward(self, h: State, future: Float[Tensor, "row hidden"]) -> Distribution:
        """The guide of one step, with batch shape (row,) and event shape (latent,)."""
        both = 0.5 * (torch.tanh(self.past(h)) + future)
        return _normal(self.mean(both), self.scale(both))


class DeepMarkov(nn.Module):
    r"""Sequences with latents: :math:`p(v, h) = \prod_t p(h_t \mid h_{t-1}) p(v_t \mid h_t)`.

    The guide has the posterior's own structure, :math:`q(h \mid v) = \prod_t q(h_t \mid h_{t-1}, v_t, v_{t+1}, \dots)`,
    with a recurrent network that reads each sequence from its end. Rows are padded sequences and their lengths,
    `(v, lengths)`: shapes (row, time, column) and (row,). Padding is masked at every site; all rows that meet in a fit
    or a comparison are padded to one length.

    On Bach's chorales, at the size of the paper (hours on two cores)::

        data = pplvae.load_data("jsb_chorales")
        pair = DeepMarkov(88, 100, hidden=200)
        kl_weight = pplvae.objectives.warm_up(100)
        pplvae.fit(pair.model, pair.guide, data, epochs=2000, batch_size=20, lr=8e-4, clip=500, kl_weight=kl_weight)

    Args:
        visible: columns of a step.
        latent: dimension of h_t.
        hidden: units of every hidden layer, and of the recurrent state.
        likelihood: of a step given its latent, one of `likelihoods.LIKELIHOODS` or an object.

    Raises:
        UnknownNameError: an unknown likelihood.
        ProgramError: a likelihood of counts that needs totals.

    References:
        Structured inference networks for nonlinear state space models (Krishnan et al., 2017), arXiv 1609.09869.

    >>> DeepMarkov(4, 2).generate(3, steps=5).shape
    torch.Size([3, 5, 4])
    """

    def __init__(
        self, visible: int, latent: int, hidden: int = 128, *, likelihood: str | Likelihood = "bernoulli"
    ) -> None:
        super().__init__()
        self.visible = visible
        self.likelihood = likelihood_of(likelihood, visible)
        seen = self.likelihood.features(torch.zeros(1, visible)).shape[1]
        self.start = nn.Parameter(torch.zeros(latent))
        self.transition = GatedTransition(latent, hidden)
        self.emitter = MLP(latent, [hidden, hidden], self.likelihood.heads(visible))
        self.guide_start = nn.Parameter(torch.zeros(latent))
        self.future = BackwardRNN(seen, hidden)
        self.combiner = Combiner(latent, hidden)

    def model(self, v: Tensor, lengths: Tensor | None = None) -> None:
        """p(v, h; θ), rows on plate "data", latent sites "h_1", "h_2", ..., observed sites "v_1", "v_2", ..."""
        inside = steps_inside(v, lengths, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            h = self.start.expand(len(v), -1)
            for t in range(v.shape[1]):
                h = pyro.sample(f"h_{t + 1}", self.transition(h).mask(inside[:, t]))
                pyro.sample(f"v_{t + 1}", self.given(h).mask(inside[:, t]), obs=v[:, t])  # pyright: ignore

    def guide(self, v: Tensor, lengths: Tensor | None = None) -> None:
        """q(h; λ_φ(v)), rows on plate "data", latent sites "h_1", "h_2", ..."""
        inside = steps_inside(v, lengths, self.visible)
        pyro.module(unique_name(self), self)
        future = self.future(self._features(v), inside)
        with pyro.plate("data", len(v)):
            h = self.guide_start.expand(len(v), -1)
            for t in range(v.shape[1]):
                h = pyro.sample(f"h_{t + 1}", self.combiner(h, future[:, t]).mask(inside[:, t]))

    def given(self, h: State) -> Distribution:
        """p(v_t | h_t)."""
        return self.likelihood(*self.emitter(h))

    def _features(self, v: Steps) -> Steps:
        return self.likelihood.features(v.flatten(0, 1)).unflatten(0, v.shape[:2])

    @torch.no_grad()
    def generate(self, count: int, steps: int) -> Float[Tensor, "row time column"]:
        """Draw sequences of so many steps from p(v)."""
        h, found = self.start.expand(count, -1), []
        for _ in range(steps):
            h = self.transition(h).sample()
            found.append(self.given(h).sample())
        return torch.stack(found, 1)


def _normal(mean: State, free: State) -> Distribution:
    return dist.Normal(mean, nn.functional.softplus(free) + _LEAST_SCALE).to_event(1)
