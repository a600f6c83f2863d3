"""What every shipped model checks at its door, and how it names itself to Pyro."""

import itertools
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from pplvae.errors import ShapeError

_count = itertools.count()
_numbers: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()


def check_columns(v: Tensor, visible: int) -> None:
    """Raise ShapeError unless v is a matrix with `visible` columns."""
    if v.ndim != 2:
        raise ShapeError(
            f"The rows must have shape (row, {visible}), got {tuple(v.shape)}. Flatten images first: `v.flatten(1)`."
        )
    if v.shape[1] != visible:
        raise ShapeError(
            f"The rows must have {visible} columns, as the model was built for, but have {v.shape[1]}. "
            f"Build the model with `visible={v.shape[1]}`, or select the columns."
        )


def unique_name(module: nn.Module) -> str:
    """A name for `pyro.module` that no other instance has, a copy neither.

    Two models under one name share a param store entry, and the second one silently does not train.
    """
    if module not in _numbers:
        _numbers[module] = next(_count)
    return f"{type(module).__name__}_{_numbers[module]}"
