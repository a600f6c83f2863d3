"""p(h) of a torch VAE, which is often written nowhere but in its loss."""

from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch import distributions as td

from pplvae.adapters.distributions import of_every_row, row_by_row
from pplvae.adapters.networks import Network
from pplvae.adapters.quantities import Held, positive
from pplvae.errors import ProgramError, UnknownNameError
from pplvae.priors import PRIORS
from pplvae.priors.base import zeros

_OURS = tuple(PRIORS.values())


class TorchPrior(nn.Module):
    """p(h), or p(h | c) of the row's extra inputs c, from whatever a user has for it.

    Args:
        prior: see `from_torch`.

    Raises:
        UnknownNameError: a name other than "standard-normal": other priors have parameters, and fresh ones would not be
            those that were trained.
        ProgramError: an object that is none of those that are taken.
    """

    def __init__(self, prior: Any) -> None:
        super().__init__()
        if isinstance(prior, str) and prior != "standard-normal":
            raise UnknownNameError("prior", prior, ["standard-normal"])
        self.prior: Any = prior
        if isinstance(prior, tuple):
            loc, scale = _two(prior)
            self.prior = nn.ModuleList([Held("prior", loc), positive("prior", scale)])
        elif isinstance(prior, td.Distribution):
            _check_fixed(prior)
        elif not isinstance(prior, (str, *_OURS)):
            self.prior = Network("prior", self.prior)

    def forward(self, shape: torch.Size, v: Tensor, *extra: Tensor) -> Any:
        """p(h) with batch shape (row,), of values of this shape."""
        if not isinstance(self.prior, Network):
            return of_every_row(self._of_all(shape, v), len(v), shape)
        conditional = self.prior.inputs != 0
        found = self.prior(*extra) if conditional and extra else self._alone(self.prior)
        if not isinstance(found, td.Distribution):
            raise ProgramError(f"The prior gives {type(found).__name__}; a `torch.distributions` object is expected.")
        return row_by_row(found) if conditional else of_every_row(found, len(v), shape)

    def _of_all(self, shape: torch.Size, v: Tensor) -> Any:
        if isinstance(self.prior, nn.ModuleList):
            loc, scale = self.prior
            return dist.Normal(loc(v), scale(v))
        if isinstance(self.prior, str):
            mean = zeros(shape.numel(), v).reshape(shape)
            return dist.Normal(mean, mean + 1)
        return self.prior if isinstance(self.prior, td.Distribution) else self.prior(v)

    def _alone(self, network: Network) -> Any:
        if network.inputs:
            raise ProgramError(
                f"The prior takes {network.inputs} inputs, which are the rows' extra ones, and these rows have none. "
                "Pass `rows=(v, c)`, or a prior without inputs."
            )
        return network.owner() if network.method is None else getattr(network.owner, network.method)()

    def __repr__(self) -> str:
        return self.prior if isinstance(self.prior, str) else repr(self.prior)


def _two(prior: tuple[Any, ...]) -> tuple[Any, Any]:
    if len(prior) != 2:
        raise ProgramError(f"A prior that is a tuple is (loc, scale) of a normal, got {len(prior)} parts.")
    return prior[0], prior[1]


def _check_fixed(prior: td.Distribution) -> None:
    """Refuse a distribution whose parameters are trained: it is made once, and nothing could find them."""
    inner: Any = prior
    while inner is not None:
        if any(isinstance(value, Tensor) and value.requires_grad for value in vars(inner).values()):
            raise ProgramError(
                "The prior is a distribution with parameters that are trained, which are not found in it. Pass (loc, "
                "scale) with the `nn.Parameter`s themselves, or a module whose `forward()` makes the distribution."
            )
        inner = vars(inner).get("base_dist") or vars(inner).get("_component_distribution")
