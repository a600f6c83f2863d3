"""The score-function gradient: what does without reparameterised draws."""

from dataclasses import dataclass

from torch import Tensor

from pplvae.objectives.draws import Draws, on_average, with_gradient_of


@dataclass(frozen=True)
class ScoreFunction:
    """The ELBO, with score-function gradients and the mean of the row's other draws as control variate.

    The alternative to reparametrisation: latents may be discrete, and the decoder need not be differentiable in h. The
    baseline is independent of the draw that it is subtracted from, so the gradient stays unbiased.

    Args:
        particles: draws per row, at least 2.

    Raises:
        ValueError: fewer than 2 draws.

    References:
        Variational inference for Monte Carlo objectives (Mnih and Rezende, 2016), arXiv 1602.06725, for leaving one
        out; Buy 4 REINFORCE samples, get a baseline for free! (Kool, van Hoof and Welling, 2019).
    """

    particles: int = 8
    cut, through = True, False

    def __post_init__(self) -> None:
        if self.particles < 2:
            raise ValueError(f"Leaving one out takes at least 2 draws, got {self.particles}.")

    def __call__(self, draws: Draws) -> Tensor:
        """Sum over rows, in nats."""
        worth = draws.log_weights.detach()
        others = (worth.sum(0) - worth) / (self.particles - 1)
        return with_gradient_of(
            on_average(draws.log_weights), on_average((worth - others) * draws.log_guide + draws.log_model)
        )
