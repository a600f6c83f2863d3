"""Small networks, where no formula says what the optimum is: the reference is a long search in plain torch."""

import math
from collections.abc import Callable

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.truth_models import Guides, entropy, gaussians, guide_of, normals
from benchmarks.truth_searches import Left, Problem

_STEPS, _PAIRS = 3000, 32  # of the long search, and mirrored pairs of draws in each step
_FIRST_STEP, _LAST_STEP = 0.01, 1e-4
_SCORE_BLOCKS, _SCORE_PAIRS = 40, 256

LogJoint = Callable[[Tensor], Tensor]  # from latents of every row, axes (draw, row, latent), to nats


def network(kind: str, latents: int, rows: int = 20, columns: int = 30) -> Problem:
    """A tanh decoder with random weights, and an encoder that has not been trained.

    Args:
        kind: "Bernoulli" or "Gaussian" columns.
        latents: how many.
        rows: how many, drawn from the model.
        columns: of a row.
    """
    draw = normals(20 + latents)
    first, second = 1.5 * draw(latents, 20) / latents**0.5, draw(20, columns)
    weight = 0.1 * draw(columns, latents)

    def law(h: Tensor) -> dist.TorchDistribution:
        outputs = torch.tanh(h @ first) @ second
        return dist.Bernoulli(logits=outputs) if kind == "Bernoulli" else dist.Normal(outputs, 0.3)

    def model(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(v.new_zeros(len(v), latents), 1.0).to_event(1))
            pyro.sample("v", law(h).to_event(1), obs=v)

    def encode(v: Tensor) -> tuple[Tensor, ...]:
        return torch.tanh(v @ weight), torch.full((len(v), latents), 0.6, dtype=v.dtype)

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        v = law(draw(rows, latents)).sample()
    encoded = gaussians(*encode(v))

    def log_joint(h: Tensor) -> Tensor:
        return -0.5 * (h.square() + math.log(2 * math.pi)).sum(-1) + law(h).log_prob(v).sum(-1)

    def left(lam: Guides) -> Left:
        reference = long_search(log_joint, lam)
        return Left(gained(log_joint, lam, reference), gained(log_joint, encoded, lam))

    return Problem(f"tanh network, {kind}, {latents} latents", model, guide_of(encode), v, left)


def long_search(log_joint: LogJoint, start: Guides) -> Guides:
    """Adam with fresh draws from a start, its steps ever smaller; the mean over the last third of where it has been."""
    draw = normals(77)
    loc, log_scale = start["h.loc"].clone().requires_grad_(), start["h.scale"].log().requires_grad_()
    adam = torch.optim.Adam([loc, log_scale], lr=_FIRST_STEP)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(adam, _STEPS, eta_min=_LAST_STEP)
    total, counted = [torch.zeros_like(loc), torch.zeros_like(loc)], 0
    for step in range(_STEPS):
        adam.zero_grad()
        noise = draw(_PAIRS, *loc.shape)
        log_p = log_joint(loc + log_scale.exp() * torch.cat([noise, -noise])).mean(0)
        (-(log_p + entropy(log_scale.exp())).sum()).backward()
        adam.step()
        schedule.step()
        if 3 * step >= 2 * _STEPS:
            counted += 1
            for mean, now in zip(total, (loc, log_scale), strict=True):
                mean += now.detach()
    return gaussians(total[0] / counted, (total[1] / counted).exp())


def gained(log_joint: LogJoint, old: Guides, new: Guides) -> Tensor:
    """What the ELBO of every row has gained, in nats, on the same draws under both guides."""
    draw, difference = normals(78), torch.zeros(len(old["h.loc"]), dtype=torch.float64)
    with torch.no_grad():
        for _ in range(_SCORE_BLOCKS):
            noise = draw(_SCORE_PAIRS, *old["h.loc"].shape)
            noise = torch.cat([noise, -noise])
            log_p = (log_joint(lam["h.loc"] + lam["h.scale"] * noise).mean(0) for lam in (old, new))
            before, after = log_p
            difference += (after - before) / _SCORE_BLOCKS
    return difference + entropy(new["h.scale"]) - entropy(old["h.scale"])
