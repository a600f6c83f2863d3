"""What every rank of `pplvae verify-distributed` does and measures; torchrun runs this file with a folder.

In double precision, where what several ranks compute differs from what one does by rounding alone.
"""

import json
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import pplvae
from pplvae.commands.programs import loaded
from pplvae.data import Rows
from pplvae.isolate import isolated
from pplvae.programs.batch import Batch
from pplvae.programs.noise import RowNoise, Stream
from pplvae.ranks.group import Ranks, ranks
from pplvae.store import write_tensors
from pplvae.training.feed import Feed
from pplvae.training.preparation import follow_rows, prepare

ASKED, STORE = "asked.json", "rows.zarr"
_NORMALS = 16  # of each row
_CHUNK = 50  # rows


def file_of(folder: Path, ranks: int, rank: int) -> Path:
    """Where a rank writes what it has found."""
    return folder / f"{rank}-of-{ranks}.safetensors"


def trial(folder: Path) -> None:
    """Fit and compare as one of the ranks that torchrun has started; write what was found."""
    asked, here = json.loads((folder / ASKED).read_text(encoding="utf-8")), ranks()
    pair, data = loaded(asked["model"], asked["latent"], asked["data"], asked["of_data"], asked["seed"])
    train, valid = (some[: asked["most_rows"]].to(torch.float64) for some in (data.train, data.valid))
    found = _noise(here, train, asked) | _coverage(here, train, asked)
    found |= {f"gradient/{name}": value for name, value in _gradient(asked, train).items()}
    began, waited = time.perf_counter(), Ranks.waited
    fit = pplvae.fit(pair.model, pair.guide, train, validation=valid, **_options(asked))
    seconds = time.perf_counter() - began
    found |= {f"weight/{name}": value for name, value in _weights(fit, train).items()}
    found |= _numbers(fit_seconds=seconds, fit_waited=Ranks.waited - waited, fit_rows=len(train) * asked["epochs"])
    found |= _numbers(elbo=float(fit.history["elbo_validation"][-1]))
    found |= _comparison(asked, train[: asked["most_compared"]], folder / f"{here.size}-{STORE}")
    write_tensors(file_of(folder, here.size, here.rank), found)


def _comparison(asked: dict[str, Any], rows: Rows, store: Path) -> dict[str, Tensor]:
    """A comparison of a pair as it begins, which has the same weights on any number of ranks."""
    pair, _ = loaded(asked["model"], asked["latent"], asked["data"], asked["of_data"], asked["seed"])
    follow_rows(pair.model, pair.guide, rows)
    began = time.perf_counter()
    found = pplvae.compare(pair.model, pair.guide, rows, seed=asked["seed"], store=store, chunk_size=_CHUNK).rows
    numbers = _numbers(compare_seconds=time.perf_counter() - began, compare_rows=len(rows))
    counted = [int((found["row"].values == name).sum()) for name in rows.ids]
    return numbers | {"elbo_local": torch.tensor(found["elbo_local"].values), "compared": torch.tensor(counted)}


def _options(asked: dict[str, Any]) -> dict[str, Any]:
    same = {name: asked[name] for name in ("epochs", "batch_size", "seed")}
    return same | {"noise": "rows"}


def _weights(fit: pplvae.Fit, rows: Rows) -> dict[str, Tensor]:
    with isolated(0, store=fit.model.store, dtype=torch.float64):
        return prepare(fit.model.func, fit.guide.func, rows, None).weights.copy()


def _gradient(asked: dict[str, Any], rows: Rows) -> dict[str, Tensor]:
    """How far one step of plain descent moves each parameter, of a pair of its own."""
    pair, _ = loaded(asked["model"], asked["latent"], asked["data"], asked["of_data"], asked["seed"])
    descent = partial(torch.optim.SGD, lr=1.0)
    options = {"epochs": 1, "batch_size": len(rows), "seed": asked["seed"], "noise": "rows"}
    still = pplvae.fit(pair.model, pair.guide, rows, **options, optimiser=partial(descent, lr=0.0))
    before = _weights(still, rows)
    moved = pplvae.fit(still.model, still.guide, rows, **options, optimiser=descent)
    return {name: value - before[name] for name, value in _weights(moved, rows).items()}


def _noise(here: Ranks, rows: Rows, asked: dict[str, Any]) -> dict[str, Tensor]:
    """Normals of this rank's rows of the first batch."""
    fed = next(iter(Feed(rows, torch.arange(len(rows)), asked["batch_size"], here)))
    batch = Batch.of_step(fed.tensors, fed.positions, (asked["seed"], 0), 0)
    with RowNoise(batch.keys, 1, (Stream.TRAIN, 0, 0), of_step=batch.step):
        return {"noise": torch.randn(len(batch), _NORMALS, dtype=torch.float64)}


def _coverage(here: Ranks, rows: Rows, asked: dict[str, Any]) -> dict[str, Tensor]:
    """How often this rank takes each row in an epoch."""
    order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(asked["seed"]))
    taken = torch.cat([fed.positions for fed in Feed(rows, order, asked["batch_size"], here)])
    return {"taken": torch.bincount(taken, minlength=len(rows))}


def _numbers(**numbers: float) -> dict[str, Tensor]:
    return {name: torch.tensor(float(number), dtype=torch.float64) for name, number in numbers.items()}


if __name__ == "__main__":
    torch.set_num_threads(1)
    trial(Path(sys.argv[1]))
