"""What the likelihoods of counts share: means that follow each row's total, and densities that keep their digits.

Log densities of large counts are small differences of large terms: at a count of 10^6, lgamma alone is 10^7, and the
usual formulas are wrong by up to a nat in float32. Here they are rearranged as a deviance, which vanishes where the
mean is the count, and Stirling's error, which is at most 1 / (12 count).

References:
    Fast and accurate computation of binomial probabilities (Loader, 2000), for the rearrangement.
"""

import math

import torch
from jaxtyping import Float, Real
from torch import Tensor, nn

from pplvae.likelihoods.base import Head, Total, Visible

LOG_2_PI = math.log(2 * math.pi)


class Counts(nn.Module):
    """A likelihood of counts with mean total * softmax(head), the total of each row given."""

    takes_total = True

    def heads(self, visible: int) -> list[int]:
        """One logit per column, of its share in the row's total."""
        return [visible]

    def features(self, v: Visible) -> Visible:
        """log(1 + v), as counts span orders of magnitude."""
        return v.clamp(min=0).log1p()  # a negative count is refused in words later, not met as NaN here


def log_means(logits: Head, total: Total) -> Head:
    """Log of total * softmax(logits), in the dtype of the logits."""
    return log_total(total.to(logits.dtype)) + logits.log_softmax(-1)


def log_total(total: Real[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Log of a total, -inf for one of 0: its counts are 0 with probability 1, and any other count has probability 0."""
    return total.clamp(min=0).log()  # a negative total comes of negative counts, which are refused in words later


def poisson_log_prob(count: Real[Tensor, "..."], log_rate: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Log probability of a Poisson count, in nats."""
    positive = count.clamp(min=1)
    ratio = log_rate - positive.log()
    deviance = positive * (torch.expm1(ratio) - ratio)
    log_prob = -deviance - 0.5 * (LOG_2_PI + positive.log()) - stirling_error(positive)
    return torch.where(count > 0, log_prob, -log_rate.exp())


def stirling_error(x: Real[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Log Γ(x + 1) less Stirling's x log x - x + log(2πx) / 2, for x > 0."""
    small, large = x.clamp(max=_SERIES_FROM), x.clamp(min=_SERIES_FROM)
    exact = torch.lgamma(small + 1) - (small + 0.5) * small.log() + small - 0.5 * LOG_2_PI
    square = large**2
    series = (1 / 12 - (1 / 360 - (1 / 1260 - 1 / 1680 / square) / square) / square) / large
    return torch.where(x < _SERIES_FROM, exact, series)


_SERIES_FROM = 16.0  # four terms are then exact in float64
