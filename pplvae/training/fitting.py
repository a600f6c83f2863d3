"""`fit`: a Pyro pair, fitted by stochastic variational inference."""

import hashlib
import platform
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyro
import torch
import xarray as xr
from torch import Tensor
from torch.optim import Optimizer

from pplvae._version import __version__
from pplvae.data import Data, Rows
from pplvae.errors import PplvaeWarning, StoreError, UnknownNameError
from pplvae.isolate import held_in_evaluation, isolated, undisturbed
from pplvae.objectives import KLWeight, Objective
from pplvae.programs.keys import row_keys
from pplvae.programs.opening import one_set
from pplvae.programs.progress import progress_bar
from pplvae.programs.reading import Program, WholePlates
from pplvae.run_folders import HISTORY, RUN, WEIGHTS, RunFolder, check_files, open_run, read_record
from pplvae.store import open_datasets, read_tensors, write_datasets, write_tensors
from pplvae.training.loop import FitStatus, Loop
from pplvae.training.preparation import follow_rows, hold_model, merged_stores, prepare
from pplvae.training.steps import Steps
from pplvae.training.weights import Fitted, Weights

_TRAINED = ("both", "guide")

MakeOptimiser = Callable[[list[Tensor]], Optimizer]


@dataclass(frozen=True)
class Fit:
    """A fitted pair.

    Attributes:
        model: p(v, h; theta) with its fitted parameters; called as the program that was passed in.
        guide: q(h; lambda_phi(v)), likewise.
        history: over dimension "epoch": `objective` (nats per training row, as optimised, under the KL weight),
            `elbo_validation` and `elbo_validation_stderr` (nats per row, KL weight 1; error over rows), `kl_weight`,
            `seconds`.
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
        return "\n".join(lines)


def fit(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    validation: Any = None,
    objective: Any = "TraceMeanField_ELBO",
    epochs: int = 200,
    batch_size: int = 128,
    lr: float = 1e-3,
    train: str = "both",
    optimiser: MakeOptimiser | None = None,
    kl_weight: KLWeight = 1.0,
    clip: float | None = None,
    patience: int | None = None,
    validation_particles: int = 10,
    compile: bool = False,
    run: str | Path | None = None,
    existing: str = "refuse",
    seed: int = 0,
    progress: bool = False,
) -> Fit:
    """Fit a model and its guide by stochastic variational inference.

    Modules are trained in place, in the train or eval mode they are in, and follow the device and dtype of the rows.
    Parameters in Pyro's param store start afresh from the programs' own initial values (pass `earlier.model` and
    `earlier.guide` to go on from an earlier fit), and the caller's store is left alone.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`. For a model without latents, a program that
            draws nothing (`models.no_latents`): what is maximised, and validated, is then log p(v).
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one; of a whole `Data` the train rows are taken, with its valid rows for validation.
        validation: rows for the validation ELBO, in the same forms; the weights of its best epoch are kept.
        objective: what is maximised: one of `objectives.OBJECTIVES` by name ("TraceMeanField_ELBO", "IWAE", ...), one
            of them with options such as `objectives.IWAE(particles=20)`, or any Pyro ELBO object.
        epochs: passes over the rows.
        batch_size: rows per step. The last batch of an epoch may be smaller.
        lr: step size of Adam. Where `optimiser` is given, Adam is not used.
        train: "both", or "guide" to hold the model fixed: only parameters that the guide alone uses are moved.
        optimiser: from a list of parameters to a torch optimiser, such as `functools.partial(torch.optim.AdamW,
            lr=1e-3)`; replaces Adam.
        kl_weight: weight of the KL term, or a function of the epoch (a float) such as `objectives.warm_up(20)`.
        clip: largest norm of the gradient of the loss, which is in nats per row.
        patience: stop when the validation ELBO has not risen for so many epochs.
        validation_particles: draws per validation row and epoch; even. The noise is the same in every epoch.
        compile: whether to put the whole training step through torch's compiler: some seconds once for each shape of
            network (kept on disk), then the fastest steps. It rounds and fuses differently, so that losses are those of
            the plain step for a while only. By default a step is captured as a graph and replayed, with the numbers of
            the plain step; programs that cannot be captured, because a Python branch is taken on a tensor's value, or
            not be replayed (an LSTM on a CPU), are run as they are written, and those with latents that are not
            reparameterised, or are enumerated, by Pyro's own code. `Fit.steps` says which it was. What `torch.compile`
            has wrapped runs as it is written.
        run: folder for weights, history and checkpoints, written as the fit goes.
        existing: what to do if that folder holds a run: "refuse", "resume" (equal to the bit to a fit that was never
            interrupted; `epochs` may be raised), or "overwrite", once the first epoch is over.
        seed: names all noise: the same seed gives the same bits. That is the order of the rows, the latents' noise, and
            parameters that the programs initialise when they are first run.
        progress: show a progress bar, on a terminal.

    Returns:
        A `Fit`. A loss that is not finite, or Ctrl-C, does not raise: see its `status` and `message`.

    Raises:
        DataError: rows that cannot be used, or lie outside the likelihood's support.
        ProgramError: programs that fail, declare no parameters, or (with `validation`) cannot be scored row by row; an
            objective that does not suit them.
        StoreError: a run folder that is occupied, damaged, or from another fit.
        UnknownNameError: an unknown objective, or value of `train`.
    """
    if isinstance(rows, Data):
        rows, validation = rows.train, rows.valid if validation is None and len(rows.valid) else validation
    training = one_set(rows)
    held_out = None if validation is None else one_set(validation, "validation")
    _check_numbers(epochs=epochs, batch_size=batch_size, validation_particles=validation_particles)
    if patience is not None and held_out is None:
        raise ValueError("`patience` counts epochs of the validation ELBO: pass `validation` rows with it.")
    if validation_particles % 2:
        raise ValueError(f"`validation_particles` must be even (draws are mirrored), got {validation_particles}.")
    if train not in _TRAINED:
        raise UnknownNameError("value of `train`", train, _TRAINED)
    chosen = Objective(objective)
    settings = {
        "rows": len(training),
        "binarisation": training.binarisation,
        "rows_digest": digest(training),
        "objective": chosen.settings,
        "batch_size": batch_size,
        "lr": lr,
        "train": train,
        "optimiser": "Adam" if optimiser is None else _name_of(optimiser),
        "kl_weight": kl_weight if isinstance(kl_weight, (int, float)) else _name_of(kl_weight),
        "clip": clip,
        "patience": patience,
        "validation_rows": 0 if held_out is None else len(held_out),
        "validation_digest": None if held_out is None else digest(held_out),
        "validation_particles": validation_particles,
        "compile": compile,
        "seed": seed,
    }
    with open_run(Path(run), existing) if run is not None else nullcontext() as folder:
        dtype = follow_rows(model, guide, training)
        store = merged_stores(model, guide)
        model, guide = _unwrapped(model), _unwrapped(guide)
        with isolated(seed, store=store, dtype=dtype):
            start = prepare(model, guide, training, held_out)
            if train == "guide":
                hold_model(model, guide, training, start)
            parameters = list(start.trained.values())
            stepper = torch.optim.Adam(parameters, lr=lr, fused=True) if optimiser is None else optimiser(parameters)
            if not isinstance(stepper, Optimizer):
                raise TypeError(
                    "`optimiser` must make a torch optimiser from a list of parameters, such as "
                    f"`functools.partial(torch.optim.AdamW, lr=1e-3)`; it made {stepper!r}."
                )
            steps = Steps(model, guide, start, chosen, stepper, clip, compile=compile)
            given = model, guide, training, held_out, start, steps, stepper, settings, folder
            loop = Loop(*given)
            if existing == "resume":
                loop.resume()
            with progress_bar(epochs, "fitting", "epoch", progress=progress, done=loop.epoch) as bar:
                try:
                    with held_in_evaluation(start.held), WholePlates(start.layout.whole if start.layout else ()):
                        status, message = loop.run(epochs, kl_weight, patience, bar)
                except KeyboardInterrupt:
                    status, message = FitStatus.INTERRUPTED, FitStatus.INTERRUPTED.value
                finally:
                    loop.keep_best()
                    for parameter in start.weights.parameters.values():
                        parameter.grad = None  # whoever trains on starts from none
        result = Fit(
            Fitted(model, store),
            Fitted(guide, store),
            loop.history(),
            status,
            message,
            loop.best_epoch,
            settings | {"epochs": epochs} | versions(),
            str(steps),
            None if folder is None else folder.path,
        )
        if folder is not None:
            with undisturbed():
                _write_result(folder, result, loop.weights)
    if status is FitStatus.NONFINITE:
        warnings.warn(message, PplvaeWarning, stacklevel=2)
    return result


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
    model, guide = _unwrapped(model), _unwrapped(guide)
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


def _check_numbers(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"`{name}` must be at least 1, got {number}.")


def digest(rows: Rows) -> str:
    """A few letters that stand for the content of all rows, in order."""
    return hashlib.blake2b(row_keys(rows.tensors).cpu().numpy().tobytes(), digest_size=6).hexdigest()


def _name_of(function: Any) -> str:
    """A name that is the same in every process, unlike the address in most functions' repr."""
    return f"{function.__module__}.{function.__qualname__}" if hasattr(function, "__qualname__") else repr(function)


def _unwrapped(program: Program) -> Program:
    return program.func if isinstance(program, Fitted) else program


def _write_result(folder: RunFolder, result: Fit, weights: Weights) -> None:
    record = {"status": result.status.name, "message": result.message, "best_epoch": result.best_epoch}
    record |= {"steps": result.steps, "settings": result.settings}
    writes: dict[str, Callable[[Path], Any]] = {
        WEIGHTS: lambda path: write_tensors(path, weights.copy()),
        HISTORY: lambda path: write_datasets(path, "history", {"history": result.history}),
    }
    folder.publish(record, writes)
