"""A search by first order that begins where a row is known to come from: at the latents that it was simulated with."""

from collections.abc import Callable, Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.noise import Kind
from pplvae.programs.shapes import Lambda
from pplvae.search.first_order import Schedule, optimise
from pplvae.search.local_guides import LocalGuides, Start

_STEPS = 200


def offsets_at(
    make_guides: Callable[[Tensor, int], LocalGuides], latents: Mapping[str, Tensor], schedule: Schedule, seed: int
) -> Lambda:
    """Offsets that take every row's guide, with the spread that the encoder gives it, to latents of that row.

    They are the maximum likelihood for the encoder's own draws once these have been moved there.

    Args:
        make_guides: as `first_order.optimise` has it.
        latents: by site, rows first.
        schedule: of the search that is to begin there.
        seed: names the noise.
    """
    rows = len(next(iter(latents.values())))

    def make(index: Tensor, draws: int) -> _NearLatents:
        return _NearLatents(make_guides(index, draws), {name: value[index] for name, value in latents.items()})

    start = make_guides(torch.arange(rows), 2).zeros()
    return optimise(make, rows, schedule.with_steps(min(_STEPS, schedule.max_steps)), seed, start).offsets


class _NearLatents:
    """Guides whose log-probability near given latents stands where `optimise` looks for the ELBO."""

    def __init__(self, guides: LocalGuides, latents: Mapping[str, Tensor]) -> None:
        self._guides, self._latents, self.batch = guides, latents, guides.batch

    def elements(self) -> int:
        return self._guides.elements()

    def rows_at_once(self, draws: int) -> int:
        return self._guides.rows_at_once(draws)

    def starts(self) -> list[Start]:
        return [Start(self._guides.zeros())]

    def log_weights(
        self, offsets: Lambda, address: tuple[int, ...], kind: Kind = "antithetic", *, stick_the_landing: bool = False
    ) -> Float[Tensor, "particle row"]:
        return self._guides.log_prob_near(self._latents, offsets, address, kind)
