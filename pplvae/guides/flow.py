"""A guide that is a normalising flow, with what the encoder makes of v as its context."""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.flows import ZukoFlow
from pplvae.isolate import import_zuko
from pplvae.nets import MLP
from pplvae.programs.local import local


class Flow(nn.Module):
    r"""q(h; λ_φ(v)): normal noise through splines, affine couplings and an affine map, all given a context c(v).

    The splines bend each element of the noise, for skew, tails and modes; the couplings bend them along each other.

    Couplings, because guides are scored in two ways: at their own draws in every step of SVI, and elsewhere by
    annealing and by the ladder of families. Both take one pass here. An inverse autoregressive flow would score its own
    draws as cheaply, but other points with one pass per latent, one after the other.

    λ is the context, named by `pplvae.local`: the row's own guide has its own context, in the same flow.

    Args:
        visible: columns of v.
        latent: dimension of h; with one there is nothing to couple.
        hidden: widths of the encoder's hidden layers.
        context: columns of c(v).
        couplings: each shifts and stretches one half of the latents given the other.
        width: hidden units of the network of each coupling and each other map.
        bins: pieces of each spline, on (-5, 5); the identity outside.

    Raises:
        ModuleNotFoundError: zuko is not installed.
        ValueError: a size below 1.

    References:
        Density estimation using Real NVP (Dinh et al., 2017), arXiv 1605.08803, for the couplings; Neural spline flows
        (Durkan et al., 2019), arXiv 1906.04032; Variational inference with normalizing flows (Rezende and Mohamed,
        2015), arXiv 1505.05770.
    """

    def __init__(
        self,
        visible: int,
        latent: int,
        hidden: Sequence[int] = (128,),
        context: int = 16,
        couplings: int = 4,
        width: int = 32,
        bins: int = 8,
    ) -> None:
        super().__init__()
        sizes = {"context": context, "couplings": couplings, "width": width, "bins": bins}
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"`{name}` must be at least 1, got {size}.")
        self.encoder = MLP(visible, hidden, [context])
        self.flow = _coupling_flow(latent, **sizes)

    def forward(self, v: Float[Tensor, "row column"]) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,)."""
        (context,) = self.encoder(v)
        return ZukoFlow(self.flow(local("context", context)))


def _coupling_flow(latent: int, context: int, couplings: int, width: int, bins: int) -> nn.Module:
    zuko = import_zuko()
    hidden = {"hidden_features": (width,)}
    spline = {"univariate": zuko.transforms.MonotonicRQSTransform, "shapes": [(bins,), (bins,), (bins - 1,)]}
    maps: list[Any] = [zuko.flows.ElementWiseTransform(latent, context, **hidden)]
    for k in range(couplings):
        side = torch.arange(latent) % 2 == k % 2
        maps.append(zuko.flows.GeneralCouplingTransform(latent, context, side, **hidden))
    maps.append(zuko.flows.ElementWiseTransform(latent, context, **spline, **hidden))
    base = zuko.lazy.UnconditionalDistribution(
        zuko.distributions.DiagNormal, torch.zeros(latent), torch.ones(latent), buffer=True
    )
    # Zuko maps data to noise; inverted, drawing is the direction in which a spline has no square root to take.
    return zuko.flows.Flow([each.inv for each in maps], base)
