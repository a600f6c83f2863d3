"""Matrices that cannot be factorised or inverted: NaN for those, and not an error for all rows that meet in a batch."""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

_T = TypeVar("_T")

# What raises, and what tells which matrices of a batch were meant.
_TELLING: dict[Any, Callable[..., Any]] = {
    torch.linalg.cholesky: torch.linalg.cholesky_ex,
    torch.linalg.inv: torch.linalg.inv_ex,
    torch.linalg.solve: torch.linalg.solve_ex,
    torch.inverse: torch.linalg.inv_ex,
    Tensor.inverse: torch.linalg.inv_ex,
}


class _Unfailing(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function; one that would raise gives NaN for the matrices that it cannot take."""
        if func not in _TELLING:
            return func(*args, **(kwargs or {}))
        found, info = _TELLING[func](*args, **(kwargs or {}))
        failed = info.ne(0).reshape(*info.shape, *[1] * (found.ndim - info.ndim))
        return found.masked_fill(failed, torch.nan)


def nan_where_it_fails(work: Callable[[], _T]) -> _T:
    """What a function gives; where linear algebra fails in it for some rows, theirs is NaN.

    Args:
        work: run once more if it raises; it must draw the same numbers again.
    """
    try:
        return work()
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        with _Unfailing():
            return work()
