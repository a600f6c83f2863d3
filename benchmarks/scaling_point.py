"""One point of a scaling curve, in a process of its own, as JSON: `python -m benchmarks.scaling_point rows 1000`."""

import argparse
import json
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.catalogue import ready, small
from benchmarks.machine import pin
from benchmarks.measure import Settings, timed
from benchmarks.memory import peak_during
from benchmarks.ours import importance_weighted_block, own_guides
from benchmarks.workloads import BATCH, Workload

_ROWS = 200  # where the number of rows is not what is varied
_STEPS, _SETTLING_BLOCKS = 10, 6  # steps are captured after 50


def point(curve: str, size: int, settings: Settings) -> dict[str, Any]:
    """Seconds of one call, the rows in it, and its peak memory (see `memory`).

    Args:
        curve: "rows", "latent" or "particles".
        size: how many of them.
        settings: of the run.
    """
    work = ready(partial(small, size) if curve == "latent" else small, settings)
    taken: list[float] = []
    if curve == "particles":
        work.steps, rows = _STEPS, _STEPS * BATCH

        def train() -> None:
            block = importance_weighted_block(work, size)
            for _ in range(_SETTLING_BLOCKS):
                block()
            taken.append(timed(block))

        # From the first step on: later ones use again what the first ones were given and did not hand back.
        peak = peak_during(train, settings.device)
    else:
        own_guides(_with_rows(work, 4))  # what is loaded or compiled once is not to count
        rows = size if curve == "rows" else _ROWS
        work = _with_rows(work, rows)
        peak = peak_during(lambda: taken.append(own_guides(work)[2]), settings.device)
    return {"seconds": taken[0], "rows": rows, "bytes": peak}


def _with_rows(work: Workload, count: int) -> Workload:
    """The workload with so many different rows, drawn from its model."""
    found = work.take(0)
    with torch.no_grad():
        h = torch.randn(count, work.latent, generator=torch.Generator().manual_seed(0)).to(work.rows.device)
        mean = work.decoder(h)
        found.rows = mean + work.law.scale * torch.randn_like(mean)
    return found


def main() -> None:
    """Read the point from the command line."""
    parser = argparse.ArgumentParser(prog="benchmarks.scaling_point", description=__doc__)
    parser.add_argument("curve", choices=["rows", "latent", "particles"])
    parser.add_argument("size", type=int)
    parser.add_argument("--cache", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    asked = parser.parse_args()
    pin(asked.threads)
    torch.manual_seed(0)
    settings = Settings(threads=asked.threads, device=asked.device, cache=asked.cache)
    print(json.dumps(point(asked.curve, asked.size, settings)))


if __name__ == "__main__":
    main()
