"""The one training loop: epochs, validation, checkpoints. What a fit is asked for is in `fit`."""

import time
import warnings
from collections.abc import Sequence
from enum import Enum
from typing import Any

import xarray as xr
from torch.optim import Optimizer

from pplvae.isolate import undisturbed
from pplvae.objectives import KLWeight
from pplvae.ranks.group import Ranks
from pplvae.run_folders import RunFolder
from pplvae.training.checkpoint import Checkpoint, read_checkpoint
from pplvae.training.history import COLUMNS, History, OnEpoch
from pplvae.training.looks import Look, Looks
from pplvae.training.passing import Pass
from pplvae.training.preparation import Start
from pplvae.training.validation import Validation

_DEVICE_STEPS_UNSEEN = 50  # a look at a loss makes the processor wait for the device
_STEPS_UNCOMPARED = 100  # after which the ranks' parameters are compared


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
        passing: passes over the rows.
        validation: of held-out rows, or None.
        start: see `Start`.
        optimiser: that the steps move, for its state.
        settings: everything that the result depends on, as JSON; a checkpoint is taken up only under the same.
        run: the run folder, or None: only rank 0 has one.
        looks: at the gap, or None.
        ranks: of the job.
    """

    def __init__(
        self,
        passing: Pass,
        validation: Validation | None,
        start: Start,
        optimiser: Optimizer,
        settings: dict[str, Any],
        run: RunFolder | None,
        looks: Looks | None = None,
        ranks: Ranks | None = None,
    ) -> None:
        self._pass, self._validation, self._optimiser = passing, validation, optimiser
        self._settings, self._run, self._looks, self._ranks = settings, run, looks, ranks or Ranks()
        self.weights = start.weights
        self.epoch = self._epochs = 0
        self._patience: int | None = settings["patience"]
        self.best_epoch = -1
        self._best_value = -float("inf")
        self._best = self.weights.copy()
        self._history = History([*COLUMNS, *(looks.names if looks is not None else ())])

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
            if self._ranks.first_alone(lambda: self._told(on_epoch)):
                return FitStatus.STOPPED, f"{FitStatus.STOPPED.value} That was after epoch {self.epoch - 1}."
        return FitStatus.COMPLETED, FitStatus.COMPLETED.value

    def _told(self, on_epoch: Sequence[OnEpoch]) -> bool:
        """Write the checkpoint and tell of the epoch; whether somebody wishes the fit to end."""
        if self._run is not None:
            self._write_checkpoint(self._run)
        # A logger may return anything: only True itself is a wish.
        return any([tell(self.epoch - 1, self._history.last()) is True for tell in on_epoch])

    def _run_epoch(self, kl_weight: KLWeight, bar: Any) -> str:
        """One pass over the rows; a sentence if the loss stops being finite."""
        began = time.perf_counter()
        passed = self._pass(self.epoch, kl_weight, self._epochs - self.epoch)
        if not passed.trouble:
            self._end_epoch(passed.objective, passed.kl_weight, time.perf_counter() - began, bar)
        return passed.trouble

    def _end_epoch(self, objective: float, weight: float, seconds: float, bar: Any) -> None:
        elbo = stderr = float("nan")
        if self._validation is not None:
            elbo, stderr = self._ranks.of_first(self._validation.mean_and_stderr())
        value = elbo if self._validation is not None else float(self.epoch)  # without validation the last is best
        row = {"objective": objective, "elbo_validation": elbo, "elbo_validation_stderr": stderr}
        row |= {"kl_weight": weight, "seconds": seconds}
        look = self._look(self.epoch if value > self._best_value else self.best_epoch)
        with undisturbed():  # Ctrl-C within it would leave a part of an epoch
            if value > self._best_value:
                self.best_epoch, self._best_value, self._best = self.epoch, value, self.weights.copy()
            self._history.add(row | look.line)
            if self._looks is not None and self._looks.is_due(self.epoch):
                self._looks.own = look.own
            self.epoch += 1
        bar.update()
        validated = {} if self._validation is None else {"validation": f"{value:.2f}"}
        bar.set_postfix({"objective": f"{objective:.2f}"} | validated)

    def _look(self, best_epoch: int) -> Look:
        """A look at the gap, where it is time for one or the fit ends with this epoch."""
        idle = self._patience is not None and self.epoch - best_epoch >= self._patience
        is_last = idle or self.epoch + 1 == self._epochs
        if self._looks is None or not (is_last or self._looks.is_due(self.epoch)):
            return Look()
        return self._looks()

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
        """Take up the checkpoint of the run folder, if there is one; rank 0 reads it for all."""
        found = self._ranks.first_alone(self._checkpoint)
        if found is None:
            return
        if self._looks is not None:
            self._looks.take_up(found.looks)
        if self._run is not None:
            self._run.take_up()
        self.weights.restore(found.best)
        self._best = self.weights.copy()
        self.weights.restore(found.now)
        self._history.columns = found.columns
        self.epoch, self.best_epoch, self._best_value = found.epoch, found.best_epoch, found.best_value
        self._optimiser.load_state_dict(found.optimiser)

    def _checkpoint(self) -> Checkpoint | None:
        if self._run is None or not self._run.checkpoint.exists():
            return None
        return read_checkpoint(self._run.checkpoint, self._settings, self.weights, self._optimiser, self._history.names)
