"""The ELBO with the guide's entropy in closed form."""

from dataclasses import dataclass

import torch
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pplvae.errors import ProgramError
from pplvae.families import family_name
from pplvae.objectives.draws import Draws, on_average


@dataclass(frozen=True)
class EntropyELBO:
    r"""ELBO = E_q[log p(v, h)] + H(q(h | v)), the entropy exact (eq. 41-42 of the lecture).

    Args:
        particles: draws per row, for the first term.

    Raises:
        ProgramError: a guide with a family whose entropy torch does not know.
    """

    particles: int = 1
    cut = False

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        entropy = draws.fold(torch.stack([_entropy(draws, name) for name in draws.latent_sites]).sum(0))
        return on_average(draws.log_model + draws.weight * entropy)


def _entropy(draws: Draws, name: str) -> Tensor:
    site, dim = draws.guide_sites[name], draws.layout.guide[name]
    try:
        entropy = scale_and_mask(site["fn"].entropy(), mask=site["mask"])
    except NotImplementedError:
        raise ProgramError(
            f"The entropy of {family_name(site['fn'])} (latent {name!r}) has no closed form here: use `Trace_ELBO`."
        ) from None
    return entropy.movedim(dim, 0).flatten(1).sum(1) if entropy.ndim > 1 else entropy
