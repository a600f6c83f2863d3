"""What the figures were measured on, and how fast it multiplies matrices."""

import os
import platform
import time
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from benchmarks.measure import synchronise

_PACKAGES = ("torch", "pyro-ppl", "numpy", "numpyro", "jax", "pplvae")
_SECONDS = 0.3  # per shape

Shape = tuple[int, int, int]  # (m, k, n): an m × k matrix times a k × n one


def pin(threads: int) -> None:
    """Hold this process, and those that it starts, to so many threads and processors.

    The processors are held as well because XLA takes one thread per processor whatever it is told. Called before JAX
    is imported.
    """
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-threads:])
    os.environ["OMP_NUM_THREADS"] = str(threads)
    torch.set_num_threads(threads)


def facts() -> dict[str, Any]:
    """The processor, the GPU if there is one, and the versions of what was compared."""
    found = {
        "processor": _processor(),
        "processors held": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "torch threads": torch.get_num_threads(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        found["gpu"] = torch.cuda.get_device_name()
    return found | {name: _version(name) for name in _PACKAGES}


def matrix_rate(shapes: Sequence[Shape], device: str = "cpu") -> float:
    """GFLOP/s of `torch.mm` in float32 over one product of each shape: the least time that a network can take."""
    work, seconds = 0.0, 0.0
    for m, k, n in shapes:
        a, b = torch.randn(m, k, device=device), torch.randn(k, n, device=device)
        torch.mm(a, b)
        synchronise()
        began, repeats = time.perf_counter(), 0
        while time.perf_counter() - began < _SECONDS:
            torch.mm(a, b)
            synchronise()
            repeats += 1
        work += 2 * m * k * n
        seconds += (time.perf_counter() - began) / repeats
    return work / seconds / 1e9


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        fields = dict(line.split(":", 1) for line in info.read_text().splitlines() if ":" in line)
        fields = {name.strip(): value.strip() for name, value in fields.items()}
        name = fields.get("model name", platform.processor())
        return f"{name} (family {fields.get('cpu family', '?')}, model {fields.get('model', '?')})"
    return platform.processor()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
