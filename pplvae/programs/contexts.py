"""The contexts of a guide's flows: lambda, though no distribution has them as parameters."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyro.poutine.runtime import effectful
from torch import Tensor, nn

from pplvae.isolate import calls_through


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

    def name(plain: Any, flow: nn.Module, *arguments: Any, **others: Any) -> Any:
        context = arguments[0] if arguments else None
        # The parts of a flow are given what the whole was.
        if isinstance(context, Tensor) and context.is_floating_point() and all(context is not one for one in named):
            context = _context(context, name=f"context_{len(named) + 1}" if named else "context")
            named.append(context)
            arguments = context, *arguments[1:]
        return plain(flow, *arguments, **others)

    with calls_through(lazy.LazyDistribution, name):
        yield


@effectful(type="context")
def _context(tensor: Tensor) -> Tensor:
    return tensor
