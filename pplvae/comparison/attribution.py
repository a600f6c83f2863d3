"""`attribute`: what is to blame for each nat, and what to change."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from pplvae.comparison.advice import Advice, advice_on
from pplvae.comparison.compare import amortisation_gap, compare
from pplvae.comparison.retraining import Elbos, Larger, Retraining, Trained, put_back, within
from pplvae.data import Rows
from pplvae.objectives import Objective
from pplvae.programs.opening import one_set
from pplvae.programs.reading import Program
from pplvae.results.base import Datasets, Result
from pplvae.results.comparison import Comparison
from pplvae.scoring.kept import keeping
from pplvae.statistics.means import mean_and_stderr_of
from pplvae.statistics.settings import settings_of
from pplvae.training.weights import Fitted

_TRAIN, _HELD_OUT = "train", "held-out"
_OF_TRAINING = "training_"  # begins the names of its groups in a file
_UNITS = {"units": "nats per row"}


@dataclass(frozen=True, eq=False, repr=False)
class Attribution(Result):
    """Where the nats go, by cause.

    Each cause is what is left of the gap once the remedies of those before it have been applied.

    Attributes:
        rows: of the held-out comparison.
        causes: over dimension "cause", `nats` per row with `stderr` (over rows). Of the gap on training rows,
            under_training and capacity (what training the encoder on closes, and then a larger one, beyond what the
            smaller one closes in as many more rounds; 0, and not sought, where less than `worth` is left for it) and
            remainder (what neither closes): their sum is the gap. Then generalisation (by how much more the gap is on
            held-out rows than on training rows, with the remedies of `advice` before it), approximation (what the
            family costs held-out rows, a lower bound), full_covariance (the part of it that Gaussian covariances would
            win), evidence_slack (by how much the estimate of log p(v) exceeds that of a single chain on average: where
            it is large, approximation may be larger than it says). `held_out` with `held_out_stderr`: what the first
            two remedies win on held-out rows; NaN for other causes.
        advice: most nats first; never empty.
        comparison: of the held-out rows, with the pair as it was passed in.
        training: the same of the training rows, without log p(v).
    """

    kind: ClassVar[str] = "attribution"
    essential: ClassVar[str] = "amortisation_gap"
    figures: ClassVar[tuple[str, ...]] = ("causes",)

    rows: xr.Dataset = field(init=False)
    causes: xr.Dataset
    advice: tuple[Advice, ...]
    comparison: Comparison
    training: Comparison

    def __post_init__(self) -> None:
        object.__setattr__(self, "rows", self.comparison.rows)

    def summary(self) -> xr.Dataset:
        """`causes`."""
        return self.causes

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the numbers depend on besides programs and rows, by name."""
        return settings_of(self.causes.attrs)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know of both comparisons, a sentence each."""
        both = {"Training rows": self.training, "Held-out rows": self.comparison}
        return [f"{which}: {warning}" for which, found in both.items() for warning in found.warnings]

    def _lines(self) -> list[str]:
        lines = ["Nats per row, by cause (± standard error over rows)", ""]
        for name in self.causes["cause"].values:
            cause = self.causes.sel(cause=name)
            lines.append(
                f"{str(name).replace('_', ' '):<16} {float(cause['nats']):>8.3f} ± {float(cause['stderr']):.3f}"
            )
        return [*lines, "", *self._advice_in_words()]

    def _words(self) -> list[str]:
        return [*self._advice_in_words(), *super()._words()]

    def _advice_in_words(self) -> list[str]:
        return [f"{advice.remedy}: {advice.sentence}" for advice in self.advice]

    def _groups(self) -> Datasets:
        training = self.training._groups()
        advice = xr.Dataset(
            {key.name: ("advice", np.array([getattr(one, key.name) for one in self.advice])) for key in fields(Advice)}
        )
        rows, *shown = self.comparison._groups().items()
        found = {self._group(): rows[1], **dict(shown), "causes": self.causes, "advice": advice}
        return found | {f"{_OF_TRAINING}{name}": dataset for name, dataset in training.items()}

    @classmethod
    def _of_groups(cls, groups: Datasets) -> "Attribution":
        training = {
            name.removeprefix(_OF_TRAINING): dataset
            for name, dataset in groups.items()
            if name.startswith(_OF_TRAINING)
        }
        columns = [groups["advice"][key.name].values.tolist() for key in fields(Advice)]
        advice = tuple(Advice(*values) for values in zip(*columns, strict=True))
        held_out = {**groups, Comparison._group(): groups[cls._group()]}
        return cls(groups["causes"], advice, Comparison._of_groups(held_out), Comparison._of_groups(training))


def attribute(
    model: Program,
    guide: Program,
    rows: Any,
    held_out: Any,
    *,
    objective: Any = "Trace_ELBO",
    epochs: int = 100,
    batch_size: int = 128,
    lr: float = 1e-3,
    hidden: Sequence[int] = (256, 256),
    worth: float = 0.1,
    most_rows: int = 300,
    particles: int = 1000,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    seed: int = 0,
    store: str | Path | None = None,
    progress: bool = False,
) -> Attribution:
    """Find out what is to blame for the gaps of a fitted pair, by removing one suspect after the other.

    The decoder is held fixed. The encoder is trained on, in rounds, until a round wins next to nothing; what that
    closes on training rows was under-training. Then a network beside it, from v to offsets of lambda, is trained with
    it in the same way; what that closes beyond what the encoder alone closes in as many rounds was want of capacity.
    Neither needs to know how the guide is built. The pair is left as it was.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. It is fitted.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`. It is fitted.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one: the one that the pair was fitted to.
        held_out: rows that it has not seen, in the same forms.
        objective: what the trainings maximise: one of `objectives.OBJECTIVES` by name, one of them with options such as
            `objectives.IWAE(particles=20)`, or any Pyro ELBO object.
        epochs: passes over the rows. Those of a round of training; there are more where they make fewer than 500 steps.
        batch_size: rows per step.
        lr: step size of Adam. A tenth of it in a last round.
        hidden: widths of the network that is added.
        worth: nats; less than that is not worth a change.
        most_rows: so many rows of each set are compared at most, chosen by `seed`; all of `rows` is trained on.
        particles: Monte Carlo draws per row. An even number; as many before and after a training, whose effect is then
            measured on the same draws.
        tolerance: nats per row; a row has converged if the upper 95 % end of its `shortfall` is below that.
        max_steps: steps of the search for each row's own guide, at most.
        seed: names all noise: the same seed gives the same bits.
        store: a folder that rows are written to as they are measured, chunk by chunk; what is there from an interrupted
            call is not computed again. So are the trainings.
        progress: show a progress bar, on a terminal.

    Returns:
        An `Attribution`. Advice names a remedy only if its cause, after the remedies before it, costs more than `worth`
        nats by 2 standard errors; longer training and a larger encoder only if they win on held-out rows too, by 2
        standard errors; and an iterative guide only if the trainings had come to their end.

    Raises:
        DataError: rows that cannot be used; ShapeError if their numbers differ.
        ProgramError: a pair that cannot be compared row by row, or a guide without parameters of its own.
    """
    asked = {"epochs": epochs, "lr": lr, "batch_size": batch_size, "objective": Objective(objective).settings}
    asked |= {"hidden": str(tuple(hidden)), "worth": worth, "most_rows": most_rows}
    training = one_set(rows)
    some = {
        _TRAIN: _some_of(training, most_rows, seed),
        _HELD_OUT: _some_of(one_set(held_out, "held_out"), most_rows, seed),
    }
    options: dict[str, Any] = {"seed": seed, "particles": particles}
    search: dict[str, Any] = {"tolerance": tolerance, "max_steps": max_steps}
    settings = {"epochs": epochs, "batch_size": batch_size, "lr": lr, "objective": objective, "seed": seed}
    folder = None if store is None else Path(store)
    with keeping(folder, {"kind": Attribution.kind, **asked, **options, **search}, {"all": training} | some):
        gaps = _gaps(model, guide, some, options | search | {"progress": progress}, folder)
        before = {part: found.rows["elbo_amortised"].values for part, found in gaps.items()}
        retraining = Retraining(training, some, worth / 4, options, settings | {"progress": progress}, folder)
        with put_back(model, guide, training, seed) as (model, guide, weights):
            longer = larger = retraining.until_settled(Trained(model, guide, before))
            reached = weights.copy()
            left = gaps[_TRAIN].rows["amortisation_gap"].values - (longer.elbo[_TRAIN] - before[_TRAIN])
            if _may_exceed(mean_and_stderr_of(left), worth):
                network = Larger(longer.model, longer.guide, training, hidden, seed)
                with_network = Trained(longer.model, Fitted(network, longer.guide.store), longer.elbo)
                larger = retraining.until_settled(with_network)
            if _Gain.of(longer.elbo, larger.elbo).is_worth(worth):
                weights.restore(reached)
                longer = retraining.for_rounds(longer, larger.rounds)
    causes, advice = _causes_and_advice(gaps, (before, longer.elbo, larger.elbo), worth, settled=larger.settled)
    causes = causes.assign_attrs(gaps[_HELD_OUT].settings | asked)
    return Attribution(causes, tuple(advice), gaps[_HELD_OUT], gaps[_TRAIN])


def _gaps(
    model: Program, guide: Program, some: Mapping[str, Rows], options: dict[str, Any], folder: Path | None
) -> dict[str, Comparison]:
    stores: dict[str, Any] = {part: {"store": within(folder, f"comparison-{part}")} for part in some}
    beyond: dict[str, Any] = {"families": ["full_covariance"], "evidence": "ais"}
    return {
        _TRAIN: amortisation_gap(model, guide, some[_TRAIN], **options, **stores[_TRAIN]),
        _HELD_OUT: compare(model, guide, some[_HELD_OUT], **beyond, **options, **stores[_HELD_OUT]),
    }


def _some_of(rows: Rows, count: int, seed: int) -> Rows:
    if len(rows) <= count:
        return rows
    return rows[np.sort(np.random.default_rng(seed).choice(len(rows), count, replace=False))]


@dataclass(frozen=True)
class _Gain:
    """What a remedy wins, as a mean with its standard error, on rows of both parts."""

    train: tuple[float, float]
    held_out: tuple[float, float]

    @classmethod
    def of(cls, before: Elbos, after: Elbos) -> "_Gain":
        return cls(*(mean_and_stderr_of(after[part] - before[part]) for part in (_TRAIN, _HELD_OUT)))

    def is_worth(self, worth: float) -> bool:
        """Whether it wins enough of training rows, and of held-out rows anything."""
        return _exceeds(self.train, worth) and _exceeds(self.held_out, 0.0)


def _causes_and_advice(
    comparisons: Mapping[str, Comparison], elbos: Sequence[Elbos], worth: float, *, settled: bool
) -> tuple[xr.Dataset, list[Advice]]:
    """The gap on training rows split by what closed it; what is left on held-out rows beyond it; the family.

    Args:
        comparisons: of both parts.
        elbos: as the pair was passed in, trained on, and with the larger encoder.
        worth: nats.
        settled: whether the last training came to its end.
    """
    gaps = {part: found.rows["amortisation_gap"].values for part, found in comparisons.items()}
    # The same rows for all, so that causes add up.
    finite = {part: np.isfinite(sum((elbo[part] for elbo in elbos), gaps[part])) for part in gaps}
    gaps = {part: gap[finite[part]] for part, gap in gaps.items()}
    before, longer, larger = ({part: elbo[part][finite[part]] for part in elbo} for elbo in elbos)
    gains = {"under_training": _Gain.of(before, longer), "capacity": _Gain.of(longer, larger)}
    applied = {name for name, gain in gains.items() if gain.is_worth(worth)}
    reached = larger if "capacity" in applied else longer if applied else before
    left = {part: gaps[part] - (reached[part] - before[part]) for part in gaps}
    held_out = comparisons[_HELD_OUT].rows
    found = {
        **{name: gain.train for name, gain in gains.items()},
        "remainder": mean_and_stderr_of(gaps[_TRAIN] - (larger[_TRAIN] - before[_TRAIN])),
        "generalisation": _difference(left[_HELD_OUT], left[_TRAIN]),
        "approximation": mean_and_stderr_of(held_out["approximation_gap"].values),
        "full_covariance": mean_and_stderr_of(held_out["family_gap_full_covariance"].values),
        "evidence_slack": mean_and_stderr_of(held_out["jensen_slack_ais"].values),
    }
    won = [gains[name].held_out if name in gains else (math.nan, math.nan) for name in found]
    columns = np.array([[*pair, *also] for pair, also in zip(found.values(), won, strict=True)]).T
    names = ("nats", "stderr", "held_out", "held_out_stderr")
    variables = {name: ("cause", column, _UNITS) for name, column in zip(names, columns, strict=True)}
    causes = xr.Dataset(variables, coords={"cause": [*found]})
    applied |= {name for name in ("generalisation", "approximation") if _exceeds(found[name], worth)}
    applied |= {"remainder"} if settled and _exceeds(found["remainder"], worth) else set()
    return causes, advice_on(causes, applied, worth)


def _difference(first: np.ndarray, second: np.ndarray) -> tuple[float, float]:
    (mean, stderr), (other, other_stderr) = mean_and_stderr_of(first), mean_and_stderr_of(second)
    return mean - other, math.hypot(stderr, other_stderr)


def _exceeds(found: tuple[float, float], worth: float) -> bool:
    return found[0] - 2 * found[1] > worth


def _may_exceed(found: tuple[float, float], worth: float) -> bool:
    return found[0] + 2 * found[1] > worth
