"""A device that no machine has: tensors that say they lie there, refuse to meet others, and hold real numbers.

Torch's fake tensors know devices too, but no numbers, and a call that waits for its rows to converge must look at
numbers. Here the numbers lie in main memory and every operation is done there, after a look at where its tensors say
they are. So whole calls run, and must give the bits that they give on the CPU.

The device is called "meta", the one beside "cpu" that every build of torch knows.
"""

from collections import Counter
from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_flatten, tree_map_only

from pplvae.errors import CaptureError

_aten = torch.ops.aten
AWAY = torch.device("meta")
_HERE = torch.device("cpu")
# As on CUDA: positions may come from main memory, and copies go anywhere.
_TAKE_POSITIONS = {
    _aten.index.Tensor,
    _aten.index_put.default,
    _aten.index_put_.default,
    _aten._index_put_impl_.default,
}
_MOVE = {_aten._to_copy.default, _aten.copy_.default}
# What makes the processor wait: it must know a number, or how long a result is.
_WAITING = {
    _aten._local_scalar_dense.default,
    _aten.equal.default,
    _aten.nonzero.default,
    _aten.masked_select.default,
    _aten._unique2.default,
    _aten.unique_dim.default,
    _aten.repeat_interleave.Tensor,
}


class MixedDevicesError(RuntimeError):
    """An operation was given tensors of both devices, or one that the device does not have."""


class Elsewhere(Tensor):
    """A tensor that says that it lies on the device.

    Args:
        held: its numbers, in main memory.
    """

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> "Elsewhere":
        made = torch.Tensor._make_wrapper_subclass(
            cls,
            held.size(),
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=AWAY,
            requires_grad=False,
        )
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _run(func, args, kwargs or {})

    __torch_function__ = torch._C._disabled_torch_function_impl


class Device(TorchDispatchMode):
    """A block in which the device is there.

    Args:
        has_float64: whether it knows that dtype; Apple's do not.

    Attributes:
        waits: how often the processor waited for it, by operation.
    """

    def __init__(self, *, has_float64: bool = True) -> None:
        super().__init__()
        self._has_float64 = has_float64
        self._blocks = ExitStack()
        self.waits: Counter[str] = Counter()

    def __enter__(self) -> "Device":
        self._blocks.enter_context(_Literals())
        self._blocks.enter_context(patch("torch.optim.optimizer._get_fused_kernels_supported_devices", _all_devices))
        self._blocks.enter_context(patch("pplvae.programs.capture._traced", _not_traced))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._blocks.close()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = _run(func, args, kwargs)
        if not self._has_float64 and any(_is_away(t) and t.dtype == torch.float64 for t in tree_flatten(out)[0]):
            raise MixedDevicesError(f"{func} makes float64 on a device that has none")
        if _waits(func, args, kwargs):
            self.waits[func.overloadpacket.__name__] += 1
        return out


class _Literals(TorchFunctionMode):
    """Lists of numbers: torch puts none of them on the device "meta", and takes none of a subclass of its own."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return func(*args, **kwargs).to(device)
        if func is Tensor.new_tensor:
            return torch.tensor(args[1], **({"dtype": args[0].dtype} | kwargs)).to(args[0].device)
        if func is Tensor.tolist and _is_away(args[0]):
            return args[0].to(_HERE).tolist()
        return func(*args, **kwargs)


def away(*tensors: Tensor) -> Any:
    """Tensors on the device."""
    moved = tuple(Elsewhere(tensor.detach().clone()) for tensor in tensors)
    return moved[0] if len(moved) == 1 else moved


def _all_devices() -> list[str]:
    """Of which torch has a fused optimiser."""
    return [_HERE.type, AWAY.type]


def _not_traced(*_: Any) -> Any:
    """A graph: torch's tracer takes such tensors for constants. Without one, programs are run as they are."""
    raise CaptureError("no graphs on this device")


def _run(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    device = _device_of(func, args, kwargs)
    inner_kwargs = {name: _HERE if name == "device" and value is not None else value for name, value in kwargs.items()}
    if func is _aten._efficientzerotensor.default:  # which has no memory that could be held
        func = _aten.zeros.default
    out = func(*_held(args), **_held(inner_kwargs))
    if device != AWAY:
        return out
    out = tree_map_only(Tensor, lambda t: t if _is_away(t) else Elsewhere(t), out)
    some_away = any(map(_is_away, tree_flatten((args, kwargs))[0]))
    return return_and_correct_aliasing(func, args, kwargs, out) if some_away else out


def _device_of(func: Any, args: Any, kwargs: dict[str, Any]) -> torch.device:
    """Where the result lies."""
    if func is _aten.copy_.default:
        return args[0].device
    if kwargs.get("device") is not None:
        return torch.device(kwargs["device"])
    if func in _TAKE_POSITIONS:
        positions = [t for t in args[1] if t is not None]
        if not _is_away(args[0]) and any(map(_is_away, positions)):
            raise MixedDevicesError(f"{func}: positions on the device, of a tensor in main memory")
        args = [args[0], *args[2:]]
    tensors = [t for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor)]
    if not any(map(_is_away, tensors)):
        return _HERE
    # A number in main memory is passed on as a number; where it is written into, it is none.
    strangers = [
        t for t in tensors if not _is_away(t) and (t.ndim > 0 or (t is tensors[0] and func._schema.is_mutable))
    ]
    if strangers:
        raise MixedDevicesError(f"{func}: {[(tuple(t.shape), t.device.type) for t in tensors]}")
    return AWAY


def _waits(func: Any, args: Any, kwargs: dict[str, Any]) -> bool:
    if func is _aten._to_copy.default:
        return _is_away(args[0]) and kwargs.get("device") is not None and torch.device(kwargs["device"]) != AWAY
    if func is _aten.copy_.default:
        return _is_away(args[1]) and not _is_away(args[0])
    if func in _TAKE_POSITIONS:
        return any(t is not None and _is_away(t) and t.dtype == torch.bool for t in args[1])
    return func in _WAITING and any(map(_is_away, tree_flatten((args, kwargs))[0]))


def _is_away(value: Any) -> bool:
    return isinstance(value, Tensor) and value.device == AWAY


def _held(tree: Any) -> Any:
    return tree_map_only(Elsewhere, lambda tensor: tensor.held, tree)
