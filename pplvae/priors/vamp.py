"""The VampPrior: what the guide says of a few learned rows."""

from collections.abc import Callable

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.errors import ProgramError, ShapeError
from pplvae.priors.mixture import MixtureByRow

_SMALL = 0.1


class VampPrior(nn.Module):
    r"""h ~ (1/K) Σ_k q(h | u_k): a mixture of the guide's distributions at learned pseudo-inputs u_k.

    The prior with the highest ELBO is the mean of q(h | v) over the rows; this is such a mean, over a few rows that are
    learned. The encoder's weights are thereby weights of the model as well, so that nothing is left to train with the
    model held fixed: `fit(train="guide")` and `attribute` refuse.

    Args:
        family: the guide's family, q(h; λ_φ(v)).
        inputs: columns that its encoder sees.
        components: how many pseudo-inputs.
        start: rows, as the encoder sees them: the first `components` of them are where the pseudo-inputs begin; small
            random numbers by default.

    Raises:
        ValueError: no component.
        ShapeError: too few rows in `start`, or other columns.
        ProgramError: a family that is called with more than what an encoder sees.

    References:
        VAE with a VampPrior (Tomczak and Welling, 2018), arXiv 1705.07120.
    """

    def __init__(
        self,
        family: Callable[[Tensor], Distribution],
        inputs: int,
        components: int = 50,
        *,
        start: Float[Tensor, "row column"] | None = None,
    ) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"A mixture has at least one component, got {components}.")
        if getattr(family, "sees_rows", False):
            raise ProgramError(
                f"A VampPrior cannot be made of {type(family).__name__}, which is itself made of the prior. Use a "
                "family that an encoder alone decides."
            )
        if start is None:
            start = _SMALL * torch.randn(components, inputs)
        if len(start) < components or start.shape[1] != inputs:
            raise ShapeError(
                f"`start` must have {inputs} columns, as the encoder sees, and a row for each of the {components} "
                f"components, but has shape {tuple(start.shape)}. Pass more rows, or fewer `components`."
            )
        self.family = family
        self.pseudo_inputs = nn.Parameter(start[:components].detach().clone())

    def forward(self, like: Tensor) -> Distribution:
        """A mixture of the family's distributions with equal weights.

        Raises:
            ProgramError: the family does not give one distribution per row.
        """
        components, count = self.family(self.pseudo_inputs), len(self.pseudo_inputs)
        if components.batch_shape != (count,) or isinstance(components, dist.MaskedMixture):
            raise ProgramError(
                f"The family of a VampPrior must give one distribution per row, but {type(self.family).__name__} gave "
                f"batch shape {tuple(components.batch_shape)} for {count} pseudo-inputs."
            )
        return MixtureByRow(dist.Categorical(logits=self.pseudo_inputs.new_zeros(count)), components)
