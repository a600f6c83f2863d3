"""InfoVAE: a penalty on the aggregated posterior, for where a KL term per row makes the latents mean nothing."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.elements import rows_first
from pplvae.errors import ProgramError
from pplvae.objectives.draws import Draws, on_average
from pplvae.rows import run_model, values_of

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
    cut = False

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        divergence = draws.log_guide - draws.log_prior
        rows = on_average(draws.log_likelihood - (1 - self.alpha) * draws.weight * divergence)
        weight = self.alpha + self.penalty - 1
        if weight == 0:
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
    """Latents of the batch, a line each: from the guide and, ancestrally, from the prior."""
    if len(draws.batch) * draws.batch.particles < 2:
        raise ProgramError("InfoVAE compares the latents of a batch with draws from the prior: one row is too few.")
    with torch.no_grad():
        prior = values_of(run_model(draws.model, draws.batch, {}))
    return tuple(_joined(draws, values) for values in (values_of(draws.guide_sites), prior))  # type: ignore[return-value]


def _joined(draws: Draws, values: dict[str, Tensor]) -> Points:
    return torch.cat([rows_first(values[name], draws.layout.axes[name]) for name in draws.latent_sites], 1)
