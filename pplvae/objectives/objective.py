"""What is maximised, by name or as an object, called in one way whatever it offers."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol, runtime_checkable

import pyro
import torch
from jaxtyping import Float
from pyro import infer
from torch import Tensor

from pplvae.errors import ProgramError, RowwiseError, UnknownNameError
from pplvae.isolate import root_modules
from pplvae.objectives.draws import Draws, draw
from pplvae.objectives.entropy import EntropyELBO
from pplvae.objectives.free_bits import FreeBits
from pplvae.objectives.importance import IWAE, RenyiELBO
from pplvae.objectives.info import InfoVAE
from pplvae.objectives.kl_weight import ScaleLatents
from pplvae.objectives.path import DReG, StickingTheLanding
from pplvae.objectives.pyros import check_suits, reason_against_parts, taken
from pplvae.objectives.score import ScoreFunction
from pplvae.objectives.summed import negative_elbo, reason_against
from pplvae.programs.batch import Batch
from pplvae.programs.keyed import noise_of_step
from pplvae.programs.reading import Layout, PlateIndex, run_guide, run_model
from pplvae.programs.sites import values_of

_PYROS: dict[str, Callable[..., Any]] = {
    "Trace_ELBO": infer.Trace_ELBO,
    "TraceMeanField_ELBO": infer.TraceMeanField_ELBO,
    "TraceGraph_ELBO": infer.TraceGraph_ELBO,
    # Programs without a site to enumerate are run by it too: then it is `TraceGraph_ELBO`, and no cause for a warning.
    "TraceEnum_ELBO": partial(infer.TraceEnum_ELBO, strict_enumeration_warning=False),
}
_OURS: dict[str, Callable[..., Any]] = {
    kind.__name__: kind
    for kind in (EntropyELBO, ScoreFunction, StickingTheLanding, IWAE, RenyiELBO, DReG, InfoVAE, FreeBits)
}
OBJECTIVES = _PYROS | _OURS


@runtime_checkable
class RowObjective(Protocol):
    """An objective of our own: a function of the draws of a batch, whose gradient is the estimate.

    Attributes:
        particles: draws per row.
        cut: whether it needs the graph cut at the draws.
        through: whether its gradients flow through the draws, so that latents have to be continuous.
    """

    particles: int
    cut: bool
    through: bool

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats, to be maximised."""
        ...


def named_objective(name: str, particles: int | None = None) -> Any:
    """An objective by name.

    Args:
        name: one of `OBJECTIVES`; `TraceEnum_ELBO` is without draws where everything is enumerated.
        particles: draws per row; by default the objective's own number.

    Raises:
        UnknownNameError: an unknown name.
    """
    if name not in OBJECTIVES:
        raise UnknownNameError("objective", name, OBJECTIVES)
    if particles is None:
        return OBJECTIVES[name]()
    return OBJECTIVES[name](**{"num_particles" if name in _PYROS else "particles": particles})


class Objective:
    """What `fit` maximises.

    Args:
        objective: one of `OBJECTIVES` by name; one of ours with its options, such as `IWAE(particles=20)`; or any
            object with Pyro's `loss_and_grads`.

    Raises:
        UnknownNameError: an unknown name.
        TypeError: an object that is no objective, or a class.
        ProgramError: one of Pyro's objectives that `fit` has no use for.
    """

    def __init__(self, objective: Any) -> None:
        if isinstance(objective, str):
            objective = named_objective(objective)
        if isinstance(objective, type):
            name = objective.__name__
            raise TypeError(f"`objective` is the class {name}; pass an object of it: `objective={name}()`.")
        objective = taken(objective)
        self._rowwise = isinstance(objective, RowObjective) and not hasattr(objective, "loss_and_grads")
        if not self._rowwise and not hasattr(objective, "loss_and_grads"):
            raise TypeError(
                f"`objective` must be one of {', '.join(OBJECTIVES)}, one of these classes with options "
                "(`pplvae.objectives.IWAE(particles=20)`), or a Pyro ELBO object such as "
                f"`pyro.infer.Trace_ELBO(num_particles=5)`; got {objective!r}."
            )
        self._objective: Any = objective
        # Pyro sets `max_plate_nesting` at the first step; it is not the user's.
        kept = {key: value for key, value in vars(objective).items() if key != "max_plate_nesting"}
        options = {key: value for key, value in kept.items() if isinstance(value, int | float | str)}
        self.settings = ", ".join([type(objective).__name__, *(f"{key}={value}" for key, value in options.items())])

    def reason_for_pyro(self, model: Any, guide: Any, layout: Layout | None, batch: Batch) -> str:
        """Why the objective has to run on Pyro's own code, as a clause; "" where `loss` is right.

        Raises:
            ProgramError: one of Pyro's objectives that these programs do not suit.
        """
        if self._rowwise:
            return ""
        guide_sites = run_guide(guide, batch, {}, None)
        model_sites = run_model(model, batch, values_of(guide_sites))
        check_suits(self._objective, layout, guide_sites, model_sites)
        return reason_against(self._objective, layout, guide_sites, model_sites)

    def loss(
        self, model: Any, guide: Any, layout: Layout | None, batch: Batch, scale: float, kl_weight: float | Tensor
    ) -> Float[Tensor, ""]:
        """The negative objective, in nats per row, to be differentiated; see `reason_for_pyro`.

        Args:
            model: p(v, h; theta).
            guide: q(h; lambda_phi(v)).
            layout: of the pair; None where it cannot be scored row by row.
            batch: the rows.
            scale: what turns a sum that Pyro forms over the batch into a mean per row.
            kl_weight: of the KL term.

        Raises:
            RowwiseError: an objective of ours, and a pair that cannot be scored row by row.
            ProgramError: latents that are summed out have no KL term to weigh.
        """
        self._check(layout, kl_weight)
        if not self._rowwise:
            return scale * negative_elbo(self._objective, model, guide, layout, batch, kl_weight)
        ours = self._objective
        some, how = batch.times(ours.particles), {"cut": ours.cut, "through": ours.through}
        assert layout is not None
        draws = draw(model, guide, layout, some, weight=kl_weight, **how)
        return (draws.extra - ours(draws)) / len(batch)

    def backward(
        self,
        model: Any,
        guide: Any,
        layout: Layout | None,
        batch: Batch,
        parameters: Sequence[Tensor],
        scale: float,
        kl_weight: float,
    ) -> Float[Tensor, ""]:
        """Set every parameter's `.grad` to the gradient of one of Pyro's objectives, negative, by Pyro's own code.

        Args:
            model: see `loss`, as for all arguments that are not listed here.
            guide: the same.
            layout: the same.
            batch: the same.
            parameters: those that are trained.
            scale: the same.
            kl_weight: the same.

        Returns:
            The negative objective, in nats per row.
        """
        for parameter in parameters:
            parameter.grad = None
        self._check(layout, kl_weight)
        dims = None if layout is None else layout.guide
        with noise_of_step(batch, 2, dims), PlateIndex(batch.index), ScaleLatents(kl_weight):
            return self._pyros_backward(model, guide, batch.tensors, parameters, scale)

    @property
    def reason_against_parts(self) -> str:
        """Why the objective of a batch is no sum over its parts, in a clause; "" where none is known."""
        if self._rowwise:
            return getattr(self._objective, "of_batch", "")
        return reason_against_parts(self._objective)

    def _check(self, layout: Layout | None, kl_weight: float | Tensor) -> None:
        if self._rowwise and layout is None:
            raise RowwiseError(
                f"{type(self._objective).__name__} needs programs that can be scored row by row; use `Trace_ELBO`."
            )
        weighed = isinstance(kl_weight, Tensor) or kl_weight != 1
        if not self._rowwise and weighed and layout is not None and layout.summed:
            raise ProgramError(
                f"The latents {layout.summed.names} are summed out: they have no KL term that `kl_weight` could weigh. "
                "Put them into the guide, or leave the weight at 1."
            )

    def _pyros_backward(
        self, model: Any, guide: Any, tensors: Sequence[Tensor], parameters: Sequence[Tensor], scale: float
    ) -> Float[Tensor, ""]:
        if hasattr(self._objective, "differentiable_loss"):
            loss = scale * self._objective.differentiable_loss(model, guide, *tensors)
            loss.backward()
            return loss.detach()
        # RenyiELBO, TraceGraph_ELBO and ReweightedWakeSleep have no differentiable loss. They differentiate only where
        # a parameter is registered with Pyro, which a plain nn.Module's is not.
        loss = self._objective.loss_and_grads(_registered(model, "model"), _registered(guide, "guide"), *tensors)
        for parameter in parameters:
            if parameter.grad is not None:
                parameter.grad.mul_(scale)
        return scale * torch.as_tensor(loss, device=tensors[0].device)


def _registered(program: Any, name: str) -> Any:
    """The program, registering the modules that it is, or is a method of, with Pyro."""
    roots = root_modules(program)

    def registered(*args: Any) -> Any:
        for i, root in enumerate(roots):
            pyro.module(f"{name}_{i}", root)
        return program(*args)

    return registered
