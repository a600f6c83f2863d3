"""Columns in [0, 1] with a mean and a concentration."""

import math

import pyro.distributions as dist
import torch
from torch import nn
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Visible


class Beta(nn.Module):
    r"""Columns in [0, 1] from a beta distribution that is stretched a little over both edges.

    The density of a beta distribution is 0 or infinite at 0 and 1, which are values that real pixels have. So v is
    modelled as -edge + (1 + 2 edge) u with u ~ Beta(α, β): a proper density on (-edge, 1 + edge), and it is that
    density of v which is evaluated, the factor 1 / (1 + 2 edge) included. To squeeze v towards 1/2 before a beta
    density sees it is the usual remedy in beta regression; this is that remedy, read as a density of v itself, whose
    total probability is 1. What is drawn may lie outside [0, 1] by up to `edge`.

    α + β, the concentration, is bounded: a density that may become as narrow as it likes at pixels that are reproduced
    exactly grows without limit. The mean of v is the sigmoid of the first head.

    Args:
        edge: how far the support goes beyond 0 and 1; half a grey level of a byte by default.
        smallest: least concentration; below 1 the density can be high at both ends.
        largest: greatest; at a mean of 1/2 the standard deviation is 1 / (2 sqrt(1 + concentration)).

    Raises:
        ValueError: not 0 < edge < 1/2, or not 0 < smallest < largest.

    References:
        A better lemon squeezer? Maximum-likelihood regression with beta-distributed dependent variables (Smithson and
        Verkuilen, 2006).
    """

    takes_total = False

    def __init__(self, edge: float = 1 / 512, smallest: float = 0.1, largest: float = 1000.0) -> None:
        super().__init__()
        if not 0 < edge < 0.5:
            raise ValueError(f"Expected 0 < edge < 1/2, got {edge}.")
        if not 0 < smallest < largest:
            raise ValueError(f"Expected 0 < smallest < largest, got {smallest} and {largest}.")
        self._edge = edge
        self._log_bounds = (math.log(smallest), math.log(largest))

    def heads(self, visible: int) -> list[int]:
        """The logit of the mean and a free concentration per column."""
        return [visible, visible]

    def features(self, v: Visible) -> Visible:
        """The row as it is."""
        return v

    def forward(self, logits: Head, free: Head) -> Distribution:
        """Independent columns; `free` runs over the real line, log concentration between its bounds."""
        low, high = self._log_bounds
        width = 1 + 2 * self._edge
        concentration = (low + (high - low) * torch.sigmoid(free)).exp() / width
        # Shares of both ends apart: 1 - sigmoid would round to 0. The edge keeps either away from 0.
        upper = concentration * (torch.sigmoid(logits) + self._edge)
        lower = concentration * (torch.sigmoid(-logits) + self._edge)
        # Pyro would put plain numbers into main memory, wherever the rows are.
        loc, scale = upper.new_full((), -self._edge), upper.new_full((), width)
        return dist.AffineBeta(upper, lower, loc, scale).to_event(1)
