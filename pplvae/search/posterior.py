"""Modes of log p(v_i, u) where guides are not Gaussian: a search over u needs no guide, but for a place to begin."""

from collections.abc import Mapping
from functools import cached_property

import torch
from jaxtyping import Bool
from torch import Tensor

from pplvae.errors import ProgramError
from pplvae.programs.batch import Batch
from pplvae.programs.chunking import rows_at_once
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Layout, Program
from pplvae.programs.shapes import Lambda
from pplvae.programs.widening import widened
from pplvae.search.curvature import Curvature
from pplvae.search.density import Density, Part, vectors_of
from pplvae.search.gaussian import FullCovariance, Gaussians
from pplvae.search.local_guides import LocalGuides
from pplvae.search.optimum import Schedule
from pplvae.search.other_modes import Modes, lying_elsewhere, modes_near
from pplvae.search.second_order import SecondOrder

MOST_ELEMENTS = 200  # of a row's latents: each row has a matrix of them, again and again
_DRAWS = 400  # that say where a guide lies


class Posterior:
    """The posterior of every row of a pair.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        schedule: settings.
        seed: names the noise.
        row: one of the rows, on which it is found out whether modes can be looked for.
    """

    def __init__(
        self, model: Program, guide: Program, layout: Layout, schedule: Schedule, seed: int, row: Batch
    ) -> None:
        self._model, self._guide, self._layout, self._row = model, guide, layout, row
        self._schedule, self._seed = schedule, seed

    @cached_property
    def search(self) -> SecondOrder | None:
        """A search over u; None where latents are discrete, masked or too many, or torch.func cannot follow a model."""
        guides = self._guides(self._row, 2)
        try:
            space = guides.space(guides.zeros())
        except ProgramError:
            return None
        if self._layout.summed or space.elements > MOST_ELEMENTS or not bool(space.used.all()):
            return None
        parts = [Part(name, self._layout.axes[name], *piece) for name, piece in space.pieces.items()]
        with torch.no_grad():
            u, _ = space.draw((self._seed, Stream.SELECT))
        density = Density(self._model, self._layout, parts, u.dtype)
        curvature = Curvature(self._model, self._layout, parts)
        search = SecondOrder(density, curvature, self._schedule.tolerance, self._schedule.max_steps, self._seed)
        try:
            search.curvature_at(u[0], self._row)
            density.slope(u, self._row)
        except Warning:  # an error by the caller's `-W error`: it says nothing about torch.func
            raise
        except Exception:  # a program that torch.func cannot follow
            return None
        return search

    def modes(self, batch: Batch, offsets: Lambda) -> Modes | None:
        """Each row's modes, beginning with the one nearest to its own guide; None where they cannot be looked for."""
        return None if self.search is None else modes_near(self.search, self._as_gaussians(batch, offsets), batch)

    def unseen(self, batch: Batch, offsets: Lambda, latents: Mapping[str, Tensor]) -> Bool[Tensor, " row"] | None:
        """Which rows have known latents in none of their modes that are found; None where they cannot be looked for."""
        modes = self.modes(batch, offsets)
        if self.search is None or modes is None:
            return None
        own, truth = modes.take(torch.arange(len(batch)))[0], vectors_of(self.search.density.parts, latents)
        return lying_elsewhere(self.search, own, widened(truth), batch, modes)[2]

    def _guides(self, batch: Batch, draws: int) -> LocalGuides:
        return LocalGuides(self._model, self._guide, self._layout, batch.times(draws))

    def _as_gaussians(self, batch: Batch, offsets: Lambda) -> Gaussians:
        """Gaussians with the means and covariances of guides."""
        found = []
        for rows in torch.arange(len(batch)).split(rows_at_once(batch.tensors, _DRAWS, self._layout.observed)):
            space = self._guides(batch.take(rows), _DRAWS).space({key: some[rows] for key, some in offsets.items()})
            with torch.no_grad():
                found.append(FullCovariance.of_draws(widened(space.draw((self._seed, Stream.SELECT, 6))[0])))
        means, precisions = (torch.cat([getattr(some, name) for some in found]) for name in ("mean", "precision"))
        return FullCovariance(means, precisions)
