"""How a step moves the parameters: by the optimiser, gradients clipped before, or as part of the step's graph."""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from pplvae.training.adam import adam_update, begin_adam, is_plain_adam
from pplvae.training.replays import Found

_LARGEST_COMPILED = 2**17  # parameters; of more, Adam's own fused kernel was faster than the compiler's


class Update:
    """The update of some parameters.

    Args:
        optimiser: over them.
        parameters: that are trained.
        clip: largest norm of the gradient, in nats per row, or None.
    """

    def __init__(self, optimiser: Optimizer, parameters: Sequence[Tensor], clip: float | None) -> None:
        self._optimiser, self._parameters, self._clip = optimiser, list(parameters), clip

    def __call__(self, found: Found) -> None:
        """Move the parameters, unless the loss is NaN or infinite."""
        for parameter, slope in zip(self._parameters, found.slopes, strict=True):
            parameter.grad = slope
        if self._clip is not None:
            torch.nn.utils.clip_grad_norm_(self._parameters, self._clip)
        fused = all(group.get("fused") for group in self._optimiser.param_groups)
        if found.loss.device.type == "cpu" or not fused:
            if math.isfinite(found.loss.item()):
                self._optimiser.step()
            return
        # A look at the loss would make the processor wait for the device: fused optimisers look there.
        self._optimiser.found_inf = (~found.loss.isfinite()).to(torch.float32)  # type: ignore[attr-defined]
        self._optimiser.step()

    @property
    def can_be_compiled(self) -> bool:
        """Whether the update may go through the compiler with the step."""
        size = sum(parameter.numel() for parameter in self._parameters)
        return is_plain_adam(self._optimiser) and size <= _LARGEST_COMPILED

    def begin(self) -> None:
        """Make the optimiser's state, which a graph must find."""
        begin_adam(self._optimiser, self._parameters)

    def in_graph(self, found: Found) -> None:
        """The same update as operations of a graph."""
        adam_update(self._optimiser, self._parameters, found.slopes, found.loss.isfinite(), self._clip)

    def slots(self) -> list[tuple[Tensor, Tensor]]:
        """The tensors of the optimiser's state, each with a copy."""
        slots = [value for state in self._optimiser.state.values() for value in state.values()]
        return [(slot, slot.clone()) for slot in slots if isinstance(slot, Tensor)]
