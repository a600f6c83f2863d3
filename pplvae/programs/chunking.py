"""How many rows go through a program at once: so few that its tensors stay in the cache."""

from collections.abc import Sequence

from torch import Tensor

# Seconds for 500 rows with 200 draws each, 50 at a time, through a decoder 50-200-200-784 (50-400-3072), one thread, L3
# of 32 MiB: 2.8 (19.4) at 2 MiB, 2.2 (16.3) at 4, 2.2 (14.1) at 8, 2.3 (17.1) at 16, 3.0 (18.1) at 32, 3.6 (17.8) all
# at once. A likelihood makes several tensors of that size.
_CPU_BYTES = 8 * 2**20
# A program of many observed sites makes tensors of the size of a site, and its Python costs as much for few rows as for
# many. What it keeps of all sites for a gradient is 10 to 20 times the rows: 1 to 2 GiB.
_MOST_CPU_BYTES = 96 * 2**20
# A GPU wants every row that it can get, but memory ends.
_DEVICE_BYTES = 256 * 2**20


def rows_at_once(tensors: Sequence[Tensor], copies: int, sites: int = 1) -> int:
    """How many rows may be tiled and passed to a program at once; at least one.

    It depends on the shape of a row alone, not on how many there are, and rows never meet: their answers are the same
    in any number of pieces.

    Args:
        tensors: the rows, once.
        copies: how often each stands in what the program is called with.
        sites: observed sites that share a row among them.

    Returns:
        Their number.

    >>> import torch
    >>> rows_at_once([torch.zeros(500, 784, dtype=torch.float32)], copies=50)
    53
    """
    on_cpu = tensors[0].device.type == "cpu"
    budget = min(_CPU_BYTES * max(1, sites), _MOST_CPU_BYTES) if on_cpu else _DEVICE_BYTES
    row = sum(tensor.element_size() * tensor.shape[1:].numel() for tensor in tensors)
    return max(1, budget // max(1, row * copies))
