"""Factorised guides drawn by inverting a distribution function: h = F^{-1}(u; lambda_phi(v)), u uniform on (0, 1)."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution
from torch.distributions.utils import clamp_probs

from pplvae.nets import MLP


class Logistic(dist.Logistic):
    """Pyro's logistic distribution; a uniform of exactly 0, which torch does draw, would become minus infinity."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """F^{-1} of a uniform, with gradients."""
        return self.icdf(clamp_probs(torch.rand_like(self.loc.expand(self._extended_shape(torch.Size(sample_shape))))))


class Kumaraswamy(dist.Kumaraswamy):
    """Torch's Kumaraswamy distribution, computed in logarithms: torch's own draws 0 and 1, with density NaN there."""

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """F^{-1} of a uniform, with gradients; strictly between 0 and 1."""
        u = clamp_probs(torch.rand_like(self.concentration1.expand(self._extended_shape(torch.Size(sample_shape)))))
        log_power = (-torch.expm1(torch.log1p(-u) / self.concentration0)).log()
        return _inside((log_power / self.concentration1).exp())

    def log_prob(self, value: Tensor) -> Tensor:
        """Log-density in nats; 0 and 1 are taken for the nearest numbers inside, minus infinity beyond them."""
        if self._validate_args:
            self._validate_sample(value)
        a, b, log_value = self.concentration1, self.concentration0, _inside(value).log()
        log_density = a.log() + b.log() + (a - 1) * log_value + (b - 1) * (-torch.expm1(a * log_value)).log()
        return torch.where((value < 0) | (value > 1), -torch.inf, log_density)


class FactorisedLogistic(nn.Module):
    r"""q(h; λ_φ(v)): independent logistic coordinates; tails heavier than the Gaussian's.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers.

    References:
        Auto-encoding variational Bayes (Kingma and Welling, 2014), section 2.4, arXiv 1312.6114.
    """

    def __init__(self, visible: int, latent: int, hidden: Sequence[int] = (128,)) -> None:
        super().__init__()
        self.encoder = MLP(visible, hidden, [latent, latent])

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        loc, log_scale = self.encoder(v)
        return Logistic(loc, log_scale.exp()).to_event(1)


class FactorisedGumbel(nn.Module):
    r"""q(h; λ_φ(v)): independent Gumbel coordinates, skewed to the right.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers.

    References:
        Auto-encoding variational Bayes (Kingma and Welling, 2014), section 2.4, arXiv 1312.6114.
    """

    def __init__(self, visible: int, latent: int, hidden: Sequence[int] = (128,)) -> None:
        super().__init__()
        self.encoder = MLP(visible, hidden, [latent, latent])

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        loc, log_scale = self.encoder(v)
        return dist.Gumbel(loc, log_scale.exp()).to_event(1)


class FactorisedKumaraswamy(nn.Module):
    r"""q(h; λ_φ(v)): independent Kumaraswamy coordinates on (0, 1), for a prior on (0, 1) such as the uniform.

    They resemble the Beta, with a distribution function that has a closed inverse. With a prior on the real line the
    pair is still valid, but the guide cannot leave (0, 1), and neither can annealing that starts from it.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers.

    References:
        A generalized probability density function for double-bounded random processes (Kumaraswamy, 1980);
        Stick-breaking variational autoencoders (Nalisnick and Smyth, 2017), arXiv 1605.06197.
    """

    def __init__(self, visible: int, latent: int, hidden: Sequence[int] = (128,)) -> None:
        super().__init__()
        self.encoder = MLP(visible, hidden, [latent, latent])

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        log_first, log_second = self.encoder(v)
        return Kumaraswamy(log_first.exp(), log_second.exp()).to_event(1)


def _inside(value: Tensor) -> Tensor:
    limits = torch.finfo(value.dtype)
    return value.clamp(limits.tiny, 1 - limits.eps)
