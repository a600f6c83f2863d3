"""The ELBO with the guide's entropy in closed form."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pplvae.errors import ProgramError
from pplvae.objectives.draws import Draws, on_average
from pplvae.programs.elements import rows_first
from pplvae.programs.families import family_name, unwrapped
from pplvae.programs.sites import counted


@dataclass(frozen=True)
class EntropyELBO:
    r"""ELBO = E_q[log p(v, h)] + H(q(h | v)), the entropy exact (eq. 41-42 of the lecture).

    Args:
        particles: draws per row, for the first term.

    Raises:
        ProgramError: a guide with a family whose entropy torch does not know.
    """

    particles: int = 1
    cut, through = False, True

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        of_sites = [_entropy(site, draws.layout.axes[name]) for name, site in draws.guide_latents.items()]
        return on_average(draws.log_model + draws.weight * draws.fold(torch.stack(of_sites).sum(0)))


def _entropy(site: Any, axis: int) -> Tensor:
    """Entropy of each tiled row at a site, in nats; masked elements count for none."""
    fn = unwrapped(site["fn"])
    try:
        entropy = fn.entropy().expand(fn.batch_shape)
    except NotImplementedError:
        raise ProgramError(
            f"The entropy of {family_name(fn)} (latent {site['name']!r}) has no closed form here: use `Trace_ELBO`."
        ) from None
    events = counted(site).reshape(*entropy.shape, -1).any(-1)
    return rows_first(torch.where(events, entropy, 0.0), axis).sum(1)
