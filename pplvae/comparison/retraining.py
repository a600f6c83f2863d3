"""Training a guide on, the decoder held fixed: as it is, and with a larger encoder. For `attribute`."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from pplvae.comparison.compare import amortisation_gap
from pplvae.data import Rows
from pplvae.isolate import current_store, isolated, root_modules
from pplvae.nets import MLP
from pplvae.programs.batch import Batch
from pplvae.programs.opening import opened
from pplvae.programs.reading import Program
from pplvae.search.local_guides import LocalGuides
from pplvae.search.localise import Localise
from pplvae.training.fitting import fit
from pplvae.training.loop import FitStatus
from pplvae.training.outcome import Fit
from pplvae.training.preparation import follow_rows, merged_stores, prepare
from pplvae.training.weights import Fitted, Weights

Elbos = Mapping[str, np.ndarray]  # of every row, by part

_MOST_ROUNDS = 8
_FEWEST_STEPS = 500  # of a round: few rows make few steps an epoch
_LAST_LR = 0.1  # of the step size, in the last round: it takes away what the noise of the steps costs


@dataclass(frozen=True)
class Trained:
    """A guide that has been trained on.

    Attributes:
        model: as the guide goes with it.
        guide: its parameters where the training ended.
        elbo: of every row that is compared, in nats, by part.
        rounds: of training, without the last.
        settled: whether a round came to win next to nothing.
    """

    model: Fitted
    guide: Fitted
    elbo: Elbos
    rounds: int = 0
    settled: bool = False


class Retraining:
    """Trainings of a guide alone, in rounds that go on until one wins next to nothing on training rows.

    Args:
        rows: to train on.
        parts: the rows to score, by name; "train" decides when to stop.
        worth: nats; a round that wins less is the last but one.
        scoring: options of `amortisation_gap`: the same draws before and after.
        settings: options of `fit` for a round.
        store: a folder for all trainings and scores, in the order in which they are made; those that are there from an
            interrupted call are gone on with.
    """

    def __init__(
        self,
        rows: Rows,
        parts: Mapping[str, Rows],
        worth: float,
        scoring: dict[str, Any],
        settings: dict[str, Any],
        store: Path | None,
    ) -> None:
        self._rows, self._parts, self._worth, self._scoring, self._store = rows, parts, worth, scoring, store
        self._trainings = 0
        steps = -(-len(rows) // settings["batch_size"])
        self._settings = settings | {"epochs": max(settings["epochs"], math.ceil(_FEWEST_STEPS / steps))}

    def until_settled(self, start: Trained) -> Trained:
        """Train on until a round wins next to nothing."""
        found, settled = start, False
        while not settled and found.rounds < _MOST_ROUNDS:
            earlier, found = found, self._round(found, ["train"])
            settled = float(np.nanmean(found.elbo["train"] - earlier.elbo["train"])) < self._worth
        return replace(self._round(found, self._parts, _LAST_LR), rounds=found.rounds, settled=settled)

    def for_rounds(self, start: Trained, rounds: int) -> Trained:
        """Train on for as long as another training took."""
        found = start
        for _ in range(rounds):
            found = self._round(found, [])
        return self._round(found, self._parts, _LAST_LR)

    def _round(self, start: Trained, scored: Iterable[str], of_lr: float = 1.0) -> Trained:
        varied = {"lr": of_lr * self._settings["lr"], "seed": self._settings["seed"] + start.rounds}
        self._trainings += 1
        kept: dict[str, Any] = {"run": within(self._store, f"training-{self._trainings}"), "existing": "resume"}
        found = fit(start.model, start.guide, self._rows, train="guide", **(self._settings | varied | kept))
        if found.status is FitStatus.INTERRUPTED:  # which `fit` does not raise
            raise KeyboardInterrupt
        elbo = {part: self._score(found, part) for part in scored}
        return Trained(found.model, found.guide, elbo, start.rounds + 1)

    def _score(self, found: Fit, part: str) -> Float[np.ndarray, " row"]:
        """On the noise that a comparison with the same options scores with."""
        options: dict[str, Any] = self._scoring | {"store": within(self._store, f"score-{self._trainings}-{part}")}
        scored = amortisation_gap(found.model, found.guide, self._parts[part], max_steps=0, **options)
        return scored.rows["elbo_amortised"].values


def within(store: Path | None, name: str) -> Path | None:
    """A folder in one of measured rows, if there is one."""
    return None if store is None else store / name


class Larger(nn.Module):
    """A guide with a network beside its encoder, from the rows to offsets of lambda; zero until it is trained.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        rows: that it will be trained on.
        hidden: widths of the network.
        seed: of its weights.
    """

    def __init__(self, model: Program, guide: Fitted, rows: Rows, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        with opened(model, guide, rows.tensors, seed) as layout:
            self._layout = replace(
                layout, states={}, follows={}
            )  # an offset is one for all states of a discrete latent
            zeros = LocalGuides(model, guide, self._layout, Batch.of([t[:1] for t in rows.tensors])).zeros()
            features = _features(rows.tensors)
            self._shapes = {key: offset.shape[1:] for key, offset in zeros.items()}
            self.network = MLP(features.shape[1], hidden, [shape.numel() for shape in self._shapes.values()])
        for head in self.network.heads:
            for parameter in head.parameters():
                nn.init.zeros_(parameter)
        self._mean, self._scale = features.mean(0), features.std(0).clamp(min=1e-3)
        self.encoder = nn.ModuleList(root_modules(guide))
        self._guide = guide.func

    def forward(self, *rows: Tensor) -> None:
        """The guide, its lambda moved."""
        found = self.network((_features(rows) - self._mean) / self._scale)
        offsets = {key: out.unflatten(1, shape) for (key, shape), out in zip(self._shapes.items(), found, strict=True)}
        Localise(offsets, self._layout, 1)(self._guide)(*rows)


def _features(tensors: Sequence[Tensor]) -> Tensor:
    """Rows as one matrix of floating-point numbers, missing values as 0."""
    floating = next((t.dtype for t in tensors if t.is_floating_point()), torch.get_default_dtype())
    return torch.cat([t.reshape(len(t), -1).to(floating) for t in tensors], 1).nan_to_num(0.0)


@contextmanager
def put_back(model: Program, guide: Program, rows: Rows, seed: int) -> Iterator[tuple[Fitted, Fitted, Weights]]:
    """The pair with its parameters where they are now, and these: what is trained in place is put back at the end."""
    pair = [program if isinstance(program, Fitted) else Fitted(program, current_store()) for program in (model, guide)]
    with isolated(seed, store=merged_stores(*pair), dtype=follow_rows(model, guide, rows)):
        weights = prepare(pair[0].func, pair[1].func, rows, None).weights
    snapshot = weights.copy()
    try:
        yield pair[0], pair[1], weights
    finally:
        weights.restore(snapshot)
