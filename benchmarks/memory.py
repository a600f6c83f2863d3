"""The peak of memory that a piece of work reaches, beyond what was held before it."""

from collections.abc import Callable
from pathlib import Path

import torch

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # what Linux takes for it, see proc(5)


def peak_during(block: Callable[[], object], device: str) -> int | None:
    """Bytes at the peak less those before: of the GPU's allocator, or resident memory of this process.

    Not by `resource.getrusage`: on Linux its peak outlives `exec`, so that a process that a large one has started
    begins with the large one's peak, and whatever it does itself looks like nothing.

    Returns:
        None where the system does not say.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        block()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    if not _CLEAR.exists():
        block()
        return None
    _CLEAR.write_text(_RESET_PEAK)
    before = _bytes_of("VmRSS")
    block()
    return _bytes_of("VmHWM") - before


def _bytes_of(field: str) -> int:
    line = next(line for line in _STATUS.read_text().splitlines() if line.startswith(f"{field}:"))
    return 1024 * int(line.split()[1])
