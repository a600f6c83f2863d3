"""Section: how time and memory grow with rows, latents and draws.

Every point runs in a process of its own (`scaling_point`), so that no earlier point has left memory behind.
"""

import json
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

from benchmarks.measure import Quartiles, Settings
from benchmarks.record import Line

_LONGEST = 1200  # seconds for one point; larger ones of the same curve are then left out


@dataclass(frozen=True)
class _Curve:
    """What is varied.

    Attributes:
        title: for the table.
        sizes: of a full run.
        quick: of a quick one.
    """

    title: str
    sizes: tuple[int, ...]
    quick: tuple[int, ...]


_CURVES = {
    "rows": _Curve("own guides of so many rows", (100, 1000, 10_000, 100_000), (100, 300)),
    "latent": _Curve("own guides with so many latents, 200 rows", (2, 8, 32, 128), (2, 16)),
    "particles": _Curve("training step, importance weighted with so many draws", (1, 4, 16, 64, 256), (1, 16)),
}


def measure(settings: Settings) -> list[list[Line]]:
    """A table per curve: milliseconds per row, and MiB of memory beyond what stood before the call."""
    return [_curve(name, curve, settings) for name, curve in _CURVES.items()]


def _curve(name: str, curve: _Curve, settings: Settings) -> list[Line]:
    lines = []
    for size in curve.quick if settings.quick else curve.sizes:
        try:
            found = _point(name, size, settings)
        except subprocess.TimeoutExpired:
            lines.append(
                Line("scaling", curve.title, str(size), unit="ms per row", note=f"over {_LONGEST} s: given up")
            )
            break
        milliseconds = 1000 * found["seconds"] / found["rows"]
        lines.append(Line("scaling", curve.title, str(size), _single(milliseconds), "ms per row"))
        if found["bytes"] is not None:
            lines.append(Line("scaling", curve.title, f"{size}, peak memory", _single(found["bytes"] / 2**20), "MiB"))
    return lines


def _point(name: str, size: int, settings: Settings) -> dict[str, Any]:
    arguments = [name, str(size), "--cache", str(settings.cache), "--threads", str(settings.threads)]
    command = [sys.executable, "-m", "benchmarks.scaling_point", *arguments, "--device", settings.device]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LONGEST)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def _single(value: float) -> Quartiles:
    return Quartiles(value, value, value)
