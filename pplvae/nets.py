"""Encoders and decoders: plain torch, no Pyro."""

import itertools
from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron with one linear head per output.

    Args:
        inputs: number of input columns.
        hidden: widths of the hidden layers; none gives linear maps.
        outputs: columns of each head.
        activation: between layers.

    >>> import torch
    >>> loc, log_scale = MLP(64, [128], [8, 8])(torch.zeros(5, 64))
    >>> loc.shape, log_scale.shape
    (torch.Size([5, 8]), torch.Size([5, 8]))
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: Sequence[int],
        activation: type[nn.Module] = nn.ReLU,
    ) -> None:
        super().__init__()
        widths = [inputs, *hidden]
        layers = [[nn.Linear(a, b), activation()] for a, b in itertools.pairwise(widths)]
        self.body = nn.Sequential(*(module for layer in layers for module in layer))
        self.heads = nn.ModuleList(nn.Linear(widths[-1], columns) for columns in outputs)

    def forward(self, x: Float[Tensor, "batch input"]) -> tuple[Float[Tensor, "batch _"], ...]:
        """One tensor per head."""
        features = self.body(x)
        return tuple(head(features) for head in self.heads)
