"""Counts whose variance is their mean."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Real
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Total
from pplvae.likelihoods.counts import Counts, log_means, poisson_log_prob


class Poisson(Counts):
    """Counts with mean and variance total * softmax(head).

    A row of total 0 is certain to be empty, and has log probability 0.
    """

    def forward(self, logits: Head, total: Total) -> Distribution:
        """Independent Poisson columns."""
        return LogRatePoisson(log_means(logits, total)).to_event(1)


class LogRatePoisson(TorchDistribution):
    """The Poisson distribution in its log rate, which may be too small for the rate to be more than 0.

    torch's own has a gradient of 0 / 0 at a rate of 0, and in float32 is wrong by 0.8 nats at a count of 10^6.

    Args:
        log_rate: any shape, which is the batch shape.
        validate_args: whether to check arguments, as for any distribution.
    """

    def __init__(self, log_rate: Float[Tensor, "*batch"], validate_args: bool | None = None) -> None:
        self.log_rate = log_rate
        super().__init__(log_rate.shape, validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What the parameters may be."""
        return {"log_rate": constraints.real}

    @property
    def support(self) -> constraints.Constraint:
        """Counts 0, 1, 2, ...."""
        return constraints.nonnegative_integer

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Distribution:
        """The same distribution with a larger batch shape."""
        return type(self)(self.log_rate.expand(torch.Size(batch_shape)), validate_args=self._validate_args)

    def log_prob(self, value: Real[Tensor, "..."]) -> Float[Tensor, "..."]:
        """Log probability, in nats."""
        if self._validate_args:
            self._validate_sample(value)
        return poisson_log_prob(value, self.log_rate)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Counts, in the dtype of the log rate."""
        with torch.no_grad():
            return torch.poisson(self.mean.expand(self._extended_shape(torch.Size(sample_shape))))

    @property
    def mean(self) -> Float[Tensor, "*batch"]:
        """The rate."""
        return self.log_rate.exp()
