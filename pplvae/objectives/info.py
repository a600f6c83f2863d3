"""InfoVAE: a penalty on the aggregated posterior, for where a KL term per row makes the latents mean nothing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.isolate import evaluation_mode
from pplvae.objectives.draws import Draws, on_average
from pplvae.programs.elements import rows_first
from pplvae.programs.reading import run_model
from pplvae.programs.sites import counted

Points = Float[Tensor, "point element"]

# Widths of the kernel, in units of its natural one: the penalty sees near and far at once.
_SCALES = (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


@dataclass(frozen=True)
class InfoVAE:
    r"""E log p(v|h) - (1 - alpha) KL(q(h|v) || p(h)) - (alpha + penalty - 1) MMD²(q(h), p(h)).

    The KL term of the ELBO can be made small by a decoder that ignores h. The maximum mean discrepancy instead compares
    the latents of the whole batch with as many draws from the prior. alpha = 1 leaves no KL term per row, alpha = 0
    with penalty 1 is the ELBO. The weight of `fit(kl_weight=...)` multiplies the KL term alone.

    Args:
        alpha: weight taken off the KL term.
        penalty: lambda in the paper: weight of all pressure towards the prior.
        particles: draws per row.

    References:
        InfoVAE: balancing learning and inference in variational autoencoders (Zhao, Song and Ermon, 2019), arXiv
        1706.02262; the kernel (inverse multiquadratics of several widths): Wasserstein auto-encoders (Tolstikhin et
        al., 2018), arXiv 1711.01558.
    """

    alpha: float = 0.0
    penalty: float = 100.0
    particles: int = 1
    cut, through = False, True
    of_batch = "it compares the latents of a whole batch with those of the prior"

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        divergence = draws.log_guide - draws.log_prior
        rows = on_average(draws.log_likelihood - (1 - self.alpha) * draws.weight * divergence)
        weight = self.alpha + self.penalty - 1
        if weight == 0 or len(draws.batch) == 1:  # a last batch of one row has no pairs to compare
            return rows
        return rows - weight * len(draws.batch) * maximum_mean_discrepancy(*_latents(draws))


def maximum_mean_discrepancy(x: Points, y: Points) -> Float[Tensor, ""]:
    r"""Unbiased estimate of MMD² between two samples; negative values are noise around 0.

    The kernel is :math:`\sum_s c_s / (c_s + \lVert x - y \rVert^2)` with :math:`c_s = 2 d s`.

    Args:
        x: one sample.
        y: the other, with as many points (at least 2).

    References:
        A kernel two-sample test (Gretton et al., 2012), lemma 6.
    """
    pairs = len(x) * (len(x) - 1)
    within = [(kernel.sum() - kernel.diagonal().sum()) / pairs for kernel in (_kernel(x, x), _kernel(y, y))]
    return within[0] + within[1] - 2 * _kernel(x, y).mean()


def _kernel(x: Points, y: Points) -> Tensor:
    # Written out, since the gradient of `cdist` at 0 distance is no number.
    squared = (x.square().sum(1, keepdim=True) + y.square().sum(1) - 2 * x @ y.T).clamp(min=0)
    widths = [2 * x.shape[1] * scale for scale in _SCALES]
    return torch.stack([width / (width + squared) for width in widths]).sum(0)


def _latents(draws: Draws) -> tuple[Points, Points]:
    """Latents of the batch, one draw a row: from the guide and, ancestrally, from the prior."""
    # In eval mode, so that the decoder's running means are of the rows' latents alone.
    with torch.no_grad(), evaluation_mode(draws.model):
        prior = run_model(draws.model, draws.batch.times(1).again(1), {})
    return _joined(draws, draws.guide_sites), _joined(draws, prior)


def _joined(draws: Draws, sites: Mapping[str, Any]) -> Points:
    """One line per row; several draws of a row would depend on each other. What is masked is 0 in both samples."""
    parts = []
    for name in draws.latent_sites:
        axis = draws.layout.axes[name]
        value, used = rows_first(sites[name]["value"], axis), rows_first(counted(sites[name]), axis)
        parts.append(torch.where(used, value, 0.0)[: len(draws.batch)])
    return torch.cat(parts, 1)
