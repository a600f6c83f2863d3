"""The latents of a row as one vector of real numbers u, whatever their sites, shapes and supports.

Annealing, richer families and whatever else moves latents about works on u; Pyro's programs are asked for
log-densities through this module. Densities are those of u: the Jacobian of the map from u to h is included.
"""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.distributions import constraints

from pplvae.errors import ProgramError
from pplvae.programs.batch import Batch
from pplvae.programs.families import bijection, family_name, of_one_component
from pplvae.programs.reading import Given, Layout, Program, log_guide, log_model, run_guide, run_model
from pplvae.programs.shapes import PerDraw, Vectors
from pplvae.programs.sites import counted, latents_of, values_of


def whole_rows(model: Program, guide: Program, layout: Layout, batch: Batch) -> Bool[Tensor, " row"]:
    """Which rows have latents that all count: neither program masks any of them.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows.
    """
    found, batch = torch.ones(len(batch), dtype=torch.bool), batch.times(1)
    with torch.no_grad():
        drawn = run_guide(guide, batch, layout.guide, (0,))
        sites = [*drawn.items(), *latents_of(run_model(model, batch, values_of(drawn))).items()]
    for name, site in sites:
        if name in layout.axes:
            kept = counted(site).movedim(layout.axes[name], 0)
            found &= kept.reshape(len(batch), -1).all(1).cpu()
    return found


class LatentSpace:
    """A batch of rows of a pair, its latents as vectors.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda), under whatever handlers it needs.
        layout: of the pair.
        batch: the rows, at the number of draws that every call here will have.

    Raises:
        ProgramError: a latent of the guide without a density of its own (`Delta`), one whose support changes with
            the latents before it, or one that belongs to all rows.
    """

    def __init__(self, model: Program, guide: Program, layout: Layout, batch: Batch) -> None:
        if layout.held:
            raise ProgramError(
                f"The latents {list(layout.held)} belong to all rows at once, so a row's latents are no vector of its "
                "own: annealing, richer families and posterior means need that. Condition both programs on one value."
            )
        self._model, self._guide, self._layout, self._batch = model, guide, layout, batch
        with torch.no_grad():
            first, other = (self._latent_sites(address) for address in ((0,), (1,)))
        self._sites = [_Site(name, site, layout.model[name]) for name, site in first.items()]
        for site in self._sites:
            site.check_same_support(of_one_component(other[site.name]["fn"].support))

    def _latent_sites(self, address: tuple[int, ...]) -> dict[str, Any]:
        """The model's latent sites, at draws of the guide."""
        drawn = run_guide(self._guide, self._batch, self._layout.guide, address)
        point = [name for name, site in drawn.items() if family_name(site["fn"]) == "Delta"]
        if point:
            raise ProgramError(
                f"The guide's latent {point[0]!r} is a point mass (`Delta`), so log q(h) is not known at other points "
                "than its own draws. Annealing from the guide and richer families need it: draw the latent from a "
                "distribution with a density."
            )
        sites = run_model(self._model, self._batch, values_of(drawn))
        return {name: site for name, site in sites.items() if name in drawn and name in self._layout.model}

    @property
    def elements(self) -> int:
        """Length of u."""
        return sum(site.size for site in self._sites)

    @property
    def used(self) -> Bool[Tensor, "row element"]:
        """Which elements of u count: those that the program does not mask."""
        used = torch.cat([site.used for site in self._sites], 1)
        return used.unflatten(0, (self._batch.particles, -1))[0]

    @property
    def pieces(self) -> dict[str, tuple[torch.Size, Any]]:
        """The shape of each site's piece of u, in order, and the map from there to its support; None if that is all."""
        return {site.name: (site.shape, None if site.is_real else site.transform) for site in self._sites}

    def draw(self, address: tuple[int, ...], kind: Any = "independent") -> tuple[Vectors, PerDraw]:
        """Draws of the guide, with their log-density."""
        sites = run_guide(self._guide, self._batch, self._layout.guide, address, kind)
        u = self.vectors(values_of(sites))
        _, log_det = self._values(u)
        return u, self._fold(log_guide(sites, self._layout)) + log_det

    def scale(self, u: Vectors) -> Float[Tensor, "row element"]:
        """Standard deviations of draws of the guide."""
        return u.std(0)

    def draw_prior(self, address: tuple[int, ...]) -> Vectors:
        """Draws of the latents from the model itself."""
        sites = run_guide(self._model, self._batch, self._layout.model, address)
        return self.vectors(values_of(sites))

    def log_guide(self, u: Vectors) -> PerDraw:
        """Log q(u) of the guide at any point."""
        values, log_det = self._values(u)
        with Given(values):
            sites = run_guide(self._guide, self._batch, self._layout.guide, (0,))
        return self._fold(log_guide(sites, self._layout)) + log_det

    def log_joint(self, u: Vectors) -> PerDraw:
        """Log p(v, u) of the model."""
        values, log_det = self._values(u)
        joint, _ = log_model(self._model, self._batch, values, self._layout)
        return self._fold(joint) + log_det

    def log_prior_and_likelihood(self, u: Vectors) -> tuple[PerDraw, PerDraw]:
        """Log p(u) and log p(v | u)."""
        values, log_det = self._values(u)
        joint, prior = log_model(self._model, self._batch, values, self._layout)
        return self._fold(prior) + log_det, self._fold(joint - prior)

    def observed(self, u: Vectors) -> dict[str, Any]:
        """The model's observed sites by name, for tiled rows, as they follow from the latents."""
        sites = run_model(self._model, self._batch, self._values(u)[0])
        return {name: site for name, site in sites.items() if site["is_observed"]}

    def vectors(self, values: Mapping[str, Tensor]) -> Vectors:
        """Latents by site as vectors."""
        parts = [site.vector(values[site.name]) for site in self._sites]
        return torch.cat(parts, 1).unflatten(0, (self._batch.particles, len(self._batch)))

    def values(self, u: Vectors) -> dict[str, Float[Tensor, "particle row _"]]:
        """The latents by site, the elements of each in one axis."""
        values, _ = self._values(u)
        flat = {site.name: site.flat(values[site.name]) for site in self._sites}
        return {name: value.unflatten(0, u.shape[:2]) for name, value in flat.items()}

    def _values(self, u: Vectors) -> tuple[dict[str, Tensor], PerDraw]:
        """Latents by site, and the log-determinant of the map that made them."""
        values: dict[str, Tensor] = {}
        log_dets = []
        parts = u.flatten(0, 1).split([site.size for site in self._sites], dim=1)
        for site, part in zip(self._sites, parts, strict=True):
            values[site.name], log_det = site.value(part)
            log_dets.append(log_det)
        return values, self._fold(torch.stack(log_dets).sum(0))

    def _fold(self, per_tiled_row: Tensor) -> PerDraw:
        return per_tiled_row.reshape(self._batch.particles, len(self._batch))


class _Site:
    """One latent site, and how its value becomes a piece of u."""

    def __init__(self, name: str, site: Any, dim: int) -> None:
        fn = site["fn"]
        self.name = name
        self._support = of_one_component(fn.support)
        try:
            self.transform = bijection(self._support)
        except NotImplementedError as error:
            raise ProgramError(
                f"There is no smooth map from real numbers onto the support of the latent {name!r} "
                f"({family_name(fn)}: {self._support}), which annealing and richer families need."
            ) from error
        axis = len(fn.batch_shape) + dim
        value = self.transform.inv(site["value"])  # pyright: ignore[reportOptionalMemberAccess]
        self._axis = axis
        self.shape: torch.Size = value.movedim(axis, 0).shape[1:]  # type: ignore[union-attr]
        self.size = self.shape.numel()
        self._counted = counted(site, value.shape)  # type: ignore[union-attr]
        self.used = self.flat(self._counted)
        self.is_real = _base(self._support) is constraints.real

    def flat(self, value: Tensor) -> Tensor:
        return value.movedim(self._axis, 0).reshape(value.shape[self._axis], -1)

    def vector(self, value: Tensor) -> Tensor:
        return self.flat(self.transform.inv(value))  # pyright: ignore[reportOptionalMemberAccess, reportArgumentType]

    def value(self, vector: Tensor) -> tuple[Tensor, Tensor]:
        u = vector.reshape(-1, *self.shape).movedim(0, self._axis)
        value: Tensor = self.transform(u)  # type: ignore[assignment]
        log_det = self.transform.log_abs_det_jacobian(u, value)
        # One number for each event: it is left out where the program counts none of the event's elements.
        events = self._counted.reshape(*log_det.shape, -1).any(-1)
        log_det = torch.where(events, log_det, 0.0).movedim(self._axis, 0)
        return value, log_det.flatten(1).sum(1) if log_det.ndim > 1 else log_det

    def check_same_support(self, other: Any) -> None:
        """The map is made once, so it must not depend on latents."""
        for ours, theirs in zip(_bounds(self._support), _bounds(other), strict=True):
            if not torch.equal(torch.as_tensor(ours), torch.as_tensor(theirs)):
                raise ProgramError(
                    f"The support of the latent {self.name!r} changes with the latents drawn before it, so it has no "
                    "fixed map from real numbers. Draw a latent on a fixed support and transform it in the model."
                )


def _bounds(support: Any) -> list[Any]:
    return [value for value in vars(_base(support)).values() if isinstance(value, Tensor | float | int)]


def _base(support: Any) -> Any:
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support
