"""The contexts of a guide's flows: lambda, though no distribution has them as parameters."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.poutine.runtime import effectful
from torch import Tensor, nn


@contextmanager
def contexts_named() -> Iterator[None]:
    """Name what zuko's flows are given, "context", "context_2" and so on in the order of their calls.

    A flow that has been called is a chain of functions which its context has gone into: it is seen only as the flow is
    called. What a guide names itself, by `pplvae.local`, comes before that.
    """
    lazy = getattr(sys.modules.get("zuko"), "lazy", None)
    if lazy is None:
        yield
        return
    named: list[Tensor] = []

    def name(module: nn.Module, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not isinstance(module, lazy.LazyDistribution) or not arguments or not isinstance(arguments[0], Tensor):
            return None
        context = arguments[0]
        # The parts of a flow are given what the whole was.
        if not context.is_floating_point() or any(context is other for other in named):
            return None
        value = _context(context, name=f"context_{len(named) + 1}" if named else "context")
        named.append(value)
        return value, *arguments[1:]

    hook = nn.modules.module.register_module_forward_pre_hook(name)  # pyright: ignore[reportArgumentType]
    try:
        yield
    finally:
        hook.remove()


@effectful(type="context")
def _context(tensor: Tensor) -> Tensor:
    return tensor
