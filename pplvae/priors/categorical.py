"""Discrete latents: several variables with a few classes each."""

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.distributions import Distribution


class Categorical(nn.Module):
    """Independent categorical latents as one-hot rows, with learned probabilities that start equal.

    The event shape is (latent, classes).

    Args:
        latent: how many variables.
        classes: how many classes each has.

    Raises:
        ValueError: fewer than two classes.
    """

    def __init__(self, latent: int, classes: int = 10) -> None:
        super().__init__()
        if classes < 2:
            raise ValueError(f"A categorical latent needs at least two classes, got {classes}.")
        self.logits = nn.Parameter(torch.zeros(latent, classes))

    def forward(self, like: Tensor) -> Distribution:
        """Independent one-hot variables."""
        return dist.OneHotCategorical(logits=self.logits).to_event(1)
