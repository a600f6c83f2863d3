"""The ELBO with free bits: a KL term that is not pushed below a floor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.errors import ProgramError
from pplvae.objectives.draws import Draws, on_average
from pplvae.programs.elements import closed_forms, element_kl, rows_first, site_kl
from pplvae.programs.sites import counted


@dataclass(frozen=True)
class FreeBits:
    r"""E_q[log p(v|h)] - \sum_j max(nats, KL_j): each latent element has some nats of KL for free, against collapse.

    KL_j is the mean over the batch (in closed form where there is one). A latent whose elements have no density of
    their own, such as one with full covariance, counts as one element. The mean of the value is not above the ELBO.

    Args:
        nats: free per element.
        particles: draws per row.

    Raises:
        ProgramError: auxiliary latents of the guide.

    References:
        Improved variational inference with inverse autoregressive flow (Kingma et al., 2016), arXiv 1606.04934,
        appendix C.8.
    """

    nats: float = 0.1
    particles: int = 1
    cut, through = False, True
    of_batch = "what is free is decided by the mean KL over a whole batch"

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        helpers = draws.guide_latents.keys() - draws.latent_sites.keys()
        if helpers:
            raise ProgramError(
                f"Free bits are of the KL between guide and prior, latent by latent; {sorted(helpers)} of the guide "
                "have no prior. Use `Trace_ELBO`."
            )
        closed = closed_forms(draws.guide_sites, draws.model_sites, draws.layout)
        charged = [self._charged(draws, name, name in closed) for name in draws.latent_sites]
        return on_average(draws.log_likelihood) - draws.weight * len(draws.batch) * torch.stack(charged).sum()

    def _charged(self, draws: Draws, name: str, closed: bool) -> Tensor:
        """Nats per row that a site is charged. The floor of an element is over the rows in which it is not masked."""
        q, p, axis = draws.guide_sites[name], draws.model_sites[name], draws.layout.axes[name]
        used = rows_first(counted(q), axis)
        elements, _ = element_kl(q, p, axis, closed=closed)
        if elements is None:
            used = used.any(1, keepdim=True)
            elements = site_kl(q, p, draws.layout.guide[name], closed=closed).unsqueeze(-1)
        share = used.to(elements).mean(0)
        return torch.maximum(elements.mean(0), self.nats * share).sum()
