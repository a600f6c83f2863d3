"""How the ranks of a job begin a fit as one: the same rows, settings and parameters, and one that writes."""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from pplvae.data import Rows
from pplvae.programs.keys import row_keys
from pplvae.ranks.group import Ranks, restarts
from pplvae.run_folders import RunFolder, open_run
from pplvae.training.preparation import Start

_COMPARED = 16  # rows that every rank looks at: to read them all is rank 0's


@contextmanager
def opened_by_first(here: Ranks, run: str | Path | None, existing: str) -> Iterator[RunFolder | None]:
    """Hold the run folder on rank 0; on the others there is none.

    Raises:
        StoreError: see `open_run`; on rank 0.
        RanksError: on the others.
    """
    if run is None:
        yield None
        return
    with here.first_holds(lambda: open_run(Path(run), on_restart(existing))) as folder:
        yield folder


def on_restart(existing: str) -> str:
    """What to do if a folder holds a run: a job that torchrun has started anew finds its own, and goes on with it."""
    return "resume" if existing == "refuse" and restarts() else existing


def alike(here: Ranks, settings: Mapping[str, Any], rows: Rows, start: Start) -> None:
    """See that all ranks are to fit the same, and give them the parameters of rank 0.

    Raises:
        RanksError: they are not; with the first thing that differs.
    """
    if not here.is_job:
        return
    tensors = start.weights.all()
    some = rows[torch.linspace(0, len(rows) - 1, min(len(rows), _COMPARED)).long()]
    given = {"content of rows": digest(some), **settings}
    given |= {name: (tuple(tensor.shape), str(tensor.dtype)) for name, tensor in tensors.items()}
    here.check_alike(given)
    here.as_first_(list(tensors.values()))


def digest(rows: Rows) -> str:
    """A few letters that stand for the content of all rows, in order."""
    return hashlib.blake2b(row_keys(rows.tensors).cpu().numpy().tobytes(), digest_size=6).hexdigest()
