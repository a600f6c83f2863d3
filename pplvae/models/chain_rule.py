"""The chain rule with one masked network: p(v) = prod_k p(v_k | v_1, ..., v_k-1), eq. 46 of the lecture; no latents."""

from collections.abc import Sequence

import pyro
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.likelihoods import Likelihood
from pplvae.models.checks import check_columns, unique_name
from pplvae.models.observed import columnwise, layers, no_latents, per_column
from pplvae.nets import MaskedMLP


class ChainRule(nn.Module):
    r"""A fully observed directed model: :math:`p(v) = \prod_k p(v_k \mid v_1, \dots, v_{k-1})`, exactly.

    One masked network gives the heads of all conditionals; columns are taken in the order in which they stand.

    Args:
        visible: columns of v, at least 2.
        hidden: widths of the hidden layers, each at least `visible`; by default one of 128 units, or of `visible`.
        likelihood: of a column given those before it, one of `likelihoods.LIKELIHOODS` or an object; its columns must
            be independent given its heads.

    Raises:
        UnknownNameError: an unknown likelihood.
        ProgramError: a likelihood whose columns depend on each other.
        ValueError: fewer than 2 columns, or layers that are too narrow.

    References:
        MADE: masked autoencoder for distribution estimation (Germain et al., 2015), arXiv 1502.03509.

    >>> model = ChainRule(6)
    >>> model.log_likelihood(model.generate(3)).shape
    torch.Size([3])
    """

    def __init__(
        self, visible: int, hidden: Sequence[int] | None = None, *, likelihood: str | Likelihood = "bernoulli"
    ) -> None:
        super().__init__()
        self.visible = visible
        self.likelihood = columnwise(likelihood, visible)
        self.net = MaskedMLP(visible, layers(visible, hidden), per_column(self.likelihood, visible))

    def model(self, v: Tensor) -> None:
        """p(v; θ), rows on plate "data", observed site "v"."""
        check_columns(v, self.visible)
        pyro.module(unique_name(self), self)
        with pyro.plate("data", len(v)):
            pyro.sample("v", self.conditionals(v), obs=v)  # pyright: ignore[reportArgumentType]

    def guide(self, v: Tensor) -> None:
        """Nothing: the model has no latents."""
        no_latents(v)

    def conditionals(self, v: Float[Tensor, "row column"]) -> Distribution:
        """p(v_k | v_1, ..., v_k-1) for all k, given a row: column k of the parameters depends on those before it.

        It is p(v) only where it is evaluated at the same v; its draws are no draws of rows.
        """
        return self.likelihood(*self.net(v))

    def log_likelihood(self, v: Float[Tensor, "row column"]) -> Float[Tensor, " row"]:
        """Log p(v), exactly, in nats per row."""
        return self.conditionals(v).log_prob(v)

    @torch.no_grad()
    def generate(self, count: int) -> Float[Tensor, "row column"]:
        """Draw rows from p(v), one column after the other (ancestral sampling)."""
        v = next(self.parameters()).new_zeros(count, self.visible)
        for k in range(self.visible):
            v[:, k] = self.conditionals(v).sample()[:, k]
        return v
