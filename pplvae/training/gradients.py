"""Loss and gradient of some rows, by the programs as they are written or by Pyro's own code."""

import torch
from torch import Tensor

from pplvae.isolate import generators_kept
from pplvae.objectives import Objective
from pplvae.programs.batch import Batch
from pplvae.programs.reading import Program
from pplvae.training.narrow import networks_in
from pplvae.training.preparation import Start
from pplvae.training.replays import Found


class Gradients:
    """What the steps of a fit differentiate.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        start: what is trained; see `Start`.
        objective: what is maximised.
        narrow: floats in which networks are run, or None.

    Attributes:
        start: see `Start`.
        parameters: that are trained.
    """

    def __init__(
        self, model: Program, guide: Program, start: Start, objective: Objective, narrow: torch.dtype | None = None
    ) -> None:
        self._model, self._guide, self._objective, self._narrow = model, guide, objective, narrow
        self.start, self.parameters = start, list(start.trained.values())

    def reason_for_pyro(self, batch: Batch) -> str:
        """Why Pyro's own code has to find them, in a clause; "" where that is not so."""
        kept = copies(self.start.weights.buffers)
        with generators_kept():
            reason = self._objective.reason_for_pyro(self._model, self._guide, self.start.layout, batch)
        write(self.start.weights.buffers, kept)
        return reason

    def by_pyro(self, batch: Batch, kl_weight: float | Tensor) -> Found:
        """Loss and gradient, as means over rows, by Pyro's own code."""
        given = self._model, self._guide, self.start.layout, batch
        with networks_in(self._narrow, self._model, self._guide):
            loss = self._objective.backward(*given, self.parameters, self._scale(batch), float(kl_weight))
        return Found(loss, [parameter.grad for parameter in self.parameters])

    def as_written(self, batch: Batch, kl_weight: float | Tensor) -> Found:
        """The same, by the programs as they are written."""
        given = self._model, self._guide, self.start.layout, batch
        with networks_in(self._narrow, self._model, self._guide):
            loss = self._objective.loss(*given, self._scale(batch), kl_weight)
        return Found(loss.detach(), list(torch.autograd.grad(loss, self.parameters, allow_unused=True)))

    def _scale(self, batch: Batch) -> float:
        return 1 / (self.start.plate_size or len(batch))


def copies(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies of some tensors."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def write(tensors: dict[str, Tensor], values: dict[str, Tensor]) -> None:
    """Write numbers into tensors."""
    with torch.no_grad():
        for name, tensor in tensors.items():
            tensor.copy_(values[name])
