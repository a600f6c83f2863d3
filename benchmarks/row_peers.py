"""A guide of its own for every row, all rows at once, as users without pplvae would find it.

All start at the encoder's answer and end after a given number of steps, with a cosine decay of the step size. They
return mean and log scale, axes (row, latent).
"""

from collections.abc import Callable
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import constraints
from torch.optim.lr_scheduler import CosineAnnealingLR

from benchmarks.scoring import elbo
from benchmarks.workloads import Workload

Guides = tuple[Tensor, Tensor]

DRAWS = 16  # fresh ones per row and step
_LR = 0.02


def batched_adam(work: Workload, steps: int) -> Guides:
    """Torch autograd and Adam on the sum of all rows' ELBOs, written without further thought."""
    work = work.copy()  # backward leaves gradients in the decoder
    return _adam(work, steps)


def batched_adam_frozen(work: Workload, steps: int) -> Guides:
    """The same by someone who has thought of it that the decoder needs no gradients."""
    work = work.copy()
    for parameter in work.parameters():
        parameter.requires_grad_(False)
    return _adam(work, steps)


def _adam(work: Workload, steps: int) -> Guides:
    mean, log_scale = (tensor.requires_grad_() for tensor in work.encoded())
    optimiser = torch.optim.Adam([mean, log_scale], lr=_LR)
    schedule = CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        noise = torch.randn(DRAWS, *mean.shape, device=mean.device)
        optimiser.zero_grad()
        (-elbo(work, mean, log_scale, noise, work.rows).sum()).backward()
        optimiser.step()
        schedule.step()
    return mean.detach(), log_scale.detach()


def batched_pyro(work: Workload, steps: int) -> Guides:
    """Pyro's SVI: one `pyro.param` for all rows' means, one for their scales, draws vectorised over a plate."""
    work = work.copy()
    mean, log_scale = work.encoded()

    def guide(v: Tensor) -> None:
        loc = pyro.param("loc", mean)
        scale = pyro.param("scale", log_scale.exp(), constraint=constraints.positive)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, scale).to_event(1))

    with pyro.get_param_store().scope():
        # The decoder's parameters are hidden from SVI, which would train them.
        model = pyro.poutine.block(work.model, hide_types=["param"])
        objective = TraceMeanField_ELBO(num_particles=DRAWS, vectorize_particles=True, max_plate_nesting=1)
        schedule = _pyro_cosine(steps)
        svi = SVI(model, guide, schedule, objective)
        for _ in range(steps):
            svi.step(work.rows)
            schedule.step()
        return pyro.param("loc").detach(), pyro.param("scale").detach().log()


def _pyro_cosine(steps: int) -> Any:
    arguments = {"optimizer": torch.optim.Adam, "optim_args": {"lr": _LR}, "T_max": steps}
    return pyro.optim.CosineAnnealingLR(arguments)


def pyro_loop(work: Workload, steps: int) -> Guides:
    """A Python loop over rows of Pyro's SVI."""
    found = []
    for i in range(len(work.rows)):
        one = work.copy()
        one.rows = work.rows[i : i + 1]
        found.append(batched_pyro(one, steps))
    mean, log_scale = zip(*found, strict=True)
    return torch.cat(mean), torch.cat(log_scale)


BATCHED: dict[str, Callable[[Workload, int], Guides]] = {
    "batched torch Adam": batched_adam,
    "batched torch Adam, decoder frozen": batched_adam_frozen,
    "batched Pyro SVI": batched_pyro,
}
