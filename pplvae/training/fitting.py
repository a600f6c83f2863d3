"""`fit`: a Pyro pair, fitted by stochastic variational inference."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pplvae.data import Data, Rows
from pplvae.errors import PplvaeWarning, UnknownNameError
from pplvae.isolate import held_in_evaluation, isolated, undisturbed
from pplvae.objectives import KLWeight, Objective
from pplvae.programs.opening import floating_dtype, one_set
from pplvae.programs.progress import progress_bar
from pplvae.programs.reading import Program, WholePlates
from pplvae.ranks.group import Ranks, ranks
from pplvae.training.gradients import Gradients
from pplvae.training.history import listeners
from pplvae.training.looks import Looks
from pplvae.training.loop import FitStatus, Loop
from pplvae.training.outcome import Fit, unwrapped, versions, write_result
from pplvae.training.parts import check_parts
from pplvae.training.passing import Pass
from pplvae.training.preparation import Start, follow_rows, hold_model, merged_stores, prepare
from pplvae.training.shares import Shares
from pplvae.training.steps import Steps
from pplvae.training.together import alike, digest, on_restart, opened_by_first
from pplvae.training.validation import Validation
from pplvae.training.weights import Fitted

_TRAINED, _NOISE = ("both", "guide"), ("generator", "rows")
_NARROW = {"bfloat16": torch.bfloat16}

MakeOptimiser = Callable[[list[Tensor]], Optimizer]


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
    accumulate: int = 1,
    autocast: str | None = None,
    noise: str | None = None,
    run: str | Path | None = None,
    existing: str = "refuse",
    compare_every: int | None = None,
    compare_rows: int = 100,
    on_epoch: Any = None,
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
        accumulate: take the gradient of a batch in so many pieces, one after the other, where it does not fit into
            memory as a whole. A step is still one of `batch_size` rows.
        autocast: floats in which the networks are run, "bfloat16"; by default those of the rows. Densities, their sums
            and the validation ELBO stay in those of the rows.
        noise: "generator", torch's own, or "rows": keyed by row, so that a fit is the same on any number of ranks, and
            in any number of pieces, but for rounding. By default "rows" under torchrun, else "generator".
        run: folder for weights, history and checkpoints, written as the fit goes.
        existing: what to do if that folder holds a run: "refuse", "resume" (equal to the bit to a fit that was never
            interrupted; `epochs` may be raised), or "overwrite", once the first epoch is over.
        compare_every: measure the amortisation gap after every so many epochs, and after the last, on the same train
            and validation rows each time. The numbers are those of `amortisation_gap` of these rows, with fewer draws,
            under the weights at the end of that epoch, and training is the same to the bit with and without. A look
            takes up each row's own guide where the last one has left it.
        compare_rows: how many rows of each part are compared, at most, 2 or more; the seed chooses them, once.
        on_epoch: a function, or a list of them, called after each epoch as `on_epoch(epoch, values)`: `values` is a
            plain dictionary of the numbers that `Fit.history` has of that epoch, by their names there, without those
            that were not measured. Called when the epoch's checkpoint is written, so that nothing is lost if it raises:
            what it raises ends the fit and reaches you, the programs hold the weights of the best epoch, and
            `existing="resume"` goes on with the next one. If one returns True (and not merely something that counts as
            true) the fit ends as if that epoch had been the last.
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
        Exception: whatever a function of `on_epoch` raises.
    """
    if isinstance(rows, Data):
        rows, validation = rows.train, rows.valid if validation is None and len(rows.valid) else validation
    training = one_set(rows)
    held_out = None if validation is None else one_set(validation, "validation")
    numbers = {"epochs": epochs, "batch_size": batch_size, "validation_particles": validation_particles}
    _check_numbers(1, **numbers, accumulate=accumulate, compare_every=1 if compare_every is None else compare_every)
    _check_numbers(2, compare_rows=compare_rows)  # the mean of one row has no error
    if patience is not None and held_out is None:
        raise ValueError("`patience` counts epochs of the validation ELBO: pass `validation` rows with it.")
    if validation_particles % 2:
        raise ValueError(f"`validation_particles` must be even (draws are mirrored), got {validation_particles}.")
    if train not in _TRAINED:
        raise UnknownNameError("value of `train`", train, _TRAINED)
    here, noise = ranks(), _noise(noise)
    narrow = _narrow(autocast, training)
    chosen = Objective(objective)
    told = listeners(on_epoch)
    asked = {"batch_size": batch_size, "lr": lr, "train": train, "clip": clip, "patience": patience}
    asked |= {"validation_particles": validation_particles, "compile": compile, "seed": seed}
    asked |= {"compare_every": compare_every, "compare_rows": compare_every and compare_rows}
    keyed = (noise or ("rows" if here.is_job else "generator")) == "rows"
    asked |= {"noise": "rows" if keyed else None, "autocast": autocast}  # None as in older checkpoints
    asked |= {"accumulate": accumulate if accumulate > 1 and not keyed else None}
    settings = _settings(asked, training, held_out, chosen, optimiser, kl_weight, here)
    with opened_by_first(here, run, existing) as folder:
        dtype = follow_rows(model, guide, training)
        store = merged_stores(model, guide)
        model, guide = unwrapped(model), unwrapped(guide)
        with isolated(seed, store=store, dtype=dtype):
            start = prepare(model, guide, training, held_out)
            if train == "guide":
                hold_model(model, guide, training, start)
            alike(here, settings, training, start)
            parameters = list(start.trained.values())
            stepper, shares = _made(optimiser, parameters, lr), Shares(parameters, here, accumulate)
            gradients = Gradients(model, guide, start, chosen, narrow)
            steps = Steps(gradients, stepper, clip, compile=compile, shares=shares)
            if here.size * accumulate > 1:
                check_parts(chosen, start, steps, training, batch_size, here.size * accumulate, seed)
            looks = _looks(model, guide, training, held_out, settings)
            passing = Pass(model, guide, training, start, steps, settings, here)
            validated = _validation(model, guide, start, held_out, settings, here)
            loop = Loop(passing, validated, start, stepper, settings, folder, looks, here)
            if on_restart(existing) == "resume":
                loop.resume()
            shown = progress and here.is_first
            with progress_bar(epochs, "fitting", "epoch", progress=shown, done=loop.epoch) as bar:
                try:
                    with held_in_evaluation(start.held), WholePlates(start.layout.whole if start.layout else ()):
                        status, message = loop.run(epochs, kl_weight, bar, told)
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
            None if run is None else Path(run),
        )
        if folder is not None:
            with undisturbed():
                write_result(folder, result, loop.weights)
    if status is FitStatus.NONFINITE and here.is_first:
        warnings.warn(message, PplvaeWarning, stacklevel=2)
    return result


def _check_numbers(least: int, /, **numbers: int) -> None:
    for name, number in numbers.items():
        if number < least:
            raise ValueError(f"`{name}` must be at least {least}, got {number}.")


def _settings(
    asked: dict[str, Any],
    training: Rows,
    held_out: Rows | None,
    objective: Objective,
    optimiser: MakeOptimiser | None,
    kl_weight: KLWeight,
    here: Ranks,
) -> dict[str, Any]:
    """All that a result depends on, as JSON."""

    def digested(rows: Rows) -> str:
        return here.of_first(digest(rows) if here.is_first else "")

    return {
        "rows": len(training),
        "binarisation": training.binarisation,
        "rows_digest": digested(training),
        "objective": objective.settings,
        "optimiser": "Adam" if optimiser is None else _name_of(optimiser),
        "kl_weight": kl_weight if isinstance(kl_weight, (int, float)) else _name_of(kl_weight),
        "validation_rows": 0 if held_out is None else len(held_out),
        "validation_digest": None if held_out is None else digested(held_out),
        **asked,
    }


def _noise(noise: str | None) -> str | None:
    if noise is not None and noise not in _NOISE:
        raise UnknownNameError("value of `noise`", noise, _NOISE)
    return noise


def _narrow(autocast: str | None, rows: Rows) -> torch.dtype | None:
    if autocast is None:
        return None
    if autocast not in _NARROW:
        raise UnknownNameError("value of `autocast`", autocast, _NARROW)
    dtype = floating_dtype(rows.tensors) or torch.get_default_dtype()
    if dtype != torch.float32:
        raise ValueError(
            f"`autocast={autocast!r}` narrows networks of float32, and the rows are {dtype}: pass `rows.float()`, or "
            "leave it out."
        )
    return _NARROW[autocast]


def _validation(
    model: Program, guide: Program, start: Start, held_out: Rows | None, settings: dict[str, Any], here: Ranks
) -> Validation | None:
    """The ELBO of held-out rows, where there are any and the pair can be scored row by row."""
    if held_out is None or start.layout is None:
        return None
    return Validation(model, guide, start.layout, held_out, settings["seed"], settings["validation_particles"], here)


def _looks(
    model: Program, guide: Program, training: Rows, held_out: Rows | None, settings: dict[str, Any]
) -> Looks | None:
    if settings["compare_every"] is None:
        return None
    parts = {"train": training} | ({} if held_out is None else {"validation": held_out})
    every, most, seed = (settings[name] for name in ("compare_every", "compare_rows", "seed"))
    return Looks(model, guide, parts, every=every, most=most, seed=seed)


def _made(optimiser: MakeOptimiser | None, parameters: list[Tensor], lr: float) -> Optimizer:
    if optimiser is None:
        return torch.optim.Adam(parameters, lr=lr, fused=True)
    made = optimiser(parameters)
    if not isinstance(made, Optimizer):
        raise TypeError(
            "`optimiser` must make a torch optimiser from a list of parameters, such as "
            f"`functools.partial(torch.optim.AdamW, lr=1e-3)`; it made {made!r}."
        )
    return made


def _name_of(function: Any) -> str:
    """A name that is the same in every process, unlike the address in most functions' repr."""
    return f"{function.__module__}.{function.__qualname__}" if hasattr(function, "__qualname__") else repr(function)
