"""What a fit comes to, and its run folder: written, and read back."""

import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr

from pplvae._version import __version__
from pplvae.errors import StoreError
from pplvae.isolate import isolated
from pplvae.programs.opening import one_set
from pplvae.programs.reading import Program
from pplvae.run_folders import HISTORY, RUN, WEIGHTS, RunFolder, check_files, read_record
from pplvae.store import open_datasets, read_tensors, write_datasets, write_tensors
from pplvae.training.loop import FitStatus
from pplvae.training.preparation import follow_rows, merged_stores, prepare
from pplvae.training.weights import Fitted, Weights


@dataclass(frozen=True)
class Fit:
    """A fitted pair.

    Attributes:
        model: p(v, h; theta) with its fitted parameters; called as the program that was passed in.
        guide: q(h; lambda_phi(v)), likewise.
        history: over dimension "epoch": `objective` (nats per training row, as optimised, under the KL weight),
            `elbo_validation` and `elbo_validation_stderr` (nats per row, KL weight 1; error over rows), `kl_weight`,
            `seconds`; and, with `compare_every`, what looks at the gap have found, NaN in epochs without one. Of the
            train rows that were looked at these are `train_gap`, the mean amortisation gap, `train_elbo_amortised` and
            `train_elbo_local` (of the encoder's guide and of each row's own), in nats per row, each with
            `<name>_stderr` (over rows, Monte Carlo noise included) and `<name>_mc_stderr` (that noise alone, as the
            rows are the same in every look), and `train_converged`, the share of rows whose own guide has converged; of
            the validation rows `validation_gap` and so on; and `look_seconds`, which `seconds` do not include.
        status: how the fit ended.
        message: the same as a sentence, with what came before it.
        best_epoch: the epoch whose weights were kept (counted from 0; -1 for the initial ones).
        settings: what the fit was asked for, and the versions it ran under.
        steps: what ran the training steps, and why not faster: see `compile` of `fit`.
        run: the run folder, if there is one.
    """

    model: Fitted
    guide: Fitted
    history: xr.Dataset
    status: FitStatus
    message: str
    best_epoch: int
    settings: dict[str, Any]
    steps: str = ""
    run: Path | None = None

    def __repr__(self) -> str:
        lines = [f"Fit: {self.message}", f"steps {self.steps}"]
        if self.history.sizes.get("epoch"):
            best = self.history.sel(epoch=max(self.best_epoch, 0))
            lines.append(f"{self.history.sizes['epoch']} epochs, weights of epoch {self.best_epoch} kept")
            lines.append(f"objective {float(best['objective']):.3f} nats per training row")
            if np.isfinite(float(best["elbo_validation"])):
                lines.append(
                    f"validation ELBO {float(best['elbo_validation']):.3f} ± "
                    f"{float(best['elbo_validation_stderr']):.3f} nats per row"
                )
        return "\n".join([*lines, *self._of_looks()])

    def _of_looks(self) -> list[str]:
        """What the last look at the gap has found, and what all of them have cost."""
        if "look_seconds" not in self.history:
            return []
        looked_at = self.history.isel(epoch=np.flatnonzero(np.isfinite(self.history["look_seconds"])))
        if not looked_at.sizes["epoch"]:
            return []
        last, spent = looked_at.isel(epoch=-1), float(looked_at["look_seconds"].sum())
        gaps = [
            f"{part} {float(last[f'{part}_gap']):.3f} ± {float(last[f'{part}_gap_stderr']):.3f}"
            for part in ("train", "validation")
            if f"{part}_gap" in last
        ]
        share = spent / (spent + float(self.history["seconds"].sum()))
        return [
            f"amortisation gap of some rows after epoch {int(last['epoch'])}: {', '.join(gaps)} nats per row",
            f"{looked_at.sizes['epoch']} looks at it took {share:.0%} of the time",
        ]


def load_fit(run: str | Path, model: Program, guide: Program, rows: Any) -> Fit:
    """Read a run folder back into the programs that it was made with.

    Args:
        run: the folder.
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. Built as it was for the fit.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`. Likewise.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one. Any rows of the kind that it was fitted on will do: the programs are run on a
            few of them, to create their parameters.

    Raises:
        StoreError: missing or damaged files, another version, or weights of another program.
    """
    folder, some = Path(run), one_set(rows)
    content = read_record(folder)
    check_files(folder, content)
    snapshot, _ = read_tensors(folder / WEIGHTS)
    history = open_datasets(folder / HISTORY, "history")["history"]
    dtype = follow_rows(model, guide, some)
    store = merged_stores(model, guide)
    model, guide = unwrapped(model), unwrapped(guide)
    with isolated(0, store=store, dtype=dtype):
        prepare(model, guide, some, None).weights.restore(snapshot)
    try:
        status = FitStatus[content["status"]]
        return Fit(
            Fitted(model, store),
            Fitted(guide, store),
            history,
            status,
            content["message"],
            content["best_epoch"],
            content["settings"],
            content["steps"],
            folder,
        )
    except KeyError as error:
        raise StoreError(f"{str(folder / RUN)!r} is damaged: {error} is missing or unknown.") from error


def versions() -> dict[str, str]:
    """Versions of what a result depends on."""
    found = {"pplvae": __version__, "python": platform.python_version()}
    return found | {"torch": torch.__version__, "pyro": pyro.__version__, "numpy": np.__version__}


def unwrapped(program: Program) -> Program:
    """A program as it was written."""
    return program.func if isinstance(program, Fitted) else program


def write_result(folder: RunFolder, result: Fit, weights: Weights) -> None:
    """Put a fit in place in its run folder."""
    record = {"status": result.status.name, "message": result.message, "best_epoch": result.best_epoch}
    record |= {"steps": result.steps, "settings": result.settings}
    writes: dict[str, Callable[[Path], Any]] = {
        WEIGHTS: lambda path: write_tensors(path, weights.copy()),
        HISTORY: lambda path: write_datasets(path, "history", {"history": result.history}),
    }
    folder.publish(record, writes)
