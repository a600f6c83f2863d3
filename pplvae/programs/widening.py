"""The widest floats of a device: sums of log-probabilities keep the most digits that there are."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

_WITHOUT_FLOAT64 = ("mps",)  # Apple's graphics processors, by torch's name of the device


def widest(device: torch.device) -> torch.dtype:
    """Float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def widened(tensor: Tensor) -> Tensor:
    """The same numbers in the widest floats of their device."""
    return tensor.to(widest(tensor.device))


def in_dtype(value: Any, dtype: torch.dtype) -> Any:
    """Floats of another width; all else as it is."""
    return value.to(dtype) if isinstance(value, Tensor) and value.is_floating_point() else value


@contextmanager
def wide_operations(modules: Iterable[nn.Module] = ()) -> Iterator[None]:
    """Run every operation in float64.

    Args:
        modules: whose weights are held in float64: recurrent networks ask for the dtype of theirs before they compute.
    """
    weights = [t for m in modules for t in (*m.parameters(), *m.buffers()) if t.dtype == torch.float32]
    before = [(weight, weight.data) for weight in {id(weight): weight for weight in weights}.values()]
    try:
        for weight, data in before:
            weight.data = data.double()
        with _Wide():
            yield
    finally:
        for weight, data in before:
            weight.data = data


class _Wide(TorchDispatchMode):
    """Run every operation on float32 in float64, whoever holds the tensors: networks, closures or the param store."""

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler otherwise, which takes seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation on wider numbers; what writes into memory is left as it is."""
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            return func(*args, **kwargs)
        return func(*_wide(args), **{name: _wide(value) for name, value in kwargs.items()})


def _wide(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.double() if value.dtype == torch.float32 else value
    if value is torch.float32:
        return torch.float64
    if isinstance(value, list | tuple):
        return type(value)(_wide(one) for one in value)
    return value
