"""Ours and its peers on the same work, in turns: medians over rounds, with quartiles.

`python -m benchmarks truth` holds the claims of the comparison against exact answers instead, `python -m benchmarks
hostile` reads files that were damaged or made up, `python -m benchmarks faults` kills fits and comparisons, `python -m
benchmarks distributed` does so to ranks that torchrun has started, and `python -m benchmarks examples --pyro PATH` runs
the examples of a checkout of Pyro.
"""

import argparse
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

from benchmarks import (
    annealing,
    arithmetic,
    chains,
    demo,
    distributed,
    examples,
    faults,
    hostile,
    machine,
    own_guides,
    scaling,
    training,
    truth,
)
from benchmarks.catalogue import WORKLOADS, ready
from benchmarks.measure import Missing, Settings
from benchmarks.record import Line, Record
from benchmarks.table import console, show
from benchmarks.workloads import Workload

OF_WORKLOADS: dict[str, ModuleType] = {
    "training": training,
    "own-guides": own_guides,
    "annealing": annealing,
    "arithmetic": arithmetic,
}
OTHERS: dict[str, Callable[[Settings], list[list[Line]]]] = {
    "chains": chains.measure,
    "scaling": scaling.measure,
    "demo": demo.measure,
}


def main() -> None:
    """Run what was asked for, print a table after each piece, and keep the JSON up to date."""
    asked = _asked()
    if asked.what == "truth":
        truth.main(quick=asked.quick, threads=asked.threads)
        return
    if asked.what == "hostile":
        hostile.main(quick=asked.quick, threads=asked.threads)
        return
    if asked.what == "examples":
        examples.main(asked.pyro, quick=asked.quick, threads=asked.threads)
        return
    if asked.what == "faults":
        faults.main(quick=asked.quick)
        return
    if asked.what == "distributed":
        distributed.main(quick=asked.quick)
        return
    machine.pin(asked.threads)
    rounds = asked.rounds or (2 if asked.quick else 5)
    settings = Settings(rounds, asked.quick, asked.threads, asked.device, rows=asked.rows)
    facts = machine.facts()
    console.print("; ".join(f"{name}: {value}" for name, value in facts.items()), soft_wrap=True)
    console.print(f"{settings.label}; medians (quartiles) over at most {settings.rounds} rounds")
    record = Record(asked.json, settings.label, facts)
    for lines in _tables(asked.only, asked.workload, settings):
        show(lines, record)
        record.add(lines)
    console.print(f"written to {asked.json}")


def _tables(sections: list[str], names: list[str], settings: Settings) -> Iterator[list[Line]]:
    fitted: dict[str, Workload] = {}
    for section, module in OF_WORKLOADS.items():
        if section not in sections:
            continue
        for name in module.WORKLOADS:
            if name not in names:
                continue
            try:
                if name not in fitted:
                    fitted[name] = ready(WORKLOADS[name], settings)
            except Missing as reason:
                console.print(f"{section}: {name} is skipped: {reason}")
                continue
            yield module.measure(fitted[name], settings)
    for section, measure in OTHERS.items():
        if section in sections:
            yield from measure(settings)


def _asked() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "what",
        nargs="?",
        choices=["speed", "truth", "hostile", "faults", "distributed", "examples"],
        default="speed",
        help="what is measured",
    )
    sections = [*OF_WORKLOADS, *OTHERS]
    parser.add_argument("--only", nargs="+", choices=sections, default=sections, metavar="SECTION", help=str(sections))
    parser.add_argument(
        "--workload",
        nargs="+",
        choices=list(WORKLOADS),
        default=list(WORKLOADS),
        metavar="NAME",
        help=str([*WORKLOADS]),
    )
    parser.add_argument("--rounds", type=int, help="turns that are counted; 5, or 2 of a quick run")
    parser.add_argument("--quick", action="store_true", help="smaller sizes: to see that everything runs")
    parser.add_argument("--rows", type=int, help="rows that are given guides of their own; by default each workload's")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads, and processors held, of everybody")
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path, default=Path("runs/benchmarks.json"), help="compared with, then written")
    parser.add_argument("--pyro", type=Path, help="root of a checkout of Pyro: of `examples`")
    asked = parser.parse_args()
    if asked.what == "examples" and asked.pyro is None:
        parser.error("`examples` wants `--pyro PATH`, the root of `git clone https://github.com/pyro-ppl/pyro`.")
    return asked


if __name__ == "__main__":
    main()
