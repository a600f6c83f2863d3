"""The one training loop: epochs, validation, checkpoints. What a fit is asked for is in `fit`."""

import time
import warnings
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any

import torch
import xarray as xr
from torch import Tensor
from torch.optim import Optimizer

from pplvae.data import Rows
from pplvae.errors import ProgramError
from pplvae.isolate import reseed, undisturbed
from pplvae.objectives import KLWeight
from pplvae.programs.batch import Batch
from pplvae.programs.failures import in_users_words
from pplvae.programs.reading import Program
from pplvae.run_folders import RunFolder
from pplvae.training.breakdown import first_not_finite
from pplvae.training.checkpoint import Checkpoint, read_checkpoint
from pplvae.training.history import COLUMNS, History, OnEpoch
from pplvae.training.looks import Look, Looks
from pplvae.training.preparation import Start
from pplvae.training.steps import Steps
from pplvae.training.validation import Validation

_DEVICE_STEPS_UNSEEN = 50  # a look at a loss makes the processor wait for the device


class FitStatus(Enum):
    """How a fit ended."""

    COMPLETED = "All epochs were run."
    STOPPED_EARLY = "The validation ELBO has not risen for `patience` epochs."
    STOPPED = "A function of `on_epoch` returned True."
    NONFINITE = "The loss became NaN or infinite."
    INTERRUPTED = "Interrupted."


class Loop:
    """A fit between two epochs: all of its state is in the checkpoint.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        train: the rows.
        held_out: rows for validation, or None.
        start: see `Start`.
        steps: that it takes.
        optimiser: that they move, for its state.
        settings: everything that the result depends on, as JSON; a checkpoint is taken up only under the same.
        run: the run folder, or None.
        looks: at the gap, or None.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        train: Rows,
        held_out: Rows | None,
        start: Start,
        steps: Steps,
        optimiser: Optimizer,
        settings: dict[str, Any],
        run: RunFolder | None,
        looks: Looks | None = None,
    ) -> None:
        self._model, self._guide, self._train = model, guide, train
        self._start, self._steps, self._optimiser = start, steps, optimiser
        self._settings, self._run, self._looks = settings, run, looks
        self.weights = start.weights
        self.epoch = self._epochs = 0
        self._patience: int | None = settings["patience"]
        self.best_epoch = -1
        self._best_value = -float("inf")
        self._best = self.weights.copy()
        self._history = History([*COLUMNS, *(looks.names if looks is not None else ())])
        self._validation = None
        if held_out is not None and start.layout is not None:
            of = settings["seed"], settings["validation_particles"]
            self._validation = Validation(model, guide, start.layout, held_out, *of)

    def run(
        self, epochs: int, kl_weight: KLWeight, bar: Any, on_epoch: Sequence[OnEpoch] = ()
    ) -> tuple[FitStatus, str]:
        """Run epochs until something ends the fit.

        Args:
            epochs: at most, those before a checkpoint included.
            kl_weight: a number, or a function of the epoch.
            bar: shows how far it is.
            on_epoch: told of each epoch once its checkpoint is written.
        """
        self._epochs = epochs
        # Pyro warns of a loss that is NaN; here it ends the fit, with a diagnosis.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Encountered NaN")
            return self._run_epochs(epochs, kl_weight, bar, on_epoch)

    def _run_epochs(
        self, epochs: int, kl_weight: KLWeight, bar: Any, on_epoch: Sequence[OnEpoch]
    ) -> tuple[FitStatus, str]:
        while self.epoch < epochs:
            if self._patience is not None and self.epoch - 1 - self.best_epoch >= self._patience:
                best = f"Best: epoch {self.best_epoch}, {self._best_value:.3f} nats per row."
                return FitStatus.STOPPED_EARLY, f"{FitStatus.STOPPED_EARLY.value} {best}"
            if self.epoch and self._looks is not None and not self._looks.is_due(self.epoch - 1):
                self._history.forget(self._looks.names)  # one at the end of an earlier call, which was not the end
            trouble = self._run_epoch(kl_weight, bar)
            if trouble:
                return FitStatus.NONFINITE, trouble
            if self._run is not None:
                self._write_checkpoint(self._run)
            # A logger may return anything: only True itself is a wish.
            if any([tell(self.epoch - 1, self._history.last()) is True for tell in on_epoch]):
                return FitStatus.STOPPED, f"{FitStatus.STOPPED.value} That was after epoch {self.epoch - 1}."
        return FitStatus.COMPLETED, FitStatus.COMPLETED.value

    def _run_epoch(self, kl_weight: KLWeight, bar: Any) -> str | None:
        """One pass over the rows; a sentence if the loss stops being finite."""
        began = time.perf_counter()
        seed, size = self._settings["seed"], self._settings["batch_size"]
        # All randomness of an epoch follows from the seed and its number: that makes resuming exact.
        reseed(seed, self.epoch)
        order = torch.randperm(len(self._train))
        rows = self._train.redrawn(seed, self.epoch)
        tensors = [tensor[order.to(tensor.device)] for tensor in rows.tensors]
        positions = order.to(tensors[0].device)
        losses: list[Tensor] = []
        weight, looked_at = 1.0, 0
        look = 1 if positions.device.type == "cpu" else _DEVICE_STEPS_UNSEEN
        starts = range(0, len(order), size)
        for first in starts:
            weight = _at(kl_weight, self.epoch + first / len(order))
            some = slice(first, first + size)
            index, batch = positions[some], tuple(tensor[some] for tensor in tensors)
            try:
                with in_users_words("objective", batch):
                    # torch's own noise needs no keys
                    here = Batch.without_keys(batch, index), _weight(kl_weight, weight, self._start)
                    losses.append(self._steps(*here, _alike(first, size, len(order), self._epochs - self.epoch)))
            except ProgramError as error:
                trouble = self._diagnose(len(losses), index, batch, error)
                if not trouble:
                    raise
                return trouble
            if len(losses) - looked_at >= look or len(losses) == len(starts):
                bad = torch.nonzero(~torch.stack(losses[looked_at:]).isfinite()).flatten().tolist()
                if bad:
                    step = looked_at + bad[0]
                    some = slice(starts[step], starts[step] + size)
                    return self._diagnose(step, order[some], [tensor[some] for tensor in tensors])
                looked_at = len(losses)
        counts = torch.tensor([min(size, len(order) - first) for first in starts])
        total = float((torch.stack(losses).cpu().to(torch.float64) * counts).sum())
        self._end_epoch(-total / len(order), weight, time.perf_counter() - began, bar)
        return None

    def _end_epoch(self, objective: float, weight: float, seconds: float, bar: Any) -> None:
        elbo = self._validation() if self._validation is not None else None
        value = float(elbo.mean()) if elbo is not None else float(self.epoch)  # without validation the last is best
        row = {
            "objective": objective,
            "elbo_validation": value if elbo is not None else float("nan"),
            "elbo_validation_stderr": _error_of_mean(elbo) if elbo is not None else float("nan"),
            "kl_weight": weight,
            "seconds": seconds,
        }
        look = self._look(self.epoch if value > self._best_value else self.best_epoch)
        with undisturbed():  # Ctrl-C within it would leave a part of an epoch
            if value > self._best_value:
                self.best_epoch, self._best_value, self._best = self.epoch, value, self.weights.copy()
            self._history.add(row | look.line)
            if self._looks is not None and self._looks.is_due(self.epoch):
                self._looks.own = look.own
            self.epoch += 1
        bar.update()
        bar.set_postfix({"objective": f"{objective:.2f}"} | ({} if elbo is None else {"validation": f"{value:.2f}"}))

    def _look(self, best_epoch: int) -> Look:
        """A look at the gap, where it is time for one or the fit ends with this epoch."""
        idle = self._patience is not None and self.epoch - best_epoch >= self._patience
        is_last = idle or self.epoch + 1 == self._epochs
        if self._looks is None or not (is_last or self._looks.is_due(self.epoch)):
            return Look()
        return self._looks()

    def _diagnose(self, step: int, index: Tensor, batch: Sequence[Tensor], error: Exception | None = None) -> str:
        """Say where a loss that is not finite came from; say nothing if a step raised for another reason."""
        when = f"The loss became NaN or infinite in epoch {self.epoch}, step {step}."
        found = first_not_finite(self._model, self._guide, self._start, batch, index, self._train.ids, error)
        if found or error is not None:
            return found and f"{when} {found}"
        return f"{when} Every log-probability of the same batch was finite on a second draw: lower `lr`, or set `clip`."

    def keep_best(self) -> None:
        """Put the weights of the best epoch into the programs (without validation, those of the last whole one)."""
        self.weights.restore(self._best)

    def history(self) -> xr.Dataset:
        """The columns so far."""
        return self._history.dataset()

    def _write_checkpoint(self, run: RunFolder) -> None:
        state = Checkpoint(
            self.weights.copy(),
            self._best,
            self._history.columns,
            self.epoch,
            self.best_epoch,
            self._best_value,
            self._optimiser.state_dict(),
            self._settings,
            {} if self._looks is None else self._looks.tensors(),
        )
        run.keep(state.tensors(), state.content())

    def resume(self) -> None:
        """Take up the checkpoint of the run folder, if there is one."""
        if self._run is None or not self._run.checkpoint.exists():
            return
        found = read_checkpoint(
            self._run.checkpoint, self._settings, self.weights, self._optimiser, self._history.names
        )
        if self._looks is not None:
            self._looks.take_up(found.looks)
        self._run.take_up()
        self.weights.restore(found.best)
        self._best = self.weights.copy()
        self.weights.restore(found.now)
        self._history.columns = found.columns
        self.epoch, self.best_epoch, self._best_value = found.epoch, found.best_epoch, found.best_value
        self._optimiser.load_state_dict(found.optimiser)


def _error_of_mean(values: Tensor) -> float:
    """The standard error of a mean over rows; NaN for one row, which says nothing of others."""
    return float(values.std() / len(values) ** 0.5) if len(values) > 1 else float("nan")


def _alike(first: int, size: int, rows: int, epochs: int) -> int:
    """How many batches of the same number of rows there are from the one at `first` to the end of so many epochs."""
    whole = rows // size
    return epochs if first >= whole * size else whole * epochs - first // size


def _weight(kl_weight: KLWeight, now: float, start: Start) -> float | Tensor:
    """The KL weight of a step; a tensor if it changes, since a number would be captured as it is."""
    if not isinstance(kl_weight, Callable):
        return now
    return next(iter(start.trained.values())).detach().new_full((), now)


def _at(kl_weight: KLWeight, epoch: float) -> float:
    return float(kl_weight(epoch)) if isinstance(kl_weight, Callable) else float(kl_weight)
