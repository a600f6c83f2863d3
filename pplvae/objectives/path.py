"""Gradients along the path of the draws only: sticking the landing, and its doubly reparameterised relative.

The gradient of log q with respect to lambda at a fixed draw has mean zero and is left out. What remains vanishes, draw
by draw, where q is the posterior.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from pplvae.objectives.draws import CutDraws, Draws, with_gradient_of
from pplvae.programs.shapes import PerDraw


@dataclass(frozen=True)
class StickingTheLanding:
    """The ELBO, with the gradient along the path of the draws.

    Args:
        particles: draws per row.

    References:
        Sticking the landing (Roeder, Wu and Duvenaud, 2017), arXiv 1703.09194.
    """

    particles: int = 1
    cut, through = True, True

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        share = torch.full_like(draws.log_weights, 1 / self.particles).detach()
        return with_gradient_of(draws.log_weights.mean(0).sum(), _surrogate(draws, share, share))


@dataclass(frozen=True)
class DReG:
    """IWAE's bound, with the doubly reparameterised gradient: unbiased, and not noisier as K grows.

    (Sticking the landing with K > 1 importance weights would be biased.)

    Args:
        particles: K, draws per row.

    References:
        Doubly reparameterized gradient estimators (Tucker et al., 2019), arXiv 1810.04152.
    """

    particles: int = 10
    cut, through = True, True

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        share = draws.log_weights.softmax(0).detach()
        bound = (draws.log_weights.logsumexp(0) - math.log(self.particles)).sum()
        # The square of the paper at weight 1: a weighted log q takes only so much of the plain path gradient away.
        along_path = share * (1 - draws.weight + draws.weight * share)
        return with_gradient_of(bound, _surrogate(draws, share, along_path))


def _surrogate(draws: Draws, to_model: PerDraw, to_path: PerDraw) -> Tensor:
    """A number with the wanted gradient: the model's at fixed draws, and lambda's through the draws alone."""
    assert draws.cut is not None
    return (to_model * draws.log_model).sum() + _along_path(draws.cut, (to_path * draws.log_weights).sum())


def _along_path(cutting: CutDraws, target: Tensor) -> Tensor:
    """Sum of (d target / d draw) draw, with the derivative taken through latents that follow, and held fixed."""
    total = torch.zeros_like(target)
    for name in reversed(cutting.drawn):
        (slope,) = torch.autograd.grad(
            target + total,
            cutting.cut[name],
            retain_graph=True,
            materialize_grads=True,  # of a latent that is masked, none
        )
        total = total + (slope.detach() * cutting.drawn[name]).sum()
    return total
