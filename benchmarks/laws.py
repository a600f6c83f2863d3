"""p(v | h), twice: as the distribution that a Pyro user writes, and by hand, for the plain torch competitors.

Both take the decoder, latents h of any leading axes, and rows v of axes (row, column).
"""

import math
from dataclasses import dataclass
from typing import Any, Protocol

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.nn import functional


class Law(Protocol):
    """What a law of v offers."""

    def distribution(self, decoder: nn.Module, h: Tensor, v: Tensor) -> Any:
        """Pyro's distribution of v; `v` serves for what is given, such as totals."""
        ...

    def log_prob(self, decoder: nn.Module, h: Tensor, v: Tensor) -> Tensor:
        """Log-probability log p(v | h) of every draw and row, in nats, written by hand."""
        ...


@dataclass(frozen=True)
class Gaussian:
    """Means from the decoder.

    Attributes:
        scale: fixed standard deviation of every column, in the units of v.
    """

    scale: float

    def distribution(self, decoder: nn.Module, h: Tensor, v: Tensor) -> Any:
        """See `Law`."""
        return dist.Normal(decoder(h), self.scale).to_event(1)

    def log_prob(self, decoder: nn.Module, h: Tensor, v: Tensor) -> Tensor:
        """See `Law`."""
        constant = v.shape[-1] * (math.log(self.scale) + 0.5 * math.log(2 * math.pi))
        return -0.5 * ((v - decoder(h)) / self.scale).square().sum(-1) - constant


@dataclass(frozen=True)
class Bernoulli:
    """Logits from the decoder."""

    def distribution(self, decoder: nn.Module, h: Tensor, v: Tensor) -> Any:
        """See `Law`."""
        return dist.Bernoulli(logits=decoder(h)).to_event(1)

    def log_prob(self, decoder: nn.Module, h: Tensor, v: Tensor) -> Tensor:
        """See `Law`."""
        logits = decoder(h)
        return -functional.binary_cross_entropy_with_logits(logits, v.expand_as(logits), reduction="none").sum(-1)


@dataclass(frozen=True)
class NegativeBinomial:
    """The decoder shares the row's total out among the columns (its answer is log shares) and has a dispersion each."""

    def distribution(self, decoder: nn.Module, h: Tensor, v: Tensor) -> Any:
        """See `Law`."""
        logits = decoder(h) + v.sum(-1, keepdim=True).log() - decoder.log_dispersion
        return dist.NegativeBinomial(decoder.log_dispersion.exp(), logits=logits).to_event(1)

    def log_prob(self, decoder: nn.Module, h: Tensor, v: Tensor) -> Tensor:
        """See `Law`."""
        logits = decoder(h) + v.sum(-1, keepdim=True).log() - decoder.log_dispersion
        r = decoder.log_dispersion.exp()
        counts = torch.lgamma(v + r) - torch.lgamma(r) - torch.lgamma(v + 1)  # without the axis of draws: computed once
        return (counts + v * logits - (v + r) * functional.softplus(logits)).sum(-1)
