"""A guide of several modes: a mixture of factorised Gaussians whose draws carry gradients."""

from collections.abc import Sequence

import pyro.distributions as dist
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.nets import MLP
from pplvae.programs.discrete import draw


class ImplicitMixture(dist.MixtureOfDiagNormals):
    r"""Pyro's mixture with another gradient of its draws, which also holds for one latent.

    A draw solves F_d(h_d | h_<d; λ) = u_d in every dimension d, F_d the conditional distribution function, so that it
    moves with λ by dh_d = -dF_d / q(h_d | h_<d): a reparameterisation through which the weights have a gradient too.
    The component is chosen with uniforms and not by `torch.multinomial`, so that noise can be keyed by row.

    References:
        Implicit reparameterization gradients (Figurnov, Mohamed and Mnih, 2018), arXiv 1805.08498.
    """

    def rsample(self, sample_shape: Sequence[int] = ()) -> Tensor:
        """Draws with gradients."""
        shape = torch.Size(sample_shape) + self.batch_shape
        with torch.no_grad():
            chosen = draw(self.categorical.expand(shape))[..., None, None].expand(*shape, 1, self.dim)
            loc, scale = (
                each.expand(*shape, *each.shape[-2:]).gather(-2, chosen).squeeze(-2)
                for each in (self.locs, self.coord_scale)
            )
            value = torch.normal(loc, scale)
        return self._moving(value)

    def _moving(self, value: Float[Tensor, "... latent"]) -> Float[Tensor, "... latent"]:
        """The same numbers, with their gradient."""
        log_weights = self.categorical.logits
        columns: list[Tensor] = []
        for d, column in enumerate(value.unbind(-1)):
            normal = dist.Normal(self.locs[..., d], self.coord_scale[..., d], validate_args=False)
            log_weights = log_weights.log_softmax(-1)  # of the components, given the columns before
            at = column.unsqueeze(-1)
            below = (log_weights.exp() * normal.cdf(at)).sum(-1)
            log_density = (log_weights + normal.log_prob(at)).logsumexp(-1)
            columns.append(column - (below - below.detach()) * (-log_density.detach()).exp())
            log_weights = log_weights + normal.log_prob(columns[-1].unsqueeze(-1))
        return torch.stack(columns, -1)


class MixtureOfGaussians(nn.Module):
    r"""q(h; λ_φ(v)) = Σ_k w_k(v) N(μ_k(v), diag(σ_k(v)²)), for posteriors with more than one mode, skew or tails.

    Args:
        visible: columns of v.
        latent: dimension of h.
        hidden: widths of the encoder's hidden layers.
        components: how many Gaussians.

    Raises:
        ValueError: `components` below 1.

    References:
        Approximate inference for deep latent Gaussian mixtures (Nalisnick, Hertel and Smyth, 2016).
    """

    def __init__(self, visible: int, latent: int, hidden: Sequence[int] = (128,), components: int = 3) -> None:
        super().__init__()
        if components < 1:
            raise ValueError(f"`components` must be at least 1, got {components}.")
        self.components = components
        self.encoder = MLP(visible, hidden, [components, components * latent, components * latent])

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        logits, means, log_scales = self.encoder(v)
        shape = (self.components, -1)
        return ImplicitMixture(means.unflatten(-1, shape), log_scales.unflatten(-1, shape).exp(), logits)
