"""Overdispersed counts, some of which are 0 for a reason of their own."""

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Total
from pplvae.likelihoods.counts import Counts
from pplvae.likelihoods.negative_binomial import NegativeBinomial


class ZeroInflatedNegativeBinomial(Counts):
    """Counts that are 0 with probability sigmoid(second head), and negative binomial otherwise.

    The mean of the negative binomial part is total * softmax(first head); that of v is lower by the added zeros.

    Args:
        visible: columns of v.
        smallest: least inverse dispersion of a column.
        largest: greatest.

    Raises:
        ValueError: not 0 < smallest < largest.

    References:
        Deep generative modeling for single-cell transcriptomics (Lopez et al., 2018).
    """

    def __init__(self, visible: int, smallest: float = 1e-4, largest: float = 1e4) -> None:
        super().__init__()
        self.counts = NegativeBinomial(visible, smallest, largest)

    def heads(self, visible: int) -> list[int]:
        """Per column the logit of its share in the row's total, and the logit of an added zero."""
        return [*self.counts.heads(visible), visible]

    def forward(self, logits: Head, zero_logits: Head, total: Total) -> Distribution:
        """Independent zero-inflated columns."""
        columns = self.counts.columns(logits, total)
        return LogitZeroInflated(columns, gate_logits=zero_logits).to_event(1)


class LogitZeroInflated(dist.ZeroInflatedDistribution):
    """A zero-inflated distribution that never takes its density from the gate itself.

    Pyro's own does so once it has been drawn from, when it has the gate at hand: log(1 - gate) is then infinite where
    the gate rounds to 1.
    """

    @property
    def gate(self) -> Float[Tensor, "..."]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Probability of an added zero."""
        return torch.sigmoid(self.gate_logits)  # pyright: ignore[reportArgumentType]
