"""`pplvae verify-distributed`: one small fit and comparison, on one rank and on several, held against each other."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplvae.commands.saying import Voice
from pplvae.commands.tables import rows_as_table
from pplvae.commands.trial import ASKED, file_of
from pplvae.errors import RanksError
from pplvae.store import read_tensors

_ROUNDING = 1e-9  # relative, of double precision, after some steps of Adam
_SPREAD = 4.5  # standard errors of a correlation: among some hundreds, none is larger by chance

Found = dict[str, Tensor]


@dataclass(frozen=True)
class Line:
    """A line of what is printed.

    Attributes:
        name: in JSON.
        what: was looked at, in words.
        value: as it was found.
        right: whether that is as it should be; None for a figure that is no test.
        said: the value in words.
    """

    name: str
    what: str
    value: float
    right: bool | None
    said: str


def verify(voice: Voice, ranks: int, asked: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Run the trial on one rank and on several; whether all is right, and what there is to tell in JSON.

    Args:
        voice: that says what there is to say.
        ranks: how many.
        asked: of the trial.

    Raises:
        ValueError: fewer than two ranks.
        RanksError: a trial has failed.
    """
    if ranks < 2:
        raise ValueError(f"`ranks` must be at least 2, got {ranks}: one rank is held against several.")
    with tempfile.TemporaryDirectory(prefix="pplvae-") as name:
        folder = Path(name)
        (folder / ASKED).write_text(json.dumps(asked), encoding="utf-8")
        found = {}
        for size in (1, ranks):
            voice.line(f"On {size} rank{'s' if size > 1 else ''} ...")
            _run(folder, size)
            found[size] = [read_tensors(file_of(folder, size, rank))[0] for rank in range(size)]
    lines = list(_lines(found[1][0], found[ranks]))
    shown = [(line.what, line.said, {True: "right", False: "WRONG", None: ""}[line.right]) for line in lines]
    text = "\n".join("  ".join(cells).rstrip() for cells in _padded(shown))
    voice.result(text, lambda: [rows_as_table(("", f"1 against {ranks} ranks", ""), shown)])
    told = {line.name: {"value": line.value, "right": line.right} for line in lines}
    return all(line.right is not False for line in lines), {"ranks": ranks, "found": told}


def _run(folder: Path, size: int) -> None:
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("TORCHELASTIC")}
    done = subprocess.run(
        [*launcher, "-m", "pplvae.commands.trial", str(folder)],
        capture_output=True,
        text=True,
        env={"OMP_NUM_THREADS": "1", **own},
    )
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if "Error: " in line and "ChildFailed" not in line]
        raise RanksError(f"The trial on {size} ranks has failed: {told[-1] if told else done.stderr[-500:]}")


def _lines(one: Found, several: list[Found]) -> Iterator[Line]:
    yield _agreement("ranks_agree", "parameters of all ranks, against rank 0's", several[0], several, "weight/", 0.0)
    yield _agreement("parameters", "parameters, against those of one rank", one, several[:1], "weight/", _ROUNDING)
    scale = _norm(several[0]) / _norm(one)
    yield Line(
        "gradient_scale", "length of a gradient, of one rank's", scale, abs(scale - 1) < _ROUNDING, f"{scale:.9f}"
    )
    yield from _of_noise([found["noise"] for found in several])
    taken = torch.stack([found["taken"] for found in several]).sum(0)
    odd = int((taken != 1).sum())
    yield Line("rows_fitted", "rows not taken once in an epoch", odd, odd == 0, f"{odd} of {len(taken)}")
    odd = int((several[0]["compared"] != 1).sum())
    yield Line("rows_compared", "rows not compared once", odd, odd == 0, f"{odd} of {len(several[0]['compared'])}")
    odd = int((one["elbo_local"] != several[0]["elbo_local"]).sum())
    yield Line("comparison", "rows compared with other bits", odd, odd == 0, f"{odd} of {len(one['elbo_local'])}")
    for work in ("fit", "compare"):
        rates = [float(found[f"{work}_rows"] / found[f"{work}_seconds"]) for found in (one, several[0])]
        said = f"{rates[0]:.0f} and {rates[1]:.0f}, {rates[1] / rates[0]:.2f} times"
        yield Line(f"{work}_rows_per_second", f"rows a second, {work}", rates[1] / rates[0], None, said)
    waited = max(float(found["fit_waited"] / found["fit_seconds"]) for found in several)
    yield Line("waited", "share of the fit in which a rank waits for others", waited, None, f"{waited:.0%}")


def _agreement(name: str, what: str, one: Found, others: list[Found], prefix: str, tolerance: float) -> Line:
    names = [key for key in one if key.startswith(prefix)]
    apart, worst = 0.0, ""
    for other in others:
        for key in names:
            difference = float((one[key] - other[key]).abs().max() / one[key].abs().max().clamp(min=1e-12))
            apart, worst = max((apart, worst), (difference, key.removeprefix(prefix)))
    return Line(name, what, apart, apart <= tolerance, f"{apart:.1e} apart" + (f" ({worst})" if worst else ""))


def _norm(found: Mapping[str, Tensor]) -> float:
    moved = [value.flatten() for key, value in found.items() if key.startswith("gradient/")]
    return float(torch.cat(moved).norm())


def _of_noise(noises: list[Tensor]) -> Iterator[Line]:
    """Noise of the ranks' rows: no number twice, and no correlation."""
    numbers = torch.cat([noise.flatten() for noise in noises])
    twice = len(numbers) - len(numbers.unique())
    yield Line("noise_repeated", "random numbers that two ranks share", twice, twice == 0, f"{twice} of {len(numbers)}")
    rows = min(map(len, noises))
    pairs = [(i, k) for k in range(len(noises)) for i in range(k)]
    flat = torch.stack([noise[:rows].flatten() for noise in noises])
    largest = max(abs(float(torch.corrcoef(flat)[i, k])) for i, k in pairs)
    error = (rows * noises[0].shape[1]) ** -0.5
    said = f"{largest:.3f}, where chance makes {error:.3f}"
    yield Line("noise_correlation", "correlation of the ranks' noise", largest, largest < _SPREAD * error, said)


def _padded(rows: list[tuple[str, str, str]]) -> Iterator[list[str]]:
    widths = [max(len(row[k]) for row in rows) for k in range(3)]
    for row in rows:
        yield [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
