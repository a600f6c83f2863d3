"""A search by first order that begins where a row is known to come from: at the latents that it was simulated with."""

from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor
from torch.distributions import biject_to

from pplvae.programs.batch import Batch, tile
from pplvae.programs.discrete import is_discrete
from pplvae.programs.noise import Kind
from pplvae.programs.reading import Given, Layout, Program, run_guide
from pplvae.programs.shapes import Lambda
from pplvae.programs.sites import latents_of, sum_sites
from pplvae.search.first_order import optimise
from pplvae.search.local_guides import LocalGuides
from pplvae.search.localise import Localise
from pplvae.search.optimum import Schedule

_STEPS = 200


class NearLatents(LocalGuides):
    """Guides whose log-probability near given latents stands where `optimise` looks for the ELBO.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows, at the number of draws of each evaluation.
        latents: by site, rows first. Discrete ones are taken as they are.
    """

    def __init__(
        self, model: Program, guide: Program, layout: Layout, batch: Batch, latents: Mapping[str, Tensor]
    ) -> None:
        super().__init__(model, guide, layout, batch)
        self._latents = latents

    def log_weights(
        self, offsets: Lambda, address: tuple[int, ...], kind: Kind = "antithetic", *, stick_the_landing: bool = False
    ) -> Float[Tensor, "particle row"]:
        """Log q of the guides at these offsets, at the encoder's draws, moved so that their mean is at the latents.

        No path leads from the offsets through these draws, so there is nothing to stick to.
        """
        batch, layout = self._run_batch, self._layout
        if self._exact:  # everything is a state, and nothing is drawn
            kind = "independent"
        given = {name: site.over(len(batch) * batch.particles) for name, site in self._states.items()}
        with torch.no_grad(), Given(given):
            drawn = latents_of(run_guide(self._guide, batch, layout.guide, address, kind))
            for name, site in drawn.items():
                if name not in given:
                    given[name] = self._moved(self._latents[name], site, layout.axes[name])
        with Given(given):
            sites = run_guide(Localise(offsets, layout, batch.copies)(self._guide), batch, layout.guide, address, kind)
        log_q = sum_sites(sites, layout.guide).unflatten(0, (batch.repeats, batch.particles, len(batch)))
        found = log_q[self._state(), :, torch.arange(len(batch))].T
        return found.expand(self.batch.particles, -1)

    def _moved(self, latent: Tensor, site: Mapping[str, Any], axis: int) -> Tensor:
        """Draws of a site, moved in unconstrained space so that their mean in each state is at a latent."""
        if is_discrete(site["fn"]):
            return tile(latent, self._run_batch.copies).movedim(0, axis)
        free = biject_to(site["fn"].support)
        batch = self._run_batch
        draws = free.inv(site["value"].movedim(axis, 0)).unflatten(0, (batch.repeats, batch.particles, len(batch)))
        return free((draws - draws.mean(1, keepdim=True) + free.inv(latent)).flatten(0, 2)).movedim(0, axis)

    def _state(self) -> Int64[Tensor, " row"]:
        """Which joint state the discrete latents of every row are in; 0 where none are summed over."""
        found = torch.ones_like(self.batch.keys, dtype=torch.bool).unsqueeze(1).repeat(1, self._run_batch.repeats)
        for name, states in self._states.items():
            same = self._latents[name].unsqueeze(1) == states.values
            found &= same.reshape(*found.shape, -1).all(2)
        return found.int().argmax(1)


def offsets_at(
    model: Program,
    guide: Program,
    layout: Layout,
    batch: Batch,
    latents: Mapping[str, Tensor],
    schedule: Schedule,
    seed: int,
) -> Lambda:
    """Offsets that take every row's guide, with the spread that the encoder gives it, to latents of that row.

    They are the maximum likelihood for the encoder's own draws once these have been moved there.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows.
        latents: by site, rows first.
        schedule: of the search that is to begin there.
        seed: names the noise.
    """

    def make(index: Tensor, draws: int) -> NearLatents:
        some = {name: value[index] for name, value in latents.items()}
        return NearLatents(model, guide, layout, batch.take(index).times(draws), some)

    start = make(torch.arange(len(batch)), 2).zeros()
    return optimise(make, len(batch), schedule.with_steps(min(_STEPS, schedule.max_steps)), seed, start).offsets
