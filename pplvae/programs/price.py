"""What a capture costs, which is a matter of how many operations it has, and how it is stopped."""

import sys
import time
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from pplvae.errors import CaptureError

_SECONDS_AN_OPERATION, _SECONDS_OF_IMPORTS = 5e-4, 1.0


class Counting(TorchDispatchMode):
    """Count the operations of a block: how many nodes a graph of it would begin with.

    Attributes:
        operations: so far.
    """

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # torch would import its compiler, which takes seconds, to keep it out of `__torch_dispatch__`

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation as it is."""
        self.operations += 1
        return func(*args, **(kwargs or {}))


class Until(Counting):
    """Let operations run for some seconds.

    Args:
        seconds: after which the next operation raises.

    Raises:
        CaptureError: the time is over.
    """

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._end = time.perf_counter() + seconds

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation as it is, unless the time is over."""
        if time.perf_counter() > self._end:
            raise CaptureError(f"to capture it would have taken too long, after {self.operations} operations")
        return super().__torch_dispatch__(func, types, args, kwargs)


def price(operations: int) -> float:
    """About how many seconds a capture of so many operations takes."""
    new = "torch.fx.experimental.proxy_tensor" not in sys.modules
    return _SECONDS_OF_IMPORTS * new + _SECONDS_AN_OPERATION * operations
