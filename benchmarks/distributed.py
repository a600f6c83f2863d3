"""Several ranks against one: kills that a job survives, rows, and throughput, for docs/beyond_one_machine.md."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

import pplvae
from benchmarks import machine
from benchmarks.table import console
from pplvae.run_folders import WEIGHTS
from pplvae.store import read_tensors

_LAUNCH = (sys.executable, "-m", "torch.distributed.run", "--standalone")
_FIT = ("-m", "pplvae", "fit", "--data", "rows.npy", "--model", "vae", "--latent", "2", "--likelihood", "gaussian")
_COMPARE = ("-m", "pplvae", "compare", "run", "--chunk-size", "20", "--particles", "20", "--simulated", "0")
_LONGEST = 900.0  # seconds, after which a job counts as stuck
_LATEST = 14.0  # seconds after a start, at which a rank is killed at the latest


@dataclass
class Survived:
    """What came of the kills of a job.

    Attributes:
        work: that was done.
        kills: how many.
        by_rank: of each rank.
        wrong: what was not as in a job that nobody has killed.
    """

    work: str
    kills: int = 0
    by_rank: dict[int, int] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)


def main(*, quick: bool) -> None:
    """Do all of it, and print tables."""
    load = os.getloadavg()[0]
    facts = machine.facts() | {"load of others at the start": f"{load:.1f}"}
    console.print("; ".join(f"{name}: {value}" for name, value in facts.items()), soft_wrap=True)
    with tempfile.TemporaryDirectory(prefix="pplvae-") as name:
        for survived in kills(Path(name), 1 if quick else 15):
            told = f"{survived.kills} kills ({survived.by_rank} by rank), wrong: {survived.wrong or 'nothing'}"
            console.print(f"{survived.work}: {told}", soft_wrap=True)
    for line in throughput(1 if quick else 3, quick=quick):
        console.print(line, soft_wrap=True)
    console.print(f"load at the end: {os.getloadavg()[0]:.1f}")


def kills(folder: Path, each: int, seed: int = 0) -> Iterator[Survived]:
    """Kill ranks of a fit, and of a comparison, at random moments; torchrun starts them anew.

    Args:
        folder: for all files.
        each: kills of each kind of work; a job that ends before it has met so many is followed by another.
        seed: of the moments.
    """
    rows = np.random.default_rng(0).normal(size=(600, 6)).astype(np.float32)
    chance = random.Random(seed)
    calm = folder / "calm"
    calm.mkdir()
    np.save(calm / "rows.npy", rows)
    start = shutil.copytree(calm, folder / "start of fit")
    for words in ((*_FIT, "--folder", "run", "--epochs", "400"), _COMPARE):
        _run(calm, words)
        survived = Survived(words[2])
        while survived.kills < each and not survived.wrong:
            job = Path(shutil.copytree(start, folder / f"{words[2]} after {survived.kills}"))
            _kill(job, words, survived, each, chance)
            survived.wrong += _differences(calm / "run", job / "run")
        yield survived
        start = shutil.copytree(calm, folder / f"after {words[2]}")


def _differences(calm: Path, killed: Path) -> Iterator[str]:
    """What a job has left otherwise than one that nobody has killed: weights, rows, and every column, to the bit."""
    one, other = (read_tensors(run / WEIGHTS)[0] for run in (calm, killed))
    yield from (name for name in one if not torch.equal(one[name], other[name]))
    if not (killed / "comparison.nc").exists():
        return
    one, other = (pplvae.load_comparison(run / "comparison.nc").rows for run in (calm, killed))
    if one["row"].values.tolist() != other["row"].values.tolist():
        yield "rows lost or doubled"
    yield from (str(name) for name in one.data_vars if not one[name].identical(other[name]))


def _run(folder: Path, words: Sequence[str], ranks: int = 2) -> None:
    command = [*_LAUNCH, f"--nproc-per-node={ranks}", *words]
    done = subprocess.run(command, cwd=folder, env=_environment(), capture_output=True, text=True, timeout=_LONGEST)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-8000:]


def _environment() -> dict[str, str]:
    here = str(Path(__file__).parent.parent)
    return {**os.environ, "PYTHONPATH": here, "OMP_NUM_THREADS": "1", "PPLVAE_TIMEOUT": "120"}


def _kill(folder: Path, words: Sequence[str], found: Survived, count: int, chance: random.Random) -> None:
    """Run a job and kill one of its ranks after each start, at a random moment, until there were enough kills."""
    command = [*_LAUNCH, "--nproc-per-node=2", f"--max-restarts={count + 1}", "--monitor-interval=0.1", *words]
    began = time.monotonic()
    with (folder / "log").open("w") as log:
        job = subprocess.Popen(command, cwd=folder, env=_environment(), stdout=log, stderr=log)
        known: set[int] = set()
        while job.poll() is None and time.monotonic() - began < _LONGEST:
            workers = _children(job.pid)
            if found.kills == count or len(workers) < 2 or known & set(workers):
                time.sleep(0.05)
                continue
            known |= set(workers)
            time.sleep(chance.uniform(0.0, _LATEST))
            rank = chance.randrange(2)
            if job.poll() is None and workers == _children(job.pid):
                os.kill(workers[rank], signal.SIGKILL)
                found.kills += 1
                found.by_rank[rank] = found.by_rank.get(rank, 0) + 1
    if job.poll() != 0:
        job.kill()
        found.wrong.append(f"exit status {job.returncode}: {(folder / 'log').read_text()[-1500:]}")


def _children(process: int) -> list[int]:
    try:
        said = Path(f"/proc/{process}/task/{process}/children").read_text().split()
        return sorted(child for child in map(int, said) if b"pplvae" in Path(f"/proc/{child}/cmdline").read_bytes())
    except OSError:
        return []


def throughput(rounds: int, *, quick: bool) -> Iterator[str]:
    """Rows a second of a comparison and of a fit, on one rank and on several, each held to one processor; in turns."""
    measured: dict[tuple[str, int], list[float]] = {}
    parts: dict[str, list[float]] = {}
    sizes = (1, 2, 4)
    for _ in range(rounds):
        for size in sizes:
            with tempfile.TemporaryDirectory(prefix="pplvae-") as folder:
                _run(Path(folder), ("-m", "benchmarks.distributed_child", "quick" if quick else "full"), size)
                told = [json.loads((Path(folder) / f"{rank}.json").read_text()) for rank in range(size)]
            for work in ("compare", "fit"):
                # By the clock; and by the mean of the ranks' processors, which others that share them change less.
                seconds = max(one[f"{work}_seconds"] for one in told), sum(one[f"{work}_busy"] for one in told) / size
                for clock, taken in zip(("clock", "processors"), seconds, strict=True):
                    measured.setdefault((f"{work}, {clock}", size), []).append(told[0][f"{work}_rows"] / taken)
            for name in ("waited", "all_reduce", "checkpoint", "step"):
                parts.setdefault(f"{name} on {size}", []).append(max(one[name] for one in told))
    for (work, size), rates in measured.items():
        share = np.median(rates) / np.median(measured[work, 1])
        yield f"{work} on {size} ranks: {np.median(rates):.0f} rows/s ({share:.2f} times one), rounds {np.round(rates)}"
    for name, seconds in parts.items():
        yield f"{name} ranks: {np.median(seconds):.3g} s"
