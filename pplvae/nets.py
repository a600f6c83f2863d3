"""Encoders and decoders: plain torch modules, no Pyro programs."""

import itertools
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from pyro.nn import AutoRegressiveNN, ConditionalAutoRegressiveNN
from torch import Tensor, nn


class MLP(nn.Module):
    """A multilayer perceptron with one linear head per output.

    Args:
        inputs: number of input columns.
        hidden: widths of the hidden layers; none gives linear maps.
        outputs: columns of each head.
        activation: between layers.

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


class MaskedMLP(nn.Module):
    """A multilayer perceptron of v whose output for column k sees the columns before k only, and all of a context.

    Input and output are also connected directly, under the same order. The masks are buffers.

    Args:
        columns: of v, at least 2.
        hidden: widths of the hidden layers, at least one, each at least `columns`: every column has units of its own.
        heads: how many numbers per column each head has.
        context: columns of what every output may see; 0 for none.

    Raises:
        ValueError: fewer than 2 columns, or hidden layers that are missing or too narrow.

    References:
        MADE: masked autoencoder for distribution estimation (Germain et al., 2015), arXiv 1502.03509; with a context:
        Inference networks for sequential Monte Carlo in graphical models (Paige and Wood, 2016), arXiv 1602.06701.

    >>> (logits,) = MaskedMLP(6, [32], heads=[1], context=2)(torch.zeros(5, 6), torch.zeros(5, 2))
    >>> logits.shape
    torch.Size([5, 6])
    """

    def __init__(self, columns: int, hidden: Sequence[int], heads: Sequence[int], context: int = 0) -> None:
        super().__init__()
        if columns < 2:
            raise ValueError(f"An order of the columns takes at least 2 of them, got {columns}.")
        if not hidden or min(hidden) < columns:
            raise ValueError(
                f"`hidden` must hold at least one width, each at least the {columns} columns, got {list(hidden)}."
            )
        self.columns, self.heads, self.context = columns, list(heads), context
        options: Any = {"permutation": torch.arange(columns), "skip_connections": True}
        if context:
            self.net = ConditionalAutoRegressiveNN(columns, context, list(hidden), [sum(heads)], **options)
        else:
            self.net = AutoRegressiveNN(columns, list(hidden), [sum(heads)], **options)

    def forward(
        self, v: Float[Tensor, "batch column"], context: Float[Tensor, "batch context"] | None = None
    ) -> tuple[Float[Tensor, "batch _"], ...]:
        """One tensor per head, the numbers of the first column first; those of column k do not depend on v_k, ..."""
        found = self.net(v, context) if self.context else self.net(v)
        parts = found.reshape(len(v), -1, self.columns).split(self.heads, 1)
        return tuple(part.mT.flatten(1) for part in parts)


class BackwardRNN(nn.Module):
    """A recurrent network from the last step of each sequence to its first: state t sees steps t, t + 1, ... only.

    Padding does not reach any state. A loop of cells, because cuDNN's networks have no gradient in eval mode.

    Args:
        inputs: columns of a step.
        hidden: size of the state.

    >>> BackwardRNN(4, 8)(torch.zeros(2, 5, 4), torch.ones(2, 5, dtype=torch.bool)).shape
    torch.Size([2, 5, 8])
    """

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.cell = nn.GRUCell(inputs, hidden)

    def forward(
        self, x: Float[Tensor, "row time input"], inside: Bool[Tensor, "row time"]
    ) -> Float[Tensor, "row time hidden"]:
        """The state after reading step t, for every t; zeros in the padding."""
        state = x.new_zeros(len(x), self.cell.hidden_size)
        states = []
        for t in reversed(range(x.shape[1])):
            state = torch.where(inside[:, t : t + 1], self.cell(x[:, t], state), state)
            states.append(state)
        return torch.stack(states[::-1], 1)
