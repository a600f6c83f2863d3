"""Section: a deep Markov model of sequences as long as a whole chorale, where Python costs as much as arithmetic."""

from functools import partial

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO
from torch import Tensor

import pplvae
from benchmarks.measure import Block, Settings, interleaved, quartiles, ratios
from benchmarks.record import Line
from pplvae.isolate import validation
from pplvae.models import DeepMarkov
from pplvae.programs.batch import Batch
from pplvae.programs.opening import opened
from pplvae.search.first_order import optimise
from pplvae.search.local_guides import LocalGuides
from pplvae.search.optimum import Schedule

_SEARCH = Schedule(max_steps=10, window=10)
_TRAINING_STEPS = 10
_LR = 0.02


def measure(settings: Settings) -> list[list[Line]]:
    """Inspection and training against Pyro's SVI; the search against Adam written by hand."""
    steps, rows = (20, 16) if settings.quick else (160, settings.rows or 100)
    torch.manual_seed(0)
    pair = DeepMarkov(88, 16, 50)
    v = (torch.rand(rows, steps, 88) < 0.05).float()
    lengths = torch.full((rows,), steps)
    title = f"deep Markov, {steps} steps"
    few = v[:64], lengths[:64]
    rounds = min(settings.rounds, 3)
    return [
        _lines(title + f", {len(few[0])} rows", _training(pair, *few), rounds),
        _lines(title + f", {rows} rows, {_SEARCH.draws} draws", _searches(pair, v, lengths), rounds),
    ]


def _lines(title: str, blocks: dict[str, Block], rounds: int) -> list[Line]:
    seconds = interleaved(blocks, rounds)
    peer = next(iter(blocks))
    return [
        Line("chains", title, name, quartiles(taken), "s", ratio=ratios(seconds, name, peer), to=peer)
        for name, taken in seconds.items()
    ]


def _training(pair: DeepMarkov, v: Tensor, lengths: Tensor) -> dict[str, Block]:
    svi = SVI(pair.model, pair.guide, pyro.optim.Adam({"lr": 1e-4}), Trace_ELBO())

    def by_pyro() -> None:
        for _ in range(_TRAINING_STEPS):
            svi.step(v, lengths)

    def inspected() -> None:
        with opened(pair.model, pair.guide, (v, lengths), 0):
            pass

    def fitted() -> None:
        pplvae.fit(pair.model, pair.guide, (v, lengths), epochs=_TRAINING_STEPS, batch_size=len(v), lr=1e-4)

    named = {f"Pyro SVI, {_TRAINING_STEPS} steps": by_pyro, f"pplvae.fit, {_TRAINING_STEPS} steps": fitted}
    return {**named, "inspection": inspected}


def _searches(pair: DeepMarkov, v: Tensor, lengths: Tensor) -> dict[str, Block]:
    def ours() -> None:
        with opened(pair.model, pair.guide, (v, lengths), 0) as layout, validation(False):
            batch = Batch.of((v, lengths))

            def make(index: Tensor, draws: int) -> LocalGuides:
                return LocalGuides(pair.model, pair.guide, layout, batch.take(index).times(draws))

            optimise(make, len(v), _SEARCH, 0)

    name = f"{_SEARCH.max_steps} steps"
    return {f"batched torch Adam, {name}": partial(_by_hand, pair, v), f"search, its start included, {name}": ours}


def _by_hand(pair: DeepMarkov, v: Tensor) -> None:
    """Adam on offsets of every row's means and log scales; the encoder runs once, and no weight needs a gradient."""
    rows, steps, _ = v.shape
    parameters = [*pair.parameters()]
    for parameter in parameters:
        parameter.requires_grad_(False)
    future = pair.future(v, torch.ones(rows, steps, dtype=torch.bool)).repeat(_SEARCH.draws, 1, 1)
    seen = v.repeat(_SEARCH.draws, 1, 1)
    mean, log_scale = (torch.zeros(rows, steps, len(pair.start), requires_grad=True) for _ in range(2))
    optimiser = torch.optim.Adam([mean, log_scale], lr=_LR)
    for _ in range(_SEARCH.max_steps):
        before, drawn = (start.expand(len(seen), -1) for start in (pair.start, pair.guide_start))
        elbo = torch.zeros(len(seen))
        for t in range(steps):
            encoded = pair.combiner(drawn, future[:, t]).base_dist
            loc = encoded.loc + mean[:, t].repeat(_SEARCH.draws, 1)
            scale = encoded.scale * log_scale[:, t].exp().repeat(_SEARCH.draws, 1)
            q = torch.distributions.Normal(loc, scale, validate_args=False)
            drawn = q.rsample()
            elbo = elbo + pair.transition(before).log_prob(drawn) + pair.given(drawn).log_prob(seen[:, t])
            elbo, before = elbo - q.log_prob(drawn).sum(-1), drawn
        optimiser.zero_grad()
        (-elbo.sum() / _SEARCH.draws).backward()
        optimiser.step()
    for parameter in parameters:
        parameter.requires_grad_(True)
