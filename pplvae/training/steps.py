"""A training step of any program: as it is written, captured as a graph, or compiled whole.

The plain step runs the programs. The fast ones replay what the plain one did and are held against it: when they are
made, and at steps that become rarer, up to one in a hundred. Where they differ, the plain step takes over.
"""

import math
import time
import warnings
from enum import Enum
from typing import Any

import pyro
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from pplvae.errors import CaptureError, PplvaeWarning
from pplvae.isolate import generators_kept, reseed, reseed_beside_torch, validation
from pplvae.programs.batch import Batch
from pplvae.programs.capture import clause
from pplvae.programs.price import Counting, price
from pplvae.training.gradients import Gradients, copies, write
from pplvae.training.replays import Found, Replay, differs, replay_of
from pplvae.training.shares import Shares
from pplvae.training.update import Update

_PLAIN_FIRST = 50  # steps of one kind before it is captured: by then their time is known
_LONGEST_UNCHECKED = 100
_SHARE = 0.1  # of the time of the plain steps to come, which a capture may take


class How(Enum):
    """What runs the steps of a fit."""

    PYRO = "Pyro's own code"
    PLAIN = "plain"
    CAPTURED = "captured"
    COMPILED = "compiled"


class Steps:
    """The training steps of one fit.

    Args:
        gradients: of what is trained.
        optimiser: over the parameters that are trained.
        clip: largest norm of the gradient, in nats per row, or None.
        compile: put loss and gradients, and the update of a small net by Adam, through torch's compiler.
        shares: puts the gradient of a batch together from those of its parts; by default it has but one.
    """

    def __init__(
        self,
        gradients: Gradients,
        optimiser: Optimizer,
        clip: float | None = None,
        *,
        compile: bool = False,
        shares: Shares | None = None,
    ) -> None:
        self._gradients, self._start, self._compile = gradients, gradients.start, compile
        self._update = Update(optimiser, gradients.parameters, clip)
        self._shares = shares or Shares(gradients.parameters)
        self._replays: dict[Any, Replay] = {}
        self._begun, self._seen = False, dict[Any, int]()
        self._plain_seconds: dict[Any, float] = {}  # of the fastest step of a kind
        self._how, self._reason = How.PLAIN, f"there were fewer than {_PLAIN_FIRST} steps of one kind"
        self._replayed = True  # whether a replay is to be tried

    def __str__(self) -> str:
        return self._how.value + (f": {self._reason}" if self._reason else "")

    def __call__(
        self, batch: Batch, kl_weight: float | Tensor = 1.0, to_come: float = math.inf, of: int | None = None
    ) -> Float[Tensor, ""]:
        """Take a step, unless the loss is NaN or infinite.

        Args:
            batch: the rows.
            kl_weight: of the KL term; a tensor if it changes from step to step.
            to_come: how many steps of this kind are still to be taken: a capture must be worth its time.
            of: how many rows the batch has on all ranks together; by default these are all.

        Returns:
            The loss before the step, in nats per row.
        """
        if not self._begun:
            self._begin(batch)
        found, moved = self._shares(lambda some: self._found(some, kl_weight, to_come), batch, of or len(batch))
        if not moved:
            self._update(found)
        return found.loss

    def looked_at(self, batch: Batch, seed: int) -> Found:
        """What a step would find on some rows, with such noise beside that of rows; nothing moves."""
        if not self._begun:
            self._begin(batch)
        kept = self._state()
        with generators_kept():
            reseed(seed)
            found = (self._gradients.by_pyro if self._how is How.PYRO else self._gradients.as_written)(batch, 1.0)
        self._restore(kept)
        return found

    def _found(self, batch: Batch, kl_weight: float | Tensor, to_come: float) -> tuple[Found, bool]:
        """Loss and gradient of some rows, and whether the parameters have been moved already."""
        key = self._kind(batch, kl_weight)
        self._seen[key] = self._seen.get(key, 0) + 1
        first = self._seen[key] == 1
        if self._how is How.PYRO:
            with validation(first):
                return self._gradients.by_pyro(batch, kl_weight), False
        whole = self._compile and key == next(iter(self._seen))  # a last, smaller batch is not worth a compiler's time
        if self._replayed and key not in self._replays and (whole or self._seen[key] == _PLAIN_FIRST + 1):
            seconds = math.inf if whole else _SHARE * to_come * self._plain_seconds[key]
            if seconds == math.inf or not self._too_dear(batch, kl_weight, seconds):
                self._try_to_replay(key, batch, kl_weight, whole, seconds)
        replayed = self._replay(self._replays[key], batch, kl_weight) if key in self._replays else None
        if replayed is not None:
            return replayed
        began = time.perf_counter()
        with validation(first):  # the first step of a kind shows whether shapes and supports are right
            found = self._gradients.as_written(batch, kl_weight)
        if not first:
            self._plain_seconds[key] = min(self._plain_seconds.get(key, math.inf), time.perf_counter() - began)
        return found, False

    def _begin(self, batch: Batch) -> None:
        self._begun, reason = True, self._gradients.reason_for_pyro(batch)
        if reason:
            self._how, self._reason = How.PYRO, reason

    def _kind(self, batch: Batch, kl_weight: float | Tensor) -> Any:
        """What two batches must have in common for one captured step to serve both."""
        shapes = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in batch.tensors)
        modes = tuple(module.training for module in self._start.modules)
        weight = None if isinstance(kl_weight, Tensor) else kl_weight
        return shapes, modes, weight, len(pyro.get_param_store())

    # Fast steps

    def _try_to_replay(self, key: Any, batch: Batch, kl_weight: float | Tensor, whole: bool, seconds: float) -> None:
        updates = whole and self._shares.is_whole and self._update.can_be_compiled
        if updates:
            self._update.begin()
        kept = self._state()
        try:
            with generators_kept(), validation(False):
                update = self._update.in_graph if updates else None
                replay = replay_of(self._gradients.as_written, update, batch, kl_weight, whole, seconds)
                replay.run(batch, kl_weight)
            self._replays[key] = replay
            self._how, self._reason = How.COMPILED if whole or self._how is How.COMPILED else How.CAPTURED, ""
        except CaptureError as error:
            self._give_up(str(error))
        except Exception as error:  # a kernel that cannot be run again, such as that of an LSTM on a CPU
            self._give_up(f"replayed, the step raised {clause(error)}")
        self._restore(kept)

    def _too_dear(self, batch: Batch, kl_weight: float | Tensor, seconds: float) -> bool:
        """Whether a capture would take longer than it may."""
        kept = self._state()
        with generators_kept(), validation(False), Counting() as counting:
            self._gradients.as_written(batch, kl_weight)
        self._restore(kept)
        dear = price(counting.operations) > seconds
        if dear and not self._replays:
            self._reason = f"to capture its {counting.operations} operations would take too long for so few steps"
        return dear

    def _give_up(self, reason: str) -> None:
        """Try no more replays; steps of a kind that has one keep it."""
        self._replayed, self._reason = False, reason
        if not self._replays:
            self._how = How.PLAIN
        if self._compile:
            warnings.warn(f"The step is not compiled: {reason}.", PplvaeWarning, stacklevel=2)

    def _replay(self, replay: Replay, batch: Batch, kl_weight: float | Tensor) -> tuple[Found, bool] | None:
        """As `_found`, by a fast step; None if it failed, and the plain step is still to be taken."""
        replay.steps += 1
        # After 1, 2, 4, ... steps, then every hundredth.
        if replay.steps < replay.checked + min(max(replay.checked, 1), _LONGEST_UNCHECKED):
            found = self._run(replay, batch, kl_weight)
            return None if found is None else (found, replay.updates)
        before = self._state()
        with generators_kept(), validation(replay.steps == 1):
            reseed_beside_torch(replay.steps)  # else NumPy's numbers could repeat those of the capture
            plain = self._gradients.as_written(batch, kl_weight)
        buffers = copies(self._start.weights.buffers)
        self._restore(before)
        found = self._run(replay, batch, kl_weight)
        if found is None:
            self._restore(before)
            return None
        odd = differs(found, plain, replay.tolerance)
        unchecked, replay.checked = replay.steps - replay.checked - 1, replay.steps
        if odd:
            self._take_over(odd, unchecked)
            self._restore(before)
            write(self._start.weights.buffers, buffers)
        return (plain, False) if odd else (found, replay.updates)

    def _run(self, replay: Replay, batch: Batch, kl_weight: float | Tensor) -> Found | None:
        try:
            return replay.run(batch, kl_weight)
        except Exception as error:
            self._replays.clear()
            self._give_up(f"replayed, the step raised {clause(error)}")
            return None

    def _take_over(self, odd: str, unchecked: int) -> None:
        self._replayed = False
        self._replays.clear()
        self._how = How.PLAIN
        self._reason = f"replayed, the step gave another {odd} than the program"
        warnings.warn(
            f"Replayed, the training step gave another {odd} than the program, perhaps for up to {unchecked} steps "
            "already: it depends on something that is no tensor, such as a Python number that changes or NumPy's "
            "random numbers. The fit goes on with the program as it is written, slower. A tensor can be replayed.",
            PplvaeWarning,
            stacklevel=2,
        )

    def _state(self) -> tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]:
        return self._start.weights.copy(), self._update.slots()

    def _restore(self, state: tuple[dict[str, Tensor], list[tuple[Tensor, Tensor]]]) -> None:
        weights, slots = state
        self._start.weights.restore(weights)
        for slot, value in slots:
            slot.copy_(value)
