"""How many rows are optimised together, so that what they need beside themselves fits into a stated memory."""

import re
from collections.abc import Sequence

import torch
from torch import Tensor

from pplvae.data.limits import memory_of_machine

_UNITS = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12, "kib": 2**10, "mib": 2**20, "gib": 2**30, "tib": 2**40}
LEAST, _MOST = 3 * 2**29, 2**33
# What a process takes beside the rows of a chunk: Python, torch, the captured programs, a piece of tiled rows, results.
_RESERVE = 2**30
# Draws, slopes and nodes of a row; and copies of the row itself, many more where it may be a sequence, of which a
# program keeps all steps for a gradient. From peaks of the process, at 784 to 12544 columns and at 160 steps of 88.
_PER_ROW, _COPIES, _COPIES_OF_SEQUENCES = 2**18, 32, 400


def bytes_of(memory: int | str | None, device: torch.device | None = None) -> int:
    """A number of bytes from what a user says.

    Args:
        memory: bytes, or text with a unit: "2GiB", "500 MB". None: half of what the device has, 8 GiB at most.
        device: where the rows are.

    Raises:
        ValueError: no such text, or less than 1.5 GiB.

    >>> bytes_of("2GiB")
    2147483648
    """
    if memory is None:
        return max(LEAST, min(_MOST, _of_machine(device) // 2))
    found = re.fullmatch(r"\s*([0-9.]+)\s*([a-z]*)\s*", str(memory).lower())
    try:
        size = int(float(found[1]) * (_UNITS[found[2]] if found[2] else 1)) if found else -1
    except (ValueError, KeyError):
        size = -1
    if size < LEAST:
        raise ValueError(
            f"`memory` is a number of bytes, at least 1.5 GiB, which Python and torch need for themselves: "
            f"'2GiB', '500GB'. Got {memory!r}."
        )
    return size


def rows_in(memory: int, tensors: Sequence[Tensor]) -> int:
    """How many rows may be optimised together; at least one.

    It depends on the shape of a row and on the memory that was stated, never on what is free at the moment.

    Args:
        memory: bytes that the process may take beside the rows.
        tensors: the rows.

    >>> rows_in(2 * 2**30, [torch.zeros(1, 12544, dtype=torch.float32)])
    574
    """
    row = sum(tensor.element_size() * tensor.shape[1:].numel() for tensor in tensors)
    copies = _COPIES_OF_SEQUENCES if any(tensor.ndim > 2 for tensor in tensors) else _COPIES
    return max(1, (memory - _RESERVE) // (_PER_ROW + copies * row))


def _of_machine(device: torch.device | None) -> int:
    if device is not None and device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return memory_of_machine()
