"""Parts of a model: by name or as objects, and the decoder that most models end in."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.errors import ProgramError, UnknownNameError
from pplvae.likelihoods import LIKELIHOODS, Likelihood
from pplvae.nets import MLP


def part_of(what: str, registry: Mapping[str, Callable[..., Any]], part: Any, known: Mapping[str, Any]) -> Any:
    """A part itself, or the one of that name, made with what its constructor takes of what is known.

    Args:
        what: kind of part, for messages.
        registry: constructors by name.
        part: a name, or the part.
        known: sizes and parts that are there already, by the name that a constructor has for them.

    Raises:
        UnknownNameError: a name that the registry lacks.
        ValueError: a part that is made of another one, which is not there yet.
    """
    if not isinstance(part, str):
        return part
    make = _maker(what, registry, part)
    asked = inspect.signature(make).parameters
    missing = {"prior", "family"} & asked.keys() - known.keys()
    if missing:
        raise ValueError(f"The {what} {part!r} is made of the model's {missing.pop()}, which is made after it.")
    return make(**{name: value for name, value in known.items() if name in asked})


def takes(what: str, registry: Mapping[str, Callable[..., Any]], part: Any, name: str) -> bool:
    """Whether a part is still to be made, and its constructor takes an argument of this name."""
    return isinstance(part, str) and name in inspect.signature(_maker(what, registry, part)).parameters


class Decoder(nn.Module):
    """p(v | h): a multilayer perceptron and the likelihood that its heads feed.

    Attributes:
        likelihood: the object.
        features: how many columns an encoder is shown of v.

    Args:
        inputs: columns that the network sees: h, and what v depends on besides.
        hidden: widths of the *encoder's* hidden layers; here they stand in reverse.
        visible: columns of v.
        likelihood: one of `likelihoods.LIKELIHOODS` or an object.

    Raises:
        UnknownNameError: no such likelihood.
    """

    def __init__(self, inputs: int, hidden: Sequence[int], visible: int, likelihood: str | Likelihood) -> None:
        super().__init__()
        self.likelihood: Likelihood = part_of("likelihood", LIKELIHOODS, likelihood, {"visible": visible})
        self.network = MLP(inputs, list(hidden)[::-1], self.likelihood.heads(visible))
        self.features = self.likelihood.features(torch.zeros(1, visible)).shape[1]

    def forward(self, h: Tensor, total: Tensor | None = None) -> Distribution:
        """p(v | h) with batch shape (row,) and event shape (column,).

        Args:
            h: axes (row, input).
            total: count of each row, of shape (row, 1), for a likelihood of counts.

        Raises:
            ProgramError: a likelihood of counts without totals.
        """
        return given(self.likelihood, self.network(h), total)

    def total(self, v: Tensor, total: Tensor | None) -> Tensor | None:
        """See `totals`."""
        return totals(self.likelihood, v, total)


def given(likelihood: Likelihood, heads: Sequence[Tensor], total: Tensor | None) -> Distribution:
    """p(v | h) from a decoder's heads, of rows with these totals where the likelihood is one of counts.

    Raises:
        ProgramError: a likelihood of counts without totals.
    """
    if not likelihood.takes_total:
        return likelihood(*heads)
    if total is None:
        raise ProgramError(
            f"{type(likelihood).__name__} needs the total count of each row: pass `total`, of shape (row, 1)."
        )
    return likelihood(*heads, total)


def totals(likelihood: Likelihood, v: Tensor, total: Tensor | None) -> Tensor | None:
    """The totals of rows: those that are given, or else the sum of v where the likelihood asks for it.

    Raises:
        ProgramError: a tensor that is no total of each row, or totals for a likelihood that takes none.
    """
    if total is None:
        return v.sum(-1, keepdim=True) if likelihood.takes_total else None
    if not likelihood.takes_total or total.shape != (len(v), 1):
        raise ProgramError(
            f"The last tensor of the rows has shape {tuple(total.shape)}. {type(likelihood).__name__} takes "
            + ("totals of shape (row, 1)." if likelihood.takes_total else "no totals.")
            + " Rows with missing values, `(v, observed)`, are for `IncompleteVAE`."
        )
    return total


def _maker(what: str, registry: Mapping[str, Callable[..., Any]], name: str) -> Callable[..., Any]:
    if name not in registry:
        raise UnknownNameError(what, name, registry)
    return registry[name]
