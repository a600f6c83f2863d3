"""Pairs whose ELBOs and evidence are known: in closed form, by quadrature or by enumeration, without pplvae."""

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor

Guides = Mapping[str, Tensor]  # lambda of every row, by `<site>.<parameter>`; float64, axes (row, element)

_REACH, _STEPS = 9.0, 1200  # of a grid under a guide, in its standard deviations: it misses a share of 1e-18
_STEPS_OF_TWO = 80  # on either axis


@dataclass(frozen=True)
class Pair:
    """A model, a guide, and what is right.

    Attributes:
        name: of the pair.
        model: p(v, h).
        guide: q(h | v), for these rows only.
        rows: v.
        encoded: the guides that the guide gives.
        elbo: of any guides of the family, in nats per row.
        evidence: log p(v) of every row; None where it is not known.
    """

    name: str
    model: Callable[..., object]
    guide: Callable[..., object]
    rows: Tensor
    encoded: Guides
    elbo: Callable[[Guides], Tensor]
    evidence: Tensor | None = None


def normals(seed: int) -> Callable[..., Tensor]:
    """Standard normals of any shape, the same for the same seed; float64."""
    generator = torch.Generator().manual_seed(seed)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


Encoder = Callable[[Tensor], tuple[Tensor, ...]]


def table(rows: Tensor, *values: Tensor) -> Encoder:
    """An encoder that may be wrong in any way: it knows these rows, in whatever order and number they come.

    Raises:
        ValueError: two rows are alike in their first column.
    """
    known, order = rows.reshape(len(rows), -1)[:, 0].sort()
    if len(rows) > 1 and bool((known.diff() == 0).any()):
        raise ValueError("The rows must differ in their first column.")
    of_sorted = [some.to(rows.dtype)[order] for some in values]

    def encode(v: Tensor) -> tuple[Tensor, ...]:
        position = torch.searchsorted(known, v.reshape(len(v), -1)[:, 0].contiguous())
        return tuple(some[position] for some in of_sorted)

    return encode


def guide_of(encode: Encoder, family: Callable[..., Any] = dist.Normal) -> Callable[[Tensor], None]:
    """A guide over a site "h", factorised."""

    def guide(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            pyro.sample("h", family(*encode(v)).to_event(1))

    return guide


def gaussians(loc: Tensor, scale: Tensor) -> Guides:
    """Lambda of Gaussian guides over a site "h"."""
    return {"h.loc": loc.double(), "h.scale": scale.double()}


def entropy(scale: Tensor) -> Tensor:
    """The entropy of factorised Gaussians, in nats per row."""
    return (scale.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


# ---------------------------------------------------------------------------------------- linear-Gaussian


@dataclass(frozen=True)
class Linear:
    """A linear-Gaussian model v = W h + b + noise, and its rows.

    Attributes:
        weight: W, axes (column, latent).
        offset: b.
        noise: its standard deviation.
        rows: v, all in the type of W.
    """

    weight: Tensor
    offset: Tensor
    noise: float
    rows: Tensor

    @classmethod
    def random(
        cls, seed: int, rows: int, latents: int, columns: int, noise: float, dtype: torch.dtype = torch.float64
    ) -> "Linear":
        """One with standard normal weights; its numbers are exact in the type that the program computes in."""
        draw = normals(seed)
        weight, offset = draw(columns, latents).to(dtype), draw(columns).to(dtype)
        noise = float(torch.tensor(noise, dtype=dtype))
        v = draw(rows, latents) @ weight.double().T + offset.double() + noise * draw(rows, columns)
        return cls(weight, offset, noise, v.to(dtype))

    def model(self, v: Tensor) -> None:
        """The program."""
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(v.new_zeros(len(v), self.weight.shape[1]), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h @ self.weight.T + self.offset, self.noise).to_event(1), obs=v)

    def posterior(self) -> tuple[Tensor, Tensor]:
        """Mean of every row, and the precision matrix of all."""
        weight, v = self.weight.double(), self.rows.double()
        precision = torch.eye(weight.shape[1], dtype=torch.float64) + weight.T @ weight / self.noise**2
        score = weight.T @ (v - self.offset.double()).T / self.noise**2
        return torch.linalg.solve(precision, score).T, precision

    def evidence(self) -> Tensor:
        """The density of N(b, W W' + noise²)."""
        weight = self.weight.double()
        covariance = weight @ weight.T + self.noise**2 * torch.eye(len(weight), dtype=torch.float64)
        return dist.MultivariateNormal(self.offset.double(), covariance).log_prob(self.rows.double())

    def kl(self, guides: Guides) -> Tensor:
        """KL(q || posterior) of Gaussian guides."""
        mean, precision = self.posterior()
        away, ratio = guides["h.loc"] - mean, precision.diagonal() * guides["h.scale"].square()
        matrix = precision.logdet() - precision.diagonal().log().sum()
        return 0.5 * ((away @ precision * away).sum(-1) + (ratio - 1 - ratio.log()).sum(-1) - matrix)

    def left(self, guides: Guides) -> Tensor:
        """What is left to the best factorised Gaussian, whose precision is the diagonal of the posterior's."""
        mean, precision = self.posterior()
        away, ratio = guides["h.loc"] - mean, precision.diagonal() * guides["h.scale"].square()
        return 0.5 * ((away @ precision * away).sum(-1) + (ratio - 1 - ratio.log()).sum(-1))


def linear(latents: int, rows: int = 60) -> Pair:
    """A linear-Gaussian pair, whose encoder is off and up to e times too wide: the log weights are skewed."""
    made, draw = Linear.random(latents, rows, latents, 2 * latents + 3, 0.7), normals(100 + latents)
    mean, precision = made.posterior()
    best = precision.diagonal().rsqrt()
    loc = mean + torch.sin(3 * draw(rows, latents)) * best
    scale = best * (0.5 + 0.5 * torch.sin(3 * draw(rows, latents))).exp()
    guide, evidence = guide_of(table(made.rows, loc, scale)), made.evidence()
    name = f"linear-Gaussian, {latents} latent{'s' * (latents > 1)}"
    return Pair(
        name, made.model, guide, made.rows, gaussians(loc, scale), lambda lam: evidence - made.kl(lam), evidence
    )


def linear_laplace(latents: int = 5, rows: int = 60) -> Pair:
    """The same with Laplace guides, whose ELBO needs draws: log p is a quadratic, so their variance gives its mean."""
    made, draw = Linear.random(latents, rows, latents, 2 * latents + 3, 0.7), normals(200 + latents)
    mean, precision = made.posterior()
    best = precision.diagonal().rsqrt()
    loc = mean + torch.sin(3 * draw(rows, latents)) * best
    scale = best * (0.5 * torch.sin(3 * draw(rows, latents))).exp()
    evidence = made.evidence()

    def elbo(lam: Guides) -> Tensor:
        away, variance = lam["h.loc"] - mean, 2 * lam["h.scale"].square()
        square = (away @ precision * away).sum(-1) + (precision.diagonal() * variance).sum(-1)
        log_p = evidence + 0.5 * (precision.logdet() - latents * math.log(2 * math.pi) - square)
        return log_p + (1 + (2 * lam["h.scale"]).log()).sum(-1)

    name = f"linear-Gaussian, {latents} latents, Laplace guides"
    guide = guide_of(table(made.rows, loc, scale), dist.Laplace)
    return Pair(name, made.model, guide, made.rows, gaussians(loc, scale), elbo, evidence)


# ------------------------------------------------------------------------------------- one latent, two latents

LogJoint = Callable[[Tensor, Tensor], Tensor]  # from rows (row, 1, column) and latents (row, node, latent) to nats


def grid(latents: int) -> tuple[Tensor, Tensor]:
    """Places under a standard normal, axes (node, latent), and the share of each."""
    steps = _STEPS if latents == 1 else _STEPS_OF_TWO
    line = torch.linspace(-_REACH, _REACH, steps + 1, dtype=torch.float64)
    places = line.unsqueeze(-1) if latents == 1 else torch.cartesian_prod(line, line)
    return places, torch.softmax(-0.5 * places.square().sum(-1), 0)


def elbo_on_grid(log_joint: LogJoint, rows: Tensor, loc: Tensor, scale: Tensor) -> Tensor:
    """The ELBO of factorised Gaussians over one or two latents."""
    places, shares = grid(loc.shape[1])
    h = loc.unsqueeze(1) + scale.unsqueeze(1) * places
    return log_joint(rows.double().reshape(len(rows), 1, -1), h) @ shares + entropy(scale)


def evidence_on_grid(log_joint: LogJoint, rows: Tensor, latents: int) -> Tensor:
    """Log of the integral over h, in equal steps of t where h = sinh(t) / 100: fine near zero, and up to 110."""
    t = torch.linspace(-10.0, 10.0, 8001 if latents == 1 else 601, dtype=torch.float64)
    line, stretch = t.sinh() / 100, (t.cosh() / 100 * (t[1] - t[0])).log()
    if latents == 1:
        h, volume = line.unsqueeze(-1), stretch
    else:
        h, volume = torch.cartesian_prod(line, line), torch.cartesian_prod(stretch, stretch).sum(-1)
    v = rows.double().reshape(len(rows), 1, -1)
    return torch.cat([(log_joint(row.unsqueeze(0), h.unsqueeze(0)) + volume).logsumexp(1) for row in v])


def gridded(name: str, model: Callable[..., object], log_joint: LogJoint, rows: Tensor, encode: Encoder) -> Pair:
    """A pair with Gaussian guides over a site "h" of one or two latents."""
    loc, scale = encode(rows)
    return Pair(
        name,
        model,
        guide_of(encode),
        rows,
        gaussians(loc, scale),
        lambda lam: elbo_on_grid(log_joint, rows, lam["h.loc"], lam["h.scale"]),
        evidence_on_grid(log_joint, rows, loc.shape[1]),
    )


def wavy(h: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of v given h, of the nonlinear model."""
    return -1 + h * (1 + torch.sin(h)), torch.exp(torch.cos(h))


def nonlinear(rows: int = 60) -> Pair:
    """One latent: v ~ N(-1 + h (1 + sin h), exp(cos h))."""
    draw = normals(5)
    mean, deviation = wavy(draw(rows, 1))

    def model(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros_like(v), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(*wavy(h)).to_event(1), obs=v)

    def log_joint(v: Tensor, h: Tensor) -> Tensor:
        return (dist.Normal(0.0, 1.0).log_prob(h) + dist.Normal(*wavy(h)).log_prob(v)).sum(-1)

    def encode(v: Tensor) -> tuple[Tensor, ...]:
        return 0.5 * torch.tanh(v), (0.4 * torch.sin(v)).exp()

    return gridded("nonlinear, 1 latent", model, log_joint, mean + deviation * draw(rows, 1), encode)


def bernoulli(rows: int = 60, columns: int = 12) -> Pair:
    """Two latents, and Bernoulli columns whose logits are those of a tanh network."""
    draw = normals(6)
    first, second = 1.5 * draw(2, 8), 1.5 * draw(8, columns)
    weight, other = 0.5 * draw(columns, 2), draw(columns, 2)

    def logits(h: Tensor) -> Tensor:
        return torch.tanh(h @ first) @ second

    def model(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(v.new_zeros(len(v), 2), 1.0).to_event(1))
            pyro.sample("v", dist.Bernoulli(logits=logits(h)).to_event(1), obs=v)

    def log_joint(v: Tensor, h: Tensor) -> Tensor:
        prior = dist.Normal(0.0, 1.0).log_prob(h).sum(-1)
        return prior + dist.Bernoulli(logits=logits(h)).log_prob(v.expand(*h.shape[:-1], columns)).sum(-1)

    def encode(v: Tensor) -> tuple[Tensor, ...]:
        return torch.tanh(v @ weight), (0.5 * torch.sin(v @ other)).exp()

    generator = torch.Generator().manual_seed(6)
    v = torch.bernoulli(torch.sigmoid(logits(draw(rows, 2))), generator=generator)
    return gridded("Bernoulli, 2 latents", model, log_joint, v, encode)


def heavy_tailed(rows: int = 60) -> Pair:
    """A Student t prior and one Student t observation: the posterior's tails are those of a power of h."""
    places = (torch.arange(rows, dtype=torch.float64).unsqueeze(-1) + 0.5) / rows
    v = 3 * torch.tan(2.6 * (places - 0.5))  # up to 11: prior and observation may be at odds

    def prior(like: Tensor) -> dist.StudentT:
        return dist.StudentT(3.0, torch.zeros_like(like), 1.0)

    def model(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", prior(v).to_event(1))
            pyro.sample("v", dist.StudentT(2.0, h, 1.0).to_event(1), obs=v)

    def log_joint(v: Tensor, h: Tensor) -> Tensor:
        return (prior(h).log_prob(h) + dist.StudentT(2.0, h, 1.0).log_prob(v)).sum(-1)

    def encode(v: Tensor) -> tuple[Tensor, ...]:
        return 0.4 * v, (0.3 + 0.4 * torch.sin(v)).exp()

    return gridded("heavy-tailed, 1 latent", model, log_joint, v, encode)


def poisson_gamma(rows: int = 60) -> Pair:
    """Counts with gamma rates, and log-normal guides: E log h and E h are known; the evidence is negative binomial."""
    shape, rate = 3.0, 0.5
    generator = torch.Generator().manual_seed(8)
    v = torch.poisson(torch._standard_gamma(torch.full((rows, 1), shape, dtype=torch.float64), generator) / rate)

    def model(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Gamma(shape, torch.full_like(v, rate)).to_event(1))
            pyro.sample("v", dist.Poisson(h).to_event(1), obs=v)

    def encode(v: Tensor) -> tuple[Tensor, ...]:
        return 1 + 0.1 * v, (-0.5 + 0.3 * torch.sin(v)).exp()

    def elbo(lam: Guides) -> Tensor:
        loc, scale = lam["h.loc"], lam["h.scale"]
        mean = (loc + 0.5 * scale.square()).exp()
        log_p = shape * math.log(rate) - math.lgamma(shape) - torch.lgamma(v + 1)
        log_p = log_p + (shape - 1 + v) * loc - (rate + 1) * mean
        return (log_p + loc).sum(-1) + entropy(scale)

    loc, scale = encode(v)
    evidence = dist.NegativeBinomial(shape, probs=torch.tensor(1 / (1 + rate), dtype=torch.float64)).log_prob(v)[:, 0]
    guide = guide_of(encode, dist.LogNormal)
    return Pair("Poisson-gamma, log-normal guides", model, guide, v, gaussians(loc, scale), elbo, evidence)


def discrete(rows: int = 60, latents: int = 3, columns: int = 6) -> Pair:
    """Binary latents, and Gaussian columns whose means they switch on: all states are counted."""
    draw = normals(9)
    weight, other = 1.5 * draw(latents, columns), 0.4 * draw(columns, latents)
    generator = torch.Generator().manual_seed(9)
    h = torch.bernoulli(torch.full((rows, latents), 0.3, dtype=torch.float64), generator=generator)
    v = h @ weight + draw(rows, columns)

    def model(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Bernoulli(v.new_full((len(v), latents), 0.3)).to_event(1))
            pyro.sample("v", dist.Normal(h @ weight, 1.0).to_event(1), obs=v)

    def guide(v: Tensor) -> None:
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Bernoulli(logits=v @ other).to_event(1))

    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=latents)), dtype=torch.float64)
    log_p = dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)).log_prob(states).sum(-1)
    log_p = log_p + dist.Normal(states @ weight, 1.0).log_prob(v.unsqueeze(1)).sum(-1)

    def elbo(lam: Guides) -> Tensor:
        log_q = dist.Bernoulli(logits=lam["h.logits"].unsqueeze(1)).log_prob(states).sum(-1)
        return (log_q.exp() * (log_p - log_q)).sum(-1)

    name = f"discrete, {latents} binary latents"
    return Pair(name, model, guide, v, {"h.logits": v @ other}, elbo, log_p.logsumexp(-1))
