"""ELBO estimators, Pyro's own, behind one way to call them; and the weight of the KL term over time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pyro
from pyro import infer
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pplvae.errors import UnknownNameError
from pplvae.isolate import root_modules

KLWeight = float | Callable[[float], float]

OBJECTIVES: dict[str, Callable[[], Any]] = {
    "Trace_ELBO": infer.Trace_ELBO,
    "TraceMeanField_ELBO": infer.TraceMeanField_ELBO,
}


class Objective:
    """A Pyro ELBO, by name or as an object, called in one way whatever it offers.

    Args:
        objective: "Trace_ELBO" (draws only), "TraceMeanField_ELBO" (closed-form KL where there is one), or any object
            with Pyro's `loss_and_grads`.

    Raises:
        UnknownNameError: an unknown name.
        TypeError: an object that is no Pyro objective.
    """

    def __init__(self, objective: Any) -> None:
        if isinstance(objective, str):
            if objective not in OBJECTIVES:
                raise UnknownNameError("objective", objective, OBJECTIVES)
            objective = OBJECTIVES[objective]()
        elif not hasattr(objective, "loss_and_grads"):
            raise TypeError(
                f"`objective` must be one of {', '.join(OBJECTIVES)} or a Pyro ELBO object such as "
                f"`pyro.infer.Trace_ELBO(num_particles=5)`, got {objective!r}."
            )
        self._elbo = objective
        options = {key: value for key, value in vars(objective).items() if isinstance(value, int | float | str)}
        self.settings = ", ".join([type(objective).__name__, *(f"{key}={value}" for key, value in options.items())])

    def backward(
        self, model: Any, guide: Any, tensors: Sequence[Tensor], parameters: Sequence[Tensor], scale: float
    ) -> float:
        """Set every parameter's `.grad` to the gradient of `scale` times the negative objective.

        Returns:
            `scale` times the negative objective, in nats.
        """
        for parameter in parameters:
            parameter.grad = None
        if hasattr(self._elbo, "differentiable_loss"):
            loss = scale * self._elbo.differentiable_loss(model, guide, *tensors)
            loss.backward()
            return float(loss.detach())
        # RenyiELBO, TraceGraph_ELBO and ReweightedWakeSleep have no differentiable loss. They differentiate only where
        # a parameter is registered with Pyro, which a plain nn.Module's is not.
        loss = self._elbo.loss_and_grads(_registered(model, "model"), _registered(guide, "guide"), *tensors)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        return scale * float(loss)


class ScaleLatents(Messenger):
    """Weight the KL term: scale log p(h) and log q(h) alike.

    Scaling the model's site alone would be ignored by `TraceMeanField_ELBO`, which takes the guide's scale, and would
    leave `Trace_ELBO` with an objective that is no ELBO of anything.
    """

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = weight

    def _pyro_sample(self, msg: Any) -> None:
        if self.weight != 1.0 and not msg["is_observed"] and not site_is_subsample(msg):
            msg["scale"] = msg["scale"] * self.weight


@dataclass(frozen=True)
class warm_up:
    """A KL weight that rises linearly from 0 to 1.

    Args:
        epochs: when it reaches 1, counted in passes over the rows.

    >>> weight = warm_up(10)
    >>> weight(0.0), weight(5.0), weight(20.0)
    (0.0, 0.5, 1.0)
    """

    epochs: float

    def __call__(self, epoch: float) -> float:
        """The weight at an epoch."""
        return min(1.0, epoch / self.epochs)


def _registered(program: Any, name: str) -> Any:
    """The program, registering the modules that it is, or is a method of, with Pyro."""
    roots = root_modules(program)

    def registered(*args: Any) -> Any:
        for i, root in enumerate(roots):
            pyro.module(f"{name}_{i}", root)
        return program(*args)

    return registered
