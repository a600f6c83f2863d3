"""Measure, print ratios, write JSON."""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

import pplvae
from benchmarks.peers import batched_adam, elbo, hand_epoch, pyro_loop, pyro_svi_epoch
from benchmarks.workloads import Workload, digits, mnist
from pplvae.fit import versions


def interleaved(blocks: dict[str, Callable[[], float | None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each block, one after the other, round by round, after one round that is not counted.

    A block that returns a number has timed itself.
    """
    seconds: dict[str, list[float]] = {name: [] for name in blocks}
    for counted in [False] + [True] * rounds:
        for name, block in blocks.items():
            began = time.perf_counter()
            own = block()
            if counted:
                seconds[name].append(time.perf_counter() - began if own is None else own)
    return seconds


def ratios(seconds: dict[str, list[float]], to: str) -> dict[str, list[float]]:
    """Quartiles of the ratio to one block, round by round."""
    return {
        name: np.quantile(np.array(values) / np.array(seconds[to]), [0.25, 0.5, 0.75]).round(3).tolist()
        for name, values in seconds.items()
    }


def training(work: Workload, rounds: int) -> dict[str, object]:
    """One epoch of `fit` (by its own clock, without the checks before it), of Pyro's SVI and of a hand-written loop."""
    vae, batch = work.vae, 128

    def ours() -> float:
        return float(pplvae.fit(vae.model, vae.guide, work.train, epochs=1, batch_size=batch).history["seconds"][0])

    with pplvae.isolate.isolated(0):
        blocks = {"hand": hand_epoch(work, batch), "pyro SVI": pyro_svi_epoch(work, batch), "pplvae fit": ours}
        seconds = interleaved(blocks, rounds)
    steps = -(-len(work.train) // batch)
    return {"ms per step": _medians(seconds, 1000 / steps), "ratio to hand": ratios(seconds, "hand")}


def gap(work: Workload, rounds: int) -> dict[str, object]:
    """Per-row guides of all rows: ours, batched torch Adam, a Python loop of Pyro's SVI; and what each leaves."""
    found: dict[str, object] = {}

    def ours() -> None:
        found["pplvae"] = pplvae.amortisation_gap(work.vae.model, work.vae.guide, work.rows, particles=4)

    def adam() -> None:
        found["batched torch Adam"] = batched_adam(work)

    with pplvae.isolate.isolated(0):
        seconds = interleaved({"batched torch Adam": adam, "pplvae": ours}, rounds)
        began = time.perf_counter()
        pyro_loop(work)
        seconds["loop of Pyro SVI (2 rows, extrapolated)"] = [
            (time.perf_counter() - began) * len(work.rows) / 2 for _ in range(rounds)
        ]
        long_run = batched_adam(work, steps=1500, draws=32, lr=0.01)
        reference = _score(work, *long_run)
        adam_elbo = _score(work, *found["batched torch Adam"])
    quick = pplvae.amortisation_gap(work.vae.model, work.vae.guide, work.rows, particles=4000)
    left = {
        "pplvae": float(reference) - float(quick.rows["elbo_local"].mean()),
        "batched torch Adam": float(reference - adam_elbo),
    }
    return {
        "seconds": _medians(seconds, 1),
        "ratio to batched torch Adam": ratios(seconds, "batched torch Adam"),
        "nats short of a run of 1500 steps with 32 draws": left,
    }


def _score(work: Workload, mean: torch.Tensor, log_scale: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return torch.stack([elbo(work, mean, log_scale, 100).mean() for _ in range(40)]).mean()


def _medians(seconds: dict[str, list[float]], factor: float) -> dict[str, float]:
    return {name: round(statistics.median(values) * factor, 4) for name, values in seconds.items()}


def main() -> None:
    """Run every workload and print the table."""
    parser = argparse.ArgumentParser(prog="benchmarks", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", choices=["digits", "mnist"], default=None)
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks.json"))
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    results: dict[str, object] = {"versions": versions(), "threads": 1, "rounds": arguments.rounds}
    makers = {"digits": digits, "mnist": mnist}
    for name in [arguments.only] if arguments.only else makers:
        work = makers[name]()
        if work is None:
            print("mnist: the data are not at hand, skipped")
            continue
        results[work.name] = {"training": training(work, arguments.rounds), "gap": gap(work, min(arguments.rounds, 3))}
        print(json.dumps({work.name: results[work.name]}, indent=2), flush=True)
    arguments.json.parent.mkdir(parents=True, exist_ok=True)
    arguments.json.write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    main()
