"""A mixture whose parts are one family, as the priors that are mixtures need it."""

from collections.abc import Sequence
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor

from pplvae.programs.discrete import draw


class MixtureByRow(dist.MixtureSameFamily):  # pyright: ignore[reportAttributeAccessIssue, reportUntypedBaseClass]
    """`MixtureSameFamily` that can be annealed, and drawn from row by row.

    No bijection is registered for torch's support of a mixture, and its draws choose the component by
    `torch.multinomial`, whose noise cannot be keyed by row (see `noise.RowNoise`).
    """

    @property
    def support(self) -> Any:
        """That of the components."""
        return self.component_distribution.support

    def sample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """A draw of every component, and the choice of one."""
        shape = torch.Size(sample_shape)
        with torch.no_grad():
            chosen = draw(self.mixture_distribution.expand(shape + self.batch_shape))
            draws = self.component_distribution.sample(shape)
            index = chosen.reshape(*chosen.shape, *(1,) * (len(self.event_shape) + 1))
            index = index.expand(*chosen.shape, 1, *self.event_shape)
            return draws.gather(chosen.ndim, index).squeeze(chosen.ndim)
