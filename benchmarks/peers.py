"""The competitors, written as a user without pplvae would write them."""

from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import SVI, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import constraints

from benchmarks.workloads import Workload


def pyro_svi_epoch(work: Workload, batch: int) -> Callable[[], None]:
    """One epoch of Pyro's SVI with `pyro.optim.Adam`."""
    pyro.clear_param_store()
    svi = SVI(work.vae.model, work.vae.guide, pyro.optim.Adam({"lr": 1e-3}), TraceMeanField_ELBO())

    def epoch() -> None:
        order = torch.randperm(len(work.train))
        for start in range(0, len(order), batch):
            svi.step(work.train[order[start : start + batch]])

    return epoch


def hand_epoch(work: Workload, batch: int) -> Callable[[], None]:
    """One epoch of a plain torch loop: closed-form KL, fused Adam, slices of a shuffled tensor."""
    vae = work.vae
    optimiser = torch.optim.Adam(vae.parameters(), lr=1e-3, fused=True)

    def epoch() -> None:
        shuffled = work.train[torch.randperm(len(work.train))]
        for start in range(0, len(shuffled), batch):
            v = shuffled[start : start + batch]
            mean, log_scale = vae.family.encoder(v)
            h = mean + log_scale.exp() * torch.randn_like(mean)
            (logits,) = vae.decoder(h)
            log_p = -torch.nn.functional.binary_cross_entropy_with_logits(logits, v, reduction="sum")
            kl = 0.5 * (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum()
            optimiser.zero_grad(set_to_none=True)
            ((kl - log_p) / len(v)).backward()
            optimiser.step()

    return epoch


def batched_adam(work: Workload, steps: int = 500, draws: int = 16, lr: float = 0.02) -> tuple[Tensor, Tensor]:
    """Per-row (mean, log scale) for all rows at once: autograd, Adam, fresh draws, cosine decay."""
    start = [t.detach().clone().requires_grad_() for t in work.vae.family.encoder(work.rows)]
    optimiser = torch.optim.Adam(start, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (-elbo(work, start[0], start[1], draws).sum()).backward()
        optimiser.step()
        schedule.step()
    return start[0].detach(), start[1].detach()


def pyro_loop(work: Workload, rows: int = 2, steps: int = 500, draws: int = 16) -> None:
    """A Python loop over rows of Pyro's SVI: few rows, to be extrapolated."""
    for i in range(rows):
        pyro.clear_param_store()
        mean, log_scale = (t.detach()[i : i + 1] for t in work.vae.family.encoder(work.rows))
        row = work.rows[i : i + 1]

        def guide(v: Tensor, mean: Tensor = mean, log_scale: Tensor = log_scale) -> None:
            loc = pyro.param("loc", mean.clone())
            scale = pyro.param("scale", log_scale.exp(), constraint=constraints.positive)
            with pyro.plate("data", len(v)):
                pyro.sample("h", dist.Normal(loc, scale).to_event(1))

        frozen = pyro.poutine.block(work.vae.model, hide_types=["param"])
        objective = TraceMeanField_ELBO(num_particles=draws, vectorize_particles=True, max_plate_nesting=1)
        svi = SVI(frozen, guide, pyro.optim.Adam({"lr": 0.02}), objective)
        for _ in range(steps):
            svi.step(row)


def elbo(work: Workload, mean: Tensor, log_scale: Tensor, draws: int) -> Tensor:
    """ELBO of every row for given per-row guides, in nats."""
    noise = torch.randn(draws, *mean.shape)
    h = mean + log_scale.exp() * noise
    (logits,) = work.vae.decoder(h.flatten(0, 1))
    v = work.rows.expand(draws, -1, -1).flatten(0, 1)
    log_p = -torch.nn.functional.binary_cross_entropy_with_logits(logits, v, reduction="none").sum(-1)
    kl = 0.5 * (mean**2 + (2 * log_scale).exp() - 1 - 2 * log_scale).sum(-1)
    return log_p.unflatten(0, (draws, -1)).mean(0) - kl
