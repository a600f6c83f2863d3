"""Draws of a batch of rows in training: what our own estimators are functions of."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from torch import Tensor

from pplvae.errors import ProgramError
from pplvae.programs.batch import Batch
from pplvae.programs.reading import Layout, Program, log_extra, run_guide, run_model
from pplvae.programs.shapes import PerDraw
from pplvae.programs.sites import sum_sites, values_of


class CutDraws(Messenger):
    """Cut the graph at each latent as it is drawn: gradients through the draw, and all others, are then apart.

    Attributes:
        drawn: each latent by name, as the guide drew it: a function of lambda (and of the latents before it, cut).
        cut: what the programs see instead: the same numbers, which depend on nothing.
    """

    def __init__(self) -> None:
        super().__init__()
        self.drawn: dict[str, Tensor] = {}
        self.cut: dict[str, Tensor] = {}

    def _pyro_post_sample(self, msg: Any) -> None:
        value = msg["value"]
        if msg["is_observed"] or not isinstance(value, Tensor) or not value.is_floating_point():
            return
        self.drawn[msg["name"]] = value
        msg["value"] = self.cut[msg["name"]] = value.detach().requires_grad_()


@dataclass(frozen=True)
class Draws:
    """Draws of every row of a batch, with their log-probabilities in nats; axes (particle, row).

    Attributes:
        model: p(v, h; theta).
        guide_sites: of the tiled rows.
        model_sites: likewise, at the guide's draws.
        layout: of the pair.
        batch: the rows, at the number of draws.
        weight: of the KL term.
        cut: the latents as they were drawn and as the programs saw them, where the graph was cut between; else None.
    """

    model: Program
    guide_sites: Mapping[str, Any]
    model_sites: Mapping[str, Any]
    layout: Layout
    batch: Batch
    weight: float | Tensor
    cut: CutDraws | None

    def fold(self, values: Float[Tensor, " batch"]) -> PerDraw:
        """Numbers of tiled rows, by draw and row."""
        return values.reshape(self.batch.particles, len(self.batch))

    @cached_property
    def log_likelihood(self) -> PerDraw:
        """Log p(v | h)."""
        observed = {name: site for name, site in self.model_sites.items() if site["is_observed"]}
        return self.fold(sum_sites(observed, self.layout.model))

    @cached_property
    def log_prior(self) -> PerDraw:
        """Log p(h)."""
        return self.fold(sum_sites(self.latent_sites, self.layout.model))

    @cached_property
    def log_guide(self) -> PerDraw:
        """Log q(h | v)."""
        return self.fold(sum_sites(self.guide_sites, self.layout.guide))

    @property
    def extra(self) -> Float[Tensor, ""]:
        """What the guide observes (auxiliary sites, `pyro.factor`), mean over draws, sum over rows."""
        return log_extra(self.guide_sites) / self.batch.particles

    @property
    def log_model(self) -> PerDraw:
        """Log p(v | h) + weight log p(h)."""
        return self.log_likelihood + self.weight * self.log_prior

    @property
    def log_weights(self) -> PerDraw:
        """Log p(v | h) + weight (log p(h) - log q(h | v)): log importance weights, at weight 1."""
        return self.log_model - self.weight * self.log_guide

    @property
    def guide_latents(self) -> dict[str, Any]:
        """Latent sites of the guide, auxiliary ones included."""
        return {name: site for name, site in self.guide_sites.items() if not site["is_observed"]}

    @property
    def latent_sites(self) -> dict[str, Any]:
        """Latent sites of the model."""
        return {name: site for name, site in self.model_sites.items() if not site["is_observed"]}


def draw(
    model: Program,
    guide: Program,
    layout: Layout,
    batch: Batch,
    *,
    weight: float | Tensor = 1.0,
    cut: bool = False,
    through: bool = True,
) -> Draws:
    """Draw latents of a batch from its guide, on torch's own noise, and run the model on them.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows, at the number of draws.
        weight: of the KL term.
        cut: whether to cut the graph between the draws and what the programs make of them.
        through: whether gradients are to flow through the draws.

    Raises:
        ProgramError: no latents, latents of all rows, latents that the guide leaves to the model, or, where gradients
            are to flow through them, discrete ones.
    """
    _check_drawn(layout, through)
    cutting = CutDraws() if cut else None
    if cutting is None:
        guide_sites = run_guide(guide, batch, layout.guide, None)
    else:
        with cutting:
            guide_sites = run_guide(guide, batch, layout.guide, None)
    values = values_of(guide_sites)
    extra = [name for name, site in guide_sites.items() if site["is_observed"]]
    if cut and extra:
        raise ProgramError(
            f"This objective cuts the graph at the draws, and {extra} of the guide would lose their gradients through "
            "them. Use `Trace_ELBO`, or another objective whose gradients flow through draws."
        )
    return Draws(model, guide_sites, run_model(model, batch, values), layout, batch, weight, cutting)


def _check_drawn(layout: Layout, through: bool) -> None:
    reason = ""
    if not layout.axes:
        reason = "The model has no latents: use `Trace_ELBO`, which is log p(v) then."
    if layout.held:
        reason = f"The latents {list(layout.held)} lie outside the data plate: use `Trace_ELBO`."
    if layout.summed:
        reason = f"The guide does not draw {layout.summed.names}: put them into it, or use `TraceEnum_ELBO`."
    if through and layout.discrete:
        reason = (
            f"The latents {list(layout.discrete)} are discrete, and its gradients flow through draws: use "
            "`ScoreFunction` or `TraceEnum_ELBO`."
        )
    if reason:
        raise ProgramError(f"This objective looks at each row's own draws from the guide. {reason}")


def with_gradient_of(value: Tensor, surrogate: Tensor) -> Tensor:
    """A number with the gradient of another."""
    return value.detach() + surrogate - surrogate.detach()


def on_average(values: PerDraw) -> Float[Tensor, ""]:
    """Mean over draws, sum over rows."""
    return values.mean(0).sum()
