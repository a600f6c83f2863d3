"""Flows of zuko as Pyro distributions."""

from collections.abc import Sequence
from typing import Any

import torch
from pyro.contrib.zuko import ZukoToPyro
from torch import Tensor
from torch.distributions import constraints


class ZukoFlow(ZukoToPyro):
    """Pyro's bridge to a flow of zuko, which also answers `sample`, `rsample` and `support`."""

    arg_constraints = {}  # noqa: RUF012
    support = constraints.real_vector

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with gradients; their log-density is kept, so that scoring them costs nothing."""
        return self(torch.Size(sample_shape))

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Any:
        """The same flow for a larger batch."""
        return type(self)(self.dist.expand(torch.Size(batch_shape)))
