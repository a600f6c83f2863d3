"""A piece of work: rows, a Pyro pair as its user would write it, and its networks for those who do without Pyro."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn

from benchmarks.laws import Law

BATCH = 128  # rows per training step, for everybody


@dataclass
class Workload:
    """What every competitor is given.

    Attributes:
        name: as on the command line.
        title: sizes of the networks, for the table.
        encoder: from rows to mean and log scale of q(h), side by side.
        decoder: see `laws`.
        law: p(v | h).
        latent: numbers in h.
        train: rows to train on.
        rows: rows that are given guides of their own.
        steps: training steps in a timed block.
        model: p(v, h; theta), a Pyro program.
        guide: q(h; lambda_phi(v)), likewise.
    """

    name: str
    title: str
    encoder: nn.Module
    decoder: nn.Module
    law: Law
    latent: int
    train: Tensor
    rows: Tensor
    steps: int
    model: Callable[[Tensor], None] = field(init=False)
    guide: Callable[[Tensor], None] = field(init=False)

    def __post_init__(self) -> None:
        self.model, self.guide = programs(self.encoder, self.decoder, self.law, self.latent)

    def copy(self) -> "Workload":
        """The same with networks of its own: every competitor trains its own."""
        networks = copy.deepcopy(self.encoder), copy.deepcopy(self.decoder)
        rest = self.law, self.latent, self.train, self.rows, self.steps
        return Workload(self.name, self.title, *networks, *rest)

    def take(self, rows: int) -> "Workload":
        """The same with the first few rows only."""
        found = copy.copy(self)
        found.rows = self.rows[:rows]
        return found

    def parameters(self) -> list[nn.Parameter]:
        """All weights."""
        return [*self.encoder.parameters(), *self.decoder.parameters()]

    def encoded(self, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """The encoder's mean and log scale of some rows, by default those that are given guides; no gradients."""
        with torch.no_grad():
            mean, log_scale = self.encoder(self.rows if rows is None else rows).chunk(2, dim=-1)
        return mean.clone(), log_scale.clone()

    def block_rows(self) -> Tensor:
        """The training rows of a timed block, repeated where there are fewer: `steps` whole batches."""
        needed = self.steps * BATCH
        return self.train.repeat(-(-needed // len(self.train)), 1)[:needed]

    def uncapturable(self) -> "Workload":
        """The same networks under a model that looks at its rows first: harmless, and more than a tracer can follow."""
        found, inner = copy.copy(self), self.model

        def model(v: Tensor) -> None:
            if float(v.sum()) < -1e30:
                raise ValueError("rows out of range")
            inner(v)

        found.model = model
        return found


def programs(
    encoder: nn.Module, decoder: nn.Module, law: Law, latent: int
) -> tuple[Callable[[Tensor], None], Callable[[Tensor], None]]:
    """A Pyro pair with standard normal latents and a factorised normal guide."""

    def model(v: Tensor) -> None:
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(latent, device=v.device), 1.0).to_event(1))
            pyro.sample("v", law.distribution(decoder, h, v), obs=v)

    def guide(v: Tensor) -> None:
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(v).chunk(2, dim=-1)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(1))

    return model, guide


def batches(rows: Tensor) -> Iterator[Tensor]:
    """Batches of a shuffled copy: slices of a resident tensor, which is the fastest way that plain torch has."""
    shuffled = rows[torch.randperm(len(rows), device=rows.device)]
    for start in range(0, len(shuffled), BATCH):
        yield shuffled[start : start + BATCH]
