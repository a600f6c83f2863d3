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
import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from pplvae.errors import CaptureError, PplvaeWarning
from pplvae.isolate import generators_kept, reseed_beside_torch, validation
from pplvae.objectives import Objective
from pplvae.programs.batch import Batch
from pplvae.programs.capture import clause
from pplvae.programs.price import Counting, price
from pplvae.programs.reading import Program
from pplvae.training.preparation import Start
from pplvae.training.replays import Found, Replay, differs, replay_of
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
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        start: what is trained; see `Start`.
        objective: what is maximised.
        optimiser: over the parameters that are trained.
        clip: largest norm of the gradient, in nats per row, or None.
        compile: put loss and gradients, and the update of a small net by Adam, through torch's compiler.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        start: Start,
        objective: Objective,
        optimiser: Optimizer,
        clip: float | None = None,
        *,
        compile: bool = False,
    ) -> None:
        self._model, self._guide, self._start = model, guide, start
        self._objective, self._parameters = objective, list(start.trained.values())
        self._update = Update(optimiser, self._parameters, clip)
        self._compile = compile
        self._replays: dict[Any, Replay] = {}
        self._seen: dict[Any, int] = {}
        self._plain_seconds: dict[Any, float] = {}  # of the fastest step of a kind
        self._how, self._reason = How.PLAIN, f"there were fewer than {_PLAIN_FIRST} steps of one kind"
        self._replayed = True  # whether a replay is to be tried

    def __str__(self) -> str:
        return self._how.value + (f": {self._reason}" if self._reason else "")

    def __call__(self, batch: Batch, kl_weight: float | Tensor = 1.0, to_come: float = math.inf) -> Float[Tensor, ""]:
        """Take a step, unless the loss is NaN or infinite.

        Args:
            batch: the rows.
            kl_weight: of the KL term; a tensor if it changes from step to step.
            to_come: how many steps of this kind are still to be taken: a capture must be worth its time.

        Returns:
            The loss before the step, in nats per row.
        """
        if not self._seen:
            self._begin(batch)
        key = self._kind(batch, kl_weight)
        self._seen[key] = self._seen.get(key, 0) + 1
        first = self._seen[key] == 1
        if self._how is How.PYRO:
            with validation(first):
                return self._pyros(batch, kl_weight)
        whole = self._compile and key == next(iter(self._seen))  # a last, smaller batch is not worth a compiler's time
        if self._replayed and key not in self._replays and (whole or self._seen[key] == _PLAIN_FIRST + 1):
            seconds = math.inf if whole else _SHARE * to_come * self._plain_seconds[key]
            if seconds == math.inf or not self._too_dear(batch, kl_weight, seconds):
                self._try_to_replay(key, batch, kl_weight, whole, seconds)
        loss = self._replay(self._replays[key], batch, kl_weight) if key in self._replays else None
        if loss is not None:
            return loss
        began = time.perf_counter()
        with validation(first):  # the first step of a kind shows whether shapes and supports are right
            found = self._plain(batch, kl_weight)
        self._update(found)
        if not first:
            self._plain_seconds[key] = min(self._plain_seconds.get(key, math.inf), time.perf_counter() - began)
        return found.loss

    def _begin(self, batch: Batch) -> None:
        kept = _copies(self._start.weights.buffers)
        with generators_kept():
            reason = self._objective.reason_for_pyro(self._model, self._guide, self._start.layout, batch)
        _write(self._start.weights.buffers, kept)
        if reason:
            self._how, self._reason = How.PYRO, reason

    def _kind(self, batch: Batch, kl_weight: float | Tensor) -> Any:
        """What two batches must have in common for one captured step to serve both."""
        shapes = tuple((tensor.shape, tensor.stride(), tensor.dtype) for tensor in batch.tensors)
        modes = tuple(module.training for module in self._start.modules)
        weight = None if isinstance(kl_weight, Tensor) else kl_weight
        return shapes, modes, weight, len(pyro.get_param_store())

    def _scale(self, batch: Batch) -> float:
        return 1 / (self._start.plate_size or len(batch))

    def _pyros(self, batch: Batch, kl_weight: float | Tensor) -> Tensor:
        given = self._model, self._guide, self._start.layout, batch
        loss = self._objective.backward(*given, self._parameters, self._scale(batch), float(kl_weight))
        self._update(Found(loss, [parameter.grad for parameter in self._parameters]))
        return loss

    def _plain(self, batch: Batch, kl_weight: float | Tensor) -> Found:
        layout = self._start.layout
        loss = self._objective.loss(self._model, self._guide, layout, batch, self._scale(batch), kl_weight)
        return Found(loss.detach(), list(torch.autograd.grad(loss, self._parameters, allow_unused=True)))

    # Fast steps

    def _try_to_replay(self, key: Any, batch: Batch, kl_weight: float | Tensor, whole: bool, seconds: float) -> None:
        updates = whole and self._update.can_be_compiled
        if updates:
            self._update.begin()
        kept = self._state()
        try:
            with generators_kept(), validation(False):
                update = self._update.in_graph if updates else None
                replay = replay_of(self._plain, update, batch, kl_weight, whole, seconds)
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
            self._plain(batch, kl_weight)
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

    def _replay(self, replay: Replay, batch: Batch, kl_weight: float | Tensor) -> Tensor | None:
        """Take a fast step and return its loss; None if it failed, and the plain step is still to be taken."""
        replay.steps += 1
        # After 1, 2, 4, ... steps, then every hundredth.
        if replay.steps < replay.checked + min(max(replay.checked, 1), _LONGEST_UNCHECKED):
            found = self._run(replay, batch, kl_weight)
            if found is not None and not replay.updates:
                self._update(found)
            return None if found is None else found.loss
        before = self._state()
        with generators_kept(), validation(replay.steps == 1):
            reseed_beside_torch(replay.steps)  # else NumPy's numbers could repeat those of the capture
            plain = self._plain(batch, kl_weight)
        buffers = _copies(self._start.weights.buffers)
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
            _write(self._start.weights.buffers, buffers)
        if odd or not replay.updates:
            self._update(plain if odd else found)
        return plain.loss if odd else found.loss

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


def _copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def _write(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])
