"""Tensors that hold chosen elements of the rows, such as `v[:, [0, 3]]`: what is drawn for them can be written back."""

from collections.abc import Callable, Sequence
from numbers import Number
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

Write = Callable[[Tensor, Tensor], object]  # of values, and of which of them count

# What leaves numbers as they are, if they are such as can be drawn.
_SAME = {Tensor.long, Tensor.int, Tensor.float, Tensor.double, Tensor.bool, Tensor.to, Tensor.type, Tensor.type_as}
_SAME |= {Tensor.clone, Tensor.contiguous, Tensor.clamp, Tensor.clamp_min, torch.clamp, torch.clone}
_PLUS = {Tensor.add, Tensor.__add__, torch.add}
_MINUS = {Tensor.sub, Tensor.__sub__, torch.sub}


class Selections(TorchFunctionMode):
    """Note, of what a program computes, which tensors are chosen elements of its rows, cast or shifted perhaps.

    Args:
        tensors: the rows.
    """

    def __init__(self, tensors: Sequence[Tensor]) -> None:
        super().__init__()
        self._rows = {tensor.untyped_storage().data_ptr() for tensor in tensors}
        self._known: dict[int, tuple[Tensor, Write]] = {}  # tensors are held, so that no other takes their id

    def writer(self, value: Tensor) -> Write | None:
        """What puts numbers into the rows that a tensor was chosen from; None if it was not."""
        return self._known[id(value)][1] if id(value) in self._known else None

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function, and note what it gives."""
        result = func(*args, **(kwargs or {}))
        if isinstance(result, Tensor) and args and isinstance(args[0], Tensor):
            write = self._write(func, args)
            if write is not None and not self._is_view(result):
                self._known[id(result)] = (result, write)
        return result

    def _write(self, func: Any, args: Any) -> Write | None:
        source, rest = args[0], args[1:]
        if func is torch.where and len(rest) == 2 and isinstance(rest[0], Tensor):
            chosen = self.writer(rest[0])  # what the condition leaves out stays what it was
            return None if chosen is None else lambda value, counts: chosen(value, counts & source)
        if func is Tensor.__getitem__ and self._is_view(source):
            return lambda value, counts: source.__setitem__(*rest, _mixed(source[rest[0]], value, counts))
        if func in (torch.index_select, Tensor.index_select) and self._is_view(source) and len(rest) == 2:
            return lambda value, counts: source.index_copy_(*rest, _mixed(source.index_select(*rest), value, counts))
        before = self.writer(source)
        if before is None or func in _SAME:
            return before
        if func in _PLUS and len(rest) == 1 and isinstance(rest[0], Number):
            return lambda value, counts: before(value - rest[0], counts)
        if func in _MINUS and len(rest) == 1 and isinstance(rest[0], Number):
            return lambda value, counts: before(value + rest[0], counts)
        return None

    def _is_view(self, tensor: Tensor) -> bool:
        return tensor.untyped_storage().data_ptr() in self._rows


def _mixed(before: Tensor, value: Tensor, counts: Tensor) -> Tensor:
    return torch.where(counts, value.to(before.dtype), before)
