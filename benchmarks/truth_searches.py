"""Pairs on which a search can go wrong, and what is left to the optimum of the hill on which it has ended."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

from benchmarks.truth_models import (
    Guides,
    Linear,
    Pair,
    elbo_on_grid,
    entropy,
    gaussians,
    guide_of,
    nonlinear,
    normals,
    table,
)

_NEWTON_STEPS = 200


class Left(NamedTuple):
    """What the truth says of returned guides, in nats per row.

    Attributes:
        nats: that are left to the optimum.
        gain: of the ELBO over the encoder's.
        elsewhere: how much higher the highest hill is that was found from many starts; None where it was not sought.
    """

    nats: Tensor
    gain: Tensor
    elsewhere: Tensor | None = None


@dataclass(frozen=True)
class Problem:
    """A pair to search, and the truth about what is found."""

    group: str
    model: Callable[..., object]
    guide: Callable[..., object]
    rows: Tensor
    left: Callable[[Guides], Left]


# ---------------------------------------------------------------------------------------- linear-Gaussian


def random_linear(seed: int) -> Problem:
    """1-60 latents, 1-300 columns, noise 1e-3 to 10, an encoder off by up to 20 deviations and exp(6) in its scales."""
    generator, draw = np.random.default_rng(seed), normals(10_000 + seed)
    latents, columns = (round(math.exp(generator.uniform(0, math.log(most)))) for most in (60, 300))
    noise = math.exp(generator.uniform(math.log(1e-3), math.log(10)))
    dtype = torch.float32 if generator.random() < 0.5 else torch.float64
    rows = int(generator.integers(20, 41))
    off, too_wide = generator.choice([0.3, 3.0, 20.0]), generator.choice([0.2, 2.0, 6.0])
    made = Linear.random(seed, rows, latents, columns, noise, dtype)
    mean, precision = made.posterior()
    deviation = torch.linalg.inv(precision).diagonal().clamp(min=1e-12).sqrt()
    loc = (mean + off * torch.sin(3 * draw(rows, latents)) * deviation).to(dtype)
    scale = (precision.diagonal().rsqrt() * (too_wide * torch.sin(3 * draw(rows, latents))).exp()).to(dtype)
    encoded = gaussians(loc, scale)

    def left(lam: Guides) -> Left:
        nats = made.left(lam)
        return Left(nats, made.left(encoded) - nats)

    name = f"linear-Gaussian, {str(dtype).removeprefix('torch.')}"
    return Problem(name, made.model, guide_of(table(made.rows, loc, scale)), made.rows, left)


# ------------------------------------------------------------------------------------- one and two latents


def climbed(elbo: Callable[[Guides], Tensor], start: Guides) -> Tensor:
    """The ELBO at the top of the hill on which Gaussian guides are, by damped Newton steps that never fall."""
    sites = sorted({name.split(".")[0] for name in start})
    widths = [start[f"{site}.loc"].shape[1] for site in sites]

    def of(x: Tensor) -> Tensor:
        loc, log_scale = (part.split(widths, 1) for part in x.chunk(2, 1))
        lam = {f"{site}.loc": some for site, some in zip(sites, loc, strict=True)}
        return elbo(lam | {f"{site}.scale": some.exp() for site, some in zip(sites, log_scale, strict=True)})

    x = torch.cat([start[f"{s}.loc"] for s in sites] + [start[f"{s}.scale"].log() for s in sites], 1)
    value, damping = of(x), torch.full_like(x[:, :1], 1e-3)
    for _ in range(_NEWTON_STEPS):
        slope, second = _derivatives(of, x)
        sizes, axes = torch.linalg.eigh(-second)
        along = (axes.mT @ slope.unsqueeze(-1)).squeeze(-1)
        if bool((along.square() / (sizes.abs() + 1e-6)).sum(-1).max() < 1e-8):
            break
        step = (axes @ (along / (sizes.abs() + damping)).unsqueeze(-1)).squeeze(-1)
        step = step / step.norm(dim=1, keepdim=True).clamp(min=1)
        new = of(x + step)
        rises = (new > value).unsqueeze(-1)
        x, value = torch.where(rises, x + step, x), torch.where(rises[:, 0], new, value)
        damping = torch.where(rises, damping / 4, damping * 4).clamp(min=1e-9)
    return value


def _derivatives(of: Callable[[Tensor], Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    slope = torch.autograd.grad(of(x).sum(), x, create_graph=True)[0]
    second = [torch.autograd.grad(slope[:, k].sum(), x, retain_graph=True)[0] for k in range(x.shape[1])]
    return slope.detach(), torch.stack(second, 1)


def _few_latents(pair: Pair, starts: Sequence[Guides]) -> Problem:
    def left(lam: Guides) -> Left:
        found, top = pair.elbo(lam), climbed(pair.elbo, lam)
        tops = torch.stack([top, *(climbed(pair.elbo, start) for start in starts)])
        return Left(top - found, found - pair.elbo(pair.encoded), tops.amax(0) - top)

    return Problem(pair.name, pair.model, pair.guide, pair.rows, left)


def funnel_pair(rows: int = 60) -> Pair:
    """Of two latents: a ~ N(0, 1.5), b ~ N(0, exp(a)), v ~ N(b, 0.1); E exp(-2a) is known, and so the ELBO."""
    width, noise, draw = 1.5, 0.1, normals(12)
    v = (width * draw(rows, 1)).exp() * draw(rows, 1) + noise * draw(rows, 1)

    def model(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            a = pyro.sample("a", dist.Normal(torch.zeros_like(v), width).to_event(1))
            b = pyro.sample("b", dist.Normal(torch.zeros_like(v), a.exp()).to_event(1))
            pyro.sample("v", dist.Normal(b, noise).to_event(1), obs=v)

    def encode(v: Tensor) -> Guides:
        return {
            "a.loc": (v.abs() + 0.2).log(),
            "a.scale": torch.ones_like(v),
            "b.loc": v,
            "b.scale": torch.full_like(v, noise),
        }

    def guide(v: Tensor) -> None:
        lam = encode(v)
        with pyro.plate("data", len(v)):
            for site in ("a", "b"):
                pyro.sample(site, dist.Normal(lam[f"{site}.loc"], lam[f"{site}.scale"]).to_event(1))

    def elbo(lam: Guides) -> Tensor:
        a, s, b, t = (lam[name] for name in ("a.loc", "a.scale", "b.loc", "b.scale"))
        square = b.square() + t.square()
        log_p = -0.5 * (a.square() + s.square()) / width**2 - math.log(width)
        log_p = log_p - a - 0.5 * square * (2 * s.square() - 2 * a).exp()
        log_p = log_p - 0.5 * ((v - b).square() + t.square()) / noise**2 - math.log(noise)
        return (log_p - 1.5 * math.log(2 * math.pi)).sum(-1) + entropy(s) + entropy(t)

    return Pair("funnel, 2 latents", model, guide, v, encode(v), elbo)


def funnel() -> Problem:
    """See `funnel_pair`; other starts have another width, or forget the row."""
    pair = funnel_pair()
    starts = [
        {**pair.encoded, "a.loc": torch.full_like(pair.rows, mean), "b.loc": share * pair.rows}
        for mean in (-3, 0, 3)
        for share in (0, 1)
    ]
    return _few_latents(pair, starts)


def steep_pair(rows: int = 60) -> Pair:
    """Saturated: v ~ N(tanh(20 h1), 0.3), and a second latent that is not used."""
    draw = normals(13)
    v = torch.tanh(20 * draw(rows, 1)) + 0.3 * draw(rows, 1)

    def model(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(v.new_zeros(len(v), 2), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(torch.tanh(20 * h[..., :1]), 0.3).to_event(1), obs=v)

    def log_joint(v: Tensor, h: Tensor) -> Tensor:
        return (dist.Normal(0.0, 1.0).log_prob(h) + dist.Normal(torch.tanh(20 * h), 0.3).log_prob(v)).sum(-1)

    def encode(v: Tensor) -> tuple[Tensor, ...]:
        return torch.cat([0.5 * v, v], 1), torch.full((len(v), 2), 0.5, dtype=v.dtype)

    def elbo(lam: Guides) -> Tensor:
        loc, scale = lam["h.loc"], lam["h.scale"]
        unused = 0.5 * (1 + scale[:, 1].square().log() - scale[:, 1].square() - loc[:, 1].square())
        return elbo_on_grid(log_joint, v, loc[:, :1], scale[:, :1]) + unused

    return Pair("steep, 2 latents", model, guide_of(encode), v, gaussians(*encode(v)), elbo)


def steep() -> Problem:
    """See `steep_pair`."""
    pair = steep_pair()
    return _few_latents(pair, _line_of_starts(len(pair.rows), 2))


def wavy_search() -> Problem:
    """One latent, with a mean and a scale that go up and down in it."""
    pair = nonlinear()
    return _few_latents(pair, _line_of_starts(len(pair.rows), 1))


def _line_of_starts(rows: int, latents: int) -> list[Guides]:
    """Guides over a site "h" whose means are on a line, narrow and wide ones."""
    found = []
    for mean in np.linspace(-3, 3, 9).tolist():
        for scale in (0.1, 0.7):
            loc = torch.zeros(rows, latents, dtype=torch.float64)
            loc[:, 0] = mean
            found.append(gaussians(loc, torch.full_like(loc, scale)))
    return found
