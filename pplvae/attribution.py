"""`attribute`: what is to blame for each nat, and what to change."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor, nn

from pplvae.batch import Batch
from pplvae.comparison.gaps import amortisation_gap, compare
from pplvae.comparison.localise import LocalGuides, Localise
from pplvae.comparison.result import Comparison
from pplvae.data import Rows, as_rows
from pplvae.fitting import fit
from pplvae.inspection import inspect_pair
from pplvae.isolate import current_store, evaluation_mode, isolated, root_modules
from pplvae.nets import MLP
from pplvae.preparation import follow_rows, merged_stores, prepare
from pplvae.rows import Program
from pplvae.weights import Fitted

_TRAIN, _HELD_OUT = "train", "held-out"


@dataclass(frozen=True)
class Advice:
    """One thing to change.

    Attributes:
        remedy: "larger encoder", "longer training", "regularise the encoder", "richer family", "iterative guide", or
            "nothing to gain".
        nats: per row, what it is worth on the evidence of `sentence`.
        stderr: its standard error.
        sentence: why.
    """

    remedy: str
    nats: float
    stderr: float
    sentence: str


@dataclass(frozen=True)
class Attribution:
    """Where the nats go, by cause.

    Attributes:
        causes: over dimension "cause", `nats` per row with `stderr` (over rows): under_training and capacity (what
            training the encoder on, and then a larger one, closes of the gap on training rows), remainder (what neither
            closes), generalisation (held-out gap minus training gap), approximation (what the family costs held-out
            rows, a lower bound), full_covariance (the part of it that Gaussian covariances would win), evidence_slack
            (by how much the estimate of log p(v) exceeds that of a single chain on average: where it is large,
            approximation may be larger than it says).
        advice: most nats first; never empty.
        comparison: of the pair as it was passed in.
    """

    causes: xr.Dataset
    advice: tuple[Advice, ...]
    comparison: Comparison

    def __str__(self) -> str:
        lines = ["Nats per row, by cause (± standard error over rows)"]
        for name in self.causes["cause"].values:
            cause = self.causes.sel(cause=name)
            lines.append(
                f"{str(name).replace('_', ' '):<16} {float(cause['nats']):>8.3f} ± {float(cause['stderr']):.3f}"
            )
        return "\n".join([*lines, "", *(f"{advice.remedy}: {advice.sentence}" for advice in self.advice)])

    def __repr__(self) -> str:
        return str(self)


def attribute(
    model: Program,
    guide: Program,
    train: Any,
    held_out: Any,
    *,
    epochs: int = 100,
    lr: float = 1e-3,
    batch_size: int = 128,
    objective: Any = "Trace_ELBO",
    hidden: Sequence[int] = (256, 256),
    worth: float = 0.1,
    rows: int = 300,
    seed: int = 0,
    particles: int = 1000,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    progress: bool = False,
) -> Attribution:
    """Find out what is to blame for the gaps of a fitted pair, by removing one suspect after the other.

    The decoder is held fixed. The encoder is trained on; what that closes on training rows was under-training. Then a
    network beside it, from v to offsets of lambda, is trained with it; what that closes was want of capacity. Neither
    needs to know how the guide is built. The pair is left as it was.

    Args:
        model: p(v, h; theta), fitted.
        guide: q(h; lambda_phi(v)), fitted.
        train: the rows that the pair was fitted to.
        held_out: rows that it has not seen.
        epochs: of each of the two trainings.
        lr: step size of Adam.
        batch_size: rows per step.
        objective: of the trainings, see `fit`.
        hidden: widths of the network that is added.
        worth: nats; less than that is not worth a change.
        rows: at most so many of each set are compared, chosen by `seed`; all of `train` is trained on.
        seed: names all noise.
        particles: draws per row for scoring, even; as many before and after a training, whose effect is then measured
            on the same draws.
        tolerance: the same.
        max_steps: the same.
        progress: show progress bars.

    Returns:
        An `Attribution`. Advice names a cause only if it costs more than `worth` nats by 2 standard errors.

    Raises:
        DataError: see `amortisation_gap`.
        ProgramError: the same; and a guide without parameters of its own.
    """
    training = as_rows(train)
    some = {_TRAIN: _some_of(training, rows, seed), _HELD_OUT: _some_of(as_rows(held_out), rows, seed)}
    options: dict[str, Any] = {"seed": seed, "particles": particles}
    search = {"tolerance": tolerance, "max_steps": max_steps, "progress": progress}
    result = compare(model, guide, some, families=["full_covariance"], evidence="ais", **options, **search)

    def elbo(pair_model: Program, pair_guide: Program) -> np.ndarray:
        """Of the training rows, on the noise that the comparison scored with."""
        scored = amortisation_gap(pair_model, pair_guide, some[_TRAIN], max_steps=0, **options)
        return scored.rows["elbo_amortised"].values

    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "objective": objective, "seed": seed}
    with _put_back(model, guide, training, seed) as (model, guide):
        longer = fit(model, guide, training, train="guide", progress=progress, **settings)
        with_longer = elbo(longer.model, longer.guide)
        network = _Larger(longer.model, longer.guide, training, hidden, seed)
        larger_guide = Fitted(network, longer.guide.store)
        larger = fit(longer.model, larger_guide, training, train="guide", progress=progress, **settings)
        with_larger = elbo(larger.model, larger.guide)
    causes = _causes(result, with_longer, with_larger)
    return Attribution(causes, tuple(_advice(causes, worth)), result)


class _Larger(nn.Module):
    """A guide with a network beside its encoder, from the rows to offsets of lambda; zero until it is trained."""

    def __init__(self, model: Program, guide: Fitted, rows: Rows, hidden: Sequence[int], seed: int) -> None:
        super().__init__()
        dtype = next((t.dtype for t in rows.tensors if t.is_floating_point()), None)
        with isolated(seed, dtype=dtype), evaluation_mode(model, guide):
            # An offset is one for all states of a discrete latent here.
            self._layout = replace(inspect_pair(model, guide, rows.tensors), states={}, follows={})
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
def _put_back(model: Program, guide: Program, rows: Rows, seed: int) -> Iterator[tuple[Fitted, Fitted]]:
    """The pair with its parameters where they are now; what is trained in place inside is put back at the end."""
    pair = [program if isinstance(program, Fitted) else Fitted(program, current_store()) for program in (model, guide)]
    with isolated(seed, store=merged_stores(*pair), dtype=follow_rows(model, guide, rows)):
        weights = prepare(pair[0].func, pair[1].func, rows, None).weights
    snapshot = weights.copy()
    try:
        yield pair[0], pair[1]
    finally:
        weights.restore(snapshot)


def _some_of(rows: Rows, count: int, seed: int) -> Rows:
    if len(rows) <= count:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))]


def _causes(result: Comparison, with_longer: np.ndarray, with_larger: np.ndarray) -> xr.Dataset:
    """The gap on training rows split by what closed it; the difference to held-out rows; the family."""
    train, held_out = result.part(_TRAIN), result.part(_HELD_OUT)
    gaps, others = train["amortisation_gap"].values, held_out["amortisation_gap"].values
    before = train["elbo_amortised"].values
    finite = np.isfinite(gaps + before + with_longer + with_larger)  # the same rows for all, so that causes add up
    gaps, before, with_longer, with_larger = (x[finite] for x in (gaps, before, with_longer, with_larger))
    found = {
        "under_training": _mean(with_longer - before),
        "capacity": _mean(with_larger - with_longer),
        "remainder": _mean(gaps - (with_larger - before)),
        "generalisation": _difference(others, gaps),
        "approximation": _mean(held_out["approximation_gap"].values),
        "full_covariance": _mean(held_out["family_gap_full_covariance"].values),
        "evidence_slack": _mean(held_out["jensen_slack_ais"].values),
    }
    nats, stderr = (np.array([cause[k] for cause in found.values()]) for k in (0, 1))
    causes = xr.Dataset({"nats": ("cause", nats), "stderr": ("cause", stderr)}, coords={"cause": [*found]})
    causes["nats"].attrs["units"] = "nats per row"
    return causes


def _mean(values: np.ndarray) -> tuple[float, float]:
    values = values[np.isfinite(values)]
    return float(values.mean()), float(values.std(ddof=1) / math.sqrt(len(values)))


def _difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    (mean, stderr), (other, other_stderr) = _mean(first), _mean(second)
    return mean - other, math.hypot(stderr, other_stderr)


_REMEDIES = {
    "under_training": (
        "longer training",
        "training the encoder on, the decoder held fixed, closed {} of the gap on training rows",
    ),
    "capacity": ("larger encoder", "a larger encoder closed a further {} of the gap on training rows"),
    "remainder": (
        "iterative guide",
        "{} of the gap on training rows were closed by neither: refine lambda for each row",
    ),
    "generalisation": ("regularise the encoder", "the gap is {} larger on held-out rows than on training rows"),
    "approximation": ("richer family", "the family itself costs held-out rows at least {}"),
}


def _advice(causes: xr.Dataset, worth: float) -> list[Advice]:
    found = []
    for cause, (remedy, sentence) in _REMEDIES.items():
        nats, stderr = (float(causes[name].sel(cause=cause)) for name in ("nats", "stderr"))
        if nats - 2 * stderr > worth:
            text = sentence.format(f"{nats:.2f} ± {stderr:.2f} nats per row")
            found.append(Advice(remedy, nats, stderr, text + _covariances(causes, cause) + "."))
    if not found:
        gaps = causes.isel(cause=slice(0, len(_REMEDIES)))
        most = gaps.isel(cause=int(np.argmax(gaps["nats"].values)))
        nats, stderr = float(most["nats"]), float(most["stderr"])
        text = f"no cause costs more than {worth:g} nats per row by 2 standard errors; the largest is "
        text += f"{str(most['cause'].values).replace('_', ' ')} with {nats:.2f} ± {stderr:.2f}."
        found.append(Advice("nothing to gain", nats, stderr, text))
    return sorted(found, key=lambda advice: -advice.nats)


def _covariances(causes: xr.Dataset, cause: str) -> str:
    """Which richer family, for the cause that calls for one."""
    if cause != "approximation":
        return ""
    nats, stderr = (float(causes[name].sel(cause="full_covariance")) for name in ("nats", "stderr"))
    return f", of which full covariances win {nats:.2f} ± {stderr:.2f}"
