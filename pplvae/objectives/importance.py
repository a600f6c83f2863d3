"""Bounds of the importance-weighted kind, row by row: IWAE and Rényi's."""

import math
from dataclasses import dataclass

from torch import Tensor

from pplvae.objectives.draws import Draws


@dataclass(frozen=True)
class IWAE:
    r"""The importance-weighted bound :math:`\log\frac1K\sum_k p(v, h_k) / q(h_k \mid v)`, of each row.

    Below log p(v) in expectation, and tighter as K grows; K = 1 is the ELBO. (Pyro's `RenyiELBO` sums over the rows of
    a batch before it weights, unless particles are vectorised over a plate of its own.)

    Args:
        particles: K, draws per row.

    References:
        Importance weighted autoencoders (Burda, Grosse and Salakhutdinov, 2016), arXiv 1509.00519.
    """

    particles: int = 10
    cut, through = False, True

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        return (draws.log_weights.logsumexp(0) - math.log(self.particles)).sum()


@dataclass(frozen=True)
class RenyiELBO:
    r"""The variational Rényi bound :math:`\frac{1}{1-\alpha}\log\frac1K\sum_k w_k^{1-\alpha}`, of each row.

    Args:
        alpha: 0 gives IWAE; towards 1 the bound becomes the ELBO; negative values lie above log p(v) as K grows.
        particles: K, draws per row.

    Raises:
        ValueError: alpha = 1.

    References:
        Rényi divergence variational inference (Li and Turner, 2016), arXiv 1602.02311.
    """

    alpha: float = 0.5
    particles: int = 10
    cut, through = False, True

    def __post_init__(self) -> None:
        if self.alpha == 1:
            raise ValueError("At alpha = 1 Rényi's bound is the ELBO: use `Trace_ELBO`.")

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        power = 1 - self.alpha
        return ((power * draws.log_weights).logsumexp(0) - math.log(self.particles)).sum() / power
