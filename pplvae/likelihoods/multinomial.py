"""Counts that share a given total: the words of a document."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from pyro.distributions import TorchDistribution, constraints
from torch import Tensor
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Total
from pplvae.likelihoods.counts import Counts, log_total, poisson_log_prob


class Multinomial(Counts):
    """Counts of a row's `total` draws with replacement, from columns with probabilities softmax(head).

    The log density includes the multinomial coefficient, log(total! / (v_1! ... v_D!)), so that it is one of counts;
    the topic-model literature often leaves it out, which is the log density of the words in their order.
    """

    def forward(self, logits: Head, total: Total) -> Distribution:
        """Multinomial rows, each of its own total."""
        return RowMultinomial(total.squeeze(-1).to(logits.dtype), logits)


class _SumsTo(constraints.Constraint):
    """Counts 0, 1, 2, ... along the last axis that sum to a total.

    Args:
        total: of each row.
    """

    is_discrete = True
    event_dim = 1

    def __init__(self, total: Float[Tensor, "*batch"]) -> None:
        self._total = total
        super().__init__()

    def check(self, value: Float[Tensor, "..."]) -> Bool[Tensor, "..."]:
        """Which rows are admitted; totals too large to be counted one by one need only agree up to rounding."""
        counts = ((value >= 0) & (value % 1 == 0)).all(-1)
        slack = (8 * torch.finfo(value.dtype).eps * self._total - 8).clamp(min=0.5)
        return counts & ((value.sum(-1) - self._total).abs() < slack)

    def __repr__(self) -> str:
        return "counts 0, 1, 2, ... that sum to the row's total"


class RowMultinomial(TorchDistribution):
    """The multinomial distribution with a total for each row; torch's own has one for all.

    Its log density is that of independent Poisson counts, given their sum.

    Args:
        total: of each row; its shape is the batch shape.
        logits: of the columns' probabilities, in the last axis; unnormalised.
        validate_args: whether to check arguments, as for any distribution.
    """

    def __init__(
        self,
        total: Float[Tensor, "*batch"],
        logits: Float[Tensor, "*batch column"],
        validate_args: bool | None = None,
    ) -> None:
        self.total = total
        self.logits = logits.log_softmax(-1)
        super().__init__(total.shape, logits.shape[-1:], validate_args=validate_args)

    @property
    def arg_constraints(self) -> dict[str, constraints.Constraint]:
        """What the parameters may be."""
        return {"total": constraints.nonnegative_integer, "logits": constraints.real_vector}

    @property
    def support(self) -> constraints.Constraint:
        """Counts that sum to the total of their row."""
        return _SumsTo(self.total)

    def expand(self, batch_shape: Sequence[int], _instance: Any = None) -> Distribution:
        """The same distribution with a larger batch shape."""
        batch_shape = torch.Size(batch_shape)
        logits = self.logits.expand(batch_shape + self.event_shape)
        return type(self)(self.total.expand(batch_shape), logits, validate_args=self._validate_args)

    def log_prob(self, value: Float[Tensor, "... column"]) -> Float[Tensor, "..."]:
        """Log probability in nats, the multinomial coefficient included."""
        if self._validate_args:
            self._validate_sample(value)
        log_sum = log_total(self.total)
        columns = poisson_log_prob(value, log_sum.unsqueeze(-1) + self.logits)
        return columns.sum(-1) - poisson_log_prob(self.total, log_sum)

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "... column"]:
        """Counts that sum to the totals: column after column, binomial in what the columns before have left."""
        shape = self._extended_shape(torch.Size(sample_shape))
        with torch.no_grad():
            of_the_rest = (self.logits - self.logits.flip(-1).logcumsumexp(-1).flip(-1)).exp().clamp(max=1)
            left = self.total.expand(shape[:-1]).clone()
            drawn = torch.empty(shape, dtype=self.logits.dtype, device=self.logits.device)
            for column in range(shape[-1]):
                drawn[..., column] = torch.binomial(left, of_the_rest[..., column].expand_as(left).contiguous())
                left -= drawn[..., column]
        return drawn

    @property
    def mean(self) -> Float[Tensor, "*batch column"]:
        """Total times probability."""
        return self.total.unsqueeze(-1) * self.logits.exp()
