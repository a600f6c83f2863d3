"""A training step, as its user would write it without pplvae: by hand in torch, and three ways in Pyro's world."""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import Tensor

from benchmarks.measure import Block
from benchmarks.scoring import kl_to_prior
from benchmarks.workloads import Workload, batches

_LR = 1e-3


def hand(work: Workload, lr: float = _LR) -> Block:
    """Plain torch: closed-form KL, fused Adam, slices of a resident tensor."""
    optimiser = torch.optim.Adam(work.parameters(), lr=lr, fused=True)
    rows = work.block_rows()

    def block() -> None:
        for v in batches(rows):
            mean, log_scale = work.encoder(v).chunk(2, dim=-1)
            h = mean + log_scale.exp() * torch.randn_like(mean)
            elbo = work.law.log_prob(work.decoder, h, v) - kl_to_prior(mean, log_scale)
            optimiser.zero_grad(set_to_none=True)
            (-elbo.mean()).backward()
            optimiser.step()

    return block


def pyro_svi(work: Workload) -> Block:
    """Pyro's `SVI` with `pyro.optim.Adam`, as its tutorials have it; validation is on, as it is by default."""
    store: dict[str, Any] = {"params": {}, "constraints": {}}
    svi = SVI(work.model, work.guide, pyro.optim.Adam({"lr": _LR}), TraceMeanField_ELBO())
    rows = work.block_rows()

    def block() -> None:
        with pyro.get_param_store().scope(store):
            for v in batches(rows):
                svi.step(v)

    return block


class _Model(PyroModule):
    """The model of a workload as a module, which needs no `pyro.module`."""

    def __init__(self, work: Workload) -> None:
        super().__init__()
        self.decoder, self._law, self._latent = work.decoder, work.law, work.latent

    def forward(self, v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(self._latent, device=v.device), 1.0).to_event(1))
            pyro.sample("v", self._law.distribution(self.decoder, h, v), obs=v)


class _Guide(PyroModule):
    """The guide of a workload as a module."""

    def __init__(self, work: Workload) -> None:
        super().__init__()
        self.encoder = work.encoder

    def forward(self, v: Tensor) -> None:
        loc, log_scale = self.encoder(v).chunk(2, dim=-1)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(1))


def pyro_modules(work: Workload) -> Block:
    """Pyro's ELBO as a torch module, over modules, with fused Adam and validation off: what its experts write."""
    rows = work.block_rows()
    with _validation_off(), pyro.get_param_store().scope():
        loss = TraceMeanField_ELBO()(_Model(work), _Guide(work))
        loss(rows[:2])
    optimiser = torch.optim.Adam(work.parameters(), lr=_LR, fused=True)

    def block() -> None:
        with _validation_off(), pyro.get_param_store().scope():
            for v in batches(rows):
                optimiser.zero_grad(set_to_none=True)
                loss(v).backward()
                optimiser.step()

    return block


def _validation_off() -> Any:
    """A context in which neither Pyro nor torch checks arguments."""
    return pyro.settings.context(
        validate_poutine=False,
        validate_infer=False,
        validate_distributions_pyro=False,
        validate_distributions_torch=False,
    )


PEERS: dict[str, Callable[[Workload], Block]] = {
    "hand": hand,
    "Pyro SVI": pyro_svi,
    "Pyro ELBO module, fused Adam": pyro_modules,
}
