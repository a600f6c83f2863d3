"""Binary columns."""

import pyro.distributions as dist
from torch import nn
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Visible


class Bernoulli(nn.Module):
    """Binary columns; the head is the logit of the probability of a 1."""

    takes_total = False

    def heads(self, visible: int) -> list[int]:
        """One logit per column."""
        return [visible]

    def features(self, v: Visible) -> Visible:
        """The row as it is."""
        return v

    def forward(self, logits: Head) -> Distribution:
        """Independent Bernoulli columns."""
        return dist.Bernoulli(logits=logits).to_event(1)
