"""Networks in floats of few digits, and all else in those of the rows."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from pplvae.isolate import calls_through, root_modules


@contextmanager
def networks_in(narrow: torch.dtype | None, *programs: Callable[..., Any]) -> Iterator[None]:
    """Run the modules that programs call in narrower floats, under torch's autocast; what they return is wide again.

    So are the programs themselves: densities, and sums of them, are not what a few digits are enough for.
    """
    if narrow is None:
        yield
        return
    roots, inside = root_modules(*programs), list[nn.Module]()

    def call(plain: Callable[..., Any], module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        if inside or any(module is root for root in roots):
            return plain(module, *args, **kwargs)
        device = next((each.device.type for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)), "cpu")
        inside.append(module)
        try:
            with torch.autocast(device, narrow, cache_enabled=False):
                found = plain(module, *args, **kwargs)
        finally:
            inside.pop()
        wide = torch.get_default_dtype()
        return tree_map(lambda x: x.to(wide) if isinstance(x, Tensor) and x.dtype == narrow else x, found)

    with calls_through(nn.Module, call):
        yield
