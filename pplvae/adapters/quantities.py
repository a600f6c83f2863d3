"""A scale, or another quantity of a user's: a number, a tensor, a parameter, or what a function gives."""

import math
from typing import Any

import torch
from torch import Tensor, nn

from pplvae.errors import ProgramError


class Held(nn.Module):
    """A quantity, held so that it is trained if it is a parameter, and follows the device.

    Args:
        what: "scale" and so on, for messages.
        quantity: a number, a tensor, an `nn.Parameter` (the same one, not a copy), or a module or function that gives
            one when it is called without inputs.

    Raises:
        ProgramError: a tensor that was computed from parameters, and would never be computed again.
    """

    def __init__(self, what: str, quantity: Any) -> None:
        super().__init__()
        self.function: Any = quantity if callable(quantity) else None
        self.owner = _owner(quantity)
        value = None if callable(quantity) else _value(what, quantity)
        if isinstance(value, nn.Parameter):
            self.value = value
        else:
            self.register_buffer("value", value)

    def forward(self, like: Tensor) -> Tensor:
        """The quantity, where and as accurate as `like` unless it is a parameter."""
        if self.function is not None:
            return self.function()
        return self.value if isinstance(self.value, nn.Parameter) else self.value.to(like)  # type: ignore[union-attr]

    def single(self) -> float | None:
        """The quantity as one number that nothing trains; else None."""
        fixed = self.function is None and not isinstance(self.value, nn.Parameter)
        return float(self.value) if fixed and self.value.numel() == 1 else None  # type: ignore[arg-type, union-attr]


def positive(what: str, quantity: Any) -> Held:
    """A quantity that must be positive.

    Raises:
        ValueError: some of it is not.
    """
    held = Held(what, quantity)
    value = held.value
    if isinstance(value, Tensor) and not bool(((value > 0) & (value < math.inf)).all()):
        raise ValueError(
            f"`{what}` must be positive, got values down to {value.min().item():.4g}. Of a log {what} `s`, pass "
            f"`{what}=lambda: s.exp()`."
        )
    return held


def leaves_of(tensor: Tensor) -> list[Tensor]:
    """The parameters that a tensor was computed from."""
    found: list[Tensor] = [] if tensor.grad_fn is not None or not tensor.requires_grad else [tensor]
    waiting, seen = [tensor.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            found.append(node.variable)  # pyright: ignore[reportAttributeAccessIssue]
        waiting.extend(before for before, _ in node.next_functions)
    return found


def _owner(quantity: Any) -> nn.Module | None:
    candidates = (quantity, getattr(quantity, "__self__", None))
    return next((each for each in candidates if isinstance(each, nn.Module)), None)


def _value(what: str, quantity: Any) -> Tensor:
    if not isinstance(quantity, Tensor):
        return torch.as_tensor(quantity, dtype=torch.get_default_dtype())
    if quantity.requires_grad and not isinstance(quantity, nn.Parameter):
        raise ProgramError(
            f"`{what}` is a tensor that was computed from parameters, once: it would not follow them. Pass the "
            f"`nn.Parameter` itself, or a function that computes it, `{what}=lambda: ...`."
        )
    return quantity
