"""The ELBO with free bits: a KL term that is not pushed below a floor."""

from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.elements import element_kl, site_kl
from pplvae.objectives.draws import Draws, on_average


@dataclass(frozen=True)
class FreeBits:
    r"""E_q[log p(v|h)] - \sum_j max(nats, KL_j): each latent element has some nats of KL for free, against collapse.

    KL_j is the mean over the batch (in closed form where there is one). A latent whose elements have no density of
    their own, such as one with full covariance, counts as one element. The value is below the ELBO.

    Args:
        nats: free per element.
        particles: draws per row.

    References:
        Improved variational inference with inverse autoregressive flow (Kingma et al., 2016), arXiv 1606.04934,
        appendix C.8.
    """

    nats: float = 0.1
    particles: int = 1
    cut = False

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        floored = [self._floored(draws, name) for name in draws.latent_sites]
        return on_average(draws.log_likelihood) - draws.weight * len(draws.batch) * torch.stack(floored).sum()

    def _floored(self, draws: Draws, name: str) -> Tensor:
        """Nats per row that a site is charged."""
        q, p = draws.guide_sites[name], draws.model_sites[name]
        elements, _ = element_kl(q, p, draws.layout.axes[name])
        if elements is None:
            elements = site_kl(q, p, draws.layout.guide[name]).unsqueeze(-1)
        return elements.mean(0).clamp(min=self.nats).sum()
