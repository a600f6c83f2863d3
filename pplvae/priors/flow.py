"""A normalising flow as prior."""

import torch
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.flows import ZukoFlow
from pplvae.isolate import import_zuko

_NEAR = 0.1  # of zuko's initial weights of each network's last layer, with which one latent begins 10 nats away


class Flow(nn.Module):
    """h = T(z), z ~ N(0, I), T autoregressive with spline pieces, which the density at a point takes one pass through.

    Draws take one pass per latent: a model scores latents in every step, and draws them only when it generates. Each
    spline bends (-5, 5) and leaves the rest as it is. The flow begins near the standard normal.

    Args:
        latent: dimension of h.
        transforms: autoregressive maps, one after the other.
        width: hidden units in each of the two layers of every map's network.

    Raises:
        ModuleNotFoundError: zuko is not installed.

    References:
        Neural spline flows (Durkan et al., 2019), arXiv 1906.04032; flows as priors: Variational lossy autoencoder
        (Chen et al., 2017), arXiv 1611.02731.
    """

    def __init__(self, latent: int, transforms: int = 3, width: int = 64) -> None:
        super().__init__()
        self.flow = import_zuko().flows.NSF(latent, transforms=transforms, hidden_features=(width, width))
        with torch.no_grad():
            for transform in self.flow.transform.transforms:
                # With one latent there is nothing to be given, and zuko has parameters in the place of a network.
                last = transform if latent == 1 else transform.hyper[-1]
                for parameter in last.parameters():
                    parameter.mul_(_NEAR)

    def forward(self, like: Tensor) -> Distribution:
        """The flow, over all of the space."""
        return ZukoFlow(self.flow())
