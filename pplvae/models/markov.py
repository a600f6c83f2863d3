"""The Markov chain with neural conditionals, fully observed: p(v_1) prod_t p(v_t | v_t-1), eq. 47 of the lecture."""

from collections.abc import Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.likelihoods import Likelihood
from pplvae.models.checks import unique_name
from pplvae.models.observed import likelihood_of, no_latents
from pplvae.models.sequences import steps_inside
from pplvae.nets import MLP


class MarkovChain(nn.Module):
    r"""Sequences without latents: :math:`p(v) = p(v_1) \prod_{t>1} p(v_t \mid v_{t-1})`, exactly.

    Rows are padded sequences and their lengths, `(v, lengths)`: shapes (row, time, column) and (row,).

    Args:
        visible: columns of a step.
        hidden: widths of the hidden layers of the transition.
        likelihood: of a step given the one before, one of `likelihoods.LIKELIHOODS` or an object.

    Raises:
        UnknownNameError: an unknown likelihood.
        ProgramError: a likelihood of counts that needs totals.

    >>> chain = MarkovChain(4)
    >>> chain.log_likelihood(chain.generate(3, steps=5)).shape
    torch.Size([3])
    """

    def __init__(
        self, visible: int, hidden: Sequence[int] = (128,), *, likelihood: str | Likelihood = "bernoulli"
    ) -> None:
        super().__init__()
        self.visible = visible
        self.likelihood = likelihood_of(likelihood, visible)
        widths = self.likelihood.heads(visible)
        seen = self.likelihood.features(torch.zeros(1, visible)).shape[1]
        self.start = nn.ParameterList(torch.zeros(width) for width in widths)
        self.transition = MLP(seen, hidden, widths)

    def model(self, v: Tensor, lengths: Tensor | None = None) -> None:
        """p(v; θ), rows on plate "data", observed sites "v_1", "v_2", ..., masked where they are padding."""
        inside = steps_inside(v, lengths, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            for t in range(v.shape[1]):
                pyro.sample(f"v_{t + 1}", self._step(v, t).mask(inside[:, t]), obs=v[:, t])

    def guide(self, v: Tensor, lengths: Tensor | None = None) -> None:
        """Nothing: the model has no latents."""
        no_latents(v, lengths)

    def _step(self, v: Float[Tensor, "row time column"], t: int) -> Any:
        return self.following(v[:, t - 1]) if t else self.first(len(v))

    def first(self, count: int) -> Distribution:
        """p(v_1), for `count` rows."""
        return self.likelihood(*(head.expand(count, -1) for head in self.start))

    def following(self, before: Float[Tensor, "batch column"]) -> Distribution:
        """p(v_t | v_t-1), for steps `before`."""
        return self.likelihood(*self.transition(self.likelihood.features(before)))

    def log_likelihood(
        self, v: Float[Tensor, "row time column"], lengths: Tensor | None = None
    ) -> Float[Tensor, " row"]:
        """Log p(v), exactly, in nats per row; padding is left out."""
        inside = steps_inside(v, lengths, self.visible)
        steps = [self._step(v, t).log_prob(v[:, t]) for t in range(v.shape[1])]
        return torch.where(inside, torch.stack(steps, 1), 0.0).sum(1)

    @torch.no_grad()
    def generate(self, count: int, steps: int) -> Float[Tensor, "row time column"]:
        """Draw sequences of so many steps, at least one, from p(v)."""
        if steps < 1:
            raise ValueError(f"A sequence has at least one step, got {steps}.")
        found = [self.first(count).sample()]
        for _ in range(steps - 1):
            found.append(self.following(found[-1]).sample())
        return torch.stack(found, 1)
