"""Columns that take one of several classes."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Visible


class Categorical(nn.Module):
    """Columns that each take one of K classes without an order, coded 0, 1, ..., K - 1.

    Args:
        classes: K, the same for all columns; a class that a column never takes costs it nothing but a parameter.

    Raises:
        ValueError: fewer than two classes.
    """

    takes_total = False

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"Expected two classes or more, got {classes}.")
        self.classes = classes

    def heads(self, visible: int) -> list[int]:
        """K logits per column, those of the first column first."""
        return [visible * self.classes]

    def features(self, v: Visible) -> Float[Tensor, "batch feature"]:
        """The classes of each column as indicators: K columns for one."""
        # `one_hot` would fail, on a GPU for good, at a code out of range, before the support is checked.
        codes = torch.arange(self.classes, dtype=v.dtype, device=v.device)
        return (v.unsqueeze(-1) == codes).to(v.dtype).flatten(1)

    def forward(self, logits: Head) -> Distribution:
        """Independent categorical columns."""
        return CodedCategorical(logits=logits.unflatten(-1, (-1, self.classes))).to_event(1)


class CodedCategorical(dist.Categorical):
    """A categorical distribution whose draws have the dtype of the logits, as rows have."""

    def sample(self, sample_shape: Sequence[int] = ()) -> Float[Tensor, "..."]:
        """Codes 0, 1, ..., K - 1."""
        return super().sample(torch.Size(sample_shape)).to(self.logits.dtype)
