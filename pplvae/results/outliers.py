"""The gap of a row as a sign that it comes from elsewhere, and how well such signs tell two sets of rows apart."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from pplvae.errors import DataError, UnknownNameError
from pplvae.results.base import Result
from pplvae.results.comparison import Comparison
from pplvae.statistics.groups import measured_rows
from pplvae.statistics.roc import areas_of, curve_of, outlier_lines, outlier_warnings
from pplvae.statistics.settings import settings_of_both, settings_that_differ

# Score, the column it is made of, and its sign: a higher score says "from elsewhere".
_SCORES = {
    "amortisation_gap": ("amortisation_gap", 1),
    "minus_elbo_amortised": ("elbo_amortised", -1),
    "minus_log_evidence": ("log_evidence", -1),
}


@dataclass(frozen=True, eq=False, repr=False)
class Outliers(Result):
    """Scores of rows inside and outside.

    Attributes:
        rows: over dimension "row" (coordinates: id and part), in nats: `amortisation_gap`, `minus_elbo_amortised`, and
            where both sides have evidence `minus_log_evidence`; `outside`, whether the row is of the second set.
            The settings are those of both sides, and their names; "different_settings" names those that differ. Found:
            the numbers of rows that were left out, and of rows outside that are also inside.
    """

    kind: ClassVar[str] = "outliers"
    essential: ClassVar[str] = "outside"
    figures: ClassVar[tuple[str, ...]] = ("outlier_roc",)

    @property
    def scores(self) -> list[str]:
        """Names of the scores."""
        return [name for name in _SCORES if name in self.rows]

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return outlier_warnings(self.summary())

    def summary(self) -> xr.Dataset:
        """How well each score tells the two sets apart.

        Returns:
            Over dimension "score": `auc`, the area under the ROC curve, which is the share of pairs of an inside and
            an outside row in which the outside row scores higher (ties count half); `stderr`, of independent rows, by
            DeLong's method: 0 where the two sets do not overlap, which only says that these rows did not.

        References:
            Comparing the areas under two or more correlated receiver operating characteristic curves (DeLong, DeLong
            and Clarke-Pearson, 1988), Biometrics 44, 837-845.
        """
        return areas_of(self.rows, self.scores)

    def roc(self, score: str) -> xr.Dataset:
        """The ROC curve of a score.

        Returns:
            Over dimension "threshold" (coordinate in nats, falling): `false_positives`, the share of inside rows whose
            score is at least the threshold, and `true_positives`, that of outside rows.

        Raises:
            UnknownNameError: no such score.
        """
        if score not in self.scores:
            raise UnknownNameError("score", score, self.scores)
        return curve_of(self.rows, score)

    def _lines(self) -> list[str]:
        return outlier_lines(self.summary())


def outlier_scores(inside: Comparison | xr.Dataset, outside: Comparison | xr.Dataset) -> Outliers:
    """Score rows by what the shared encoder loses on them, as a sign that they are unlike the rows it was fitted to.

    The amortisation gap is a form of Likelihood Regret: that re-fits the encoder's weights to the row, here the row's
    own lambda is optimised, and the published code takes the difference of importance-weighted bounds instead of
    ELBOs. Minus the amortised ELBO and minus log p(v) are the usual scores to hold it against.

    Args:
        inside: rows of the kind that the pair was fitted to, held out; a comparison with one part, or `.part(name)`.
        outside: rows of another kind, compared with the same pair; a comparison with one part, or `.part(name)`.

    Returns:
        An `Outliers`. Rows without a finite score (status nonfinite or skipped) are left out and counted.

    Raises:
        DataError: a comparison with several parts, or fewer than two rows with scores on a side.

    References:
        Likelihood Regret: an out-of-distribution detection score for variational auto-encoder (Xiao, Yan and Amit,
        2020), arXiv 2003.02977.
    """
    sides = [_one_part(inside, "inside"), _one_part(outside, "outside")]
    names = [name for name, (term, _) in _SCORES.items() if all(term in side for side in sides)]
    kept, left_out = [], []
    for argument, side in zip(("inside", "outside"), sides, strict=True):
        measured = np.logical_and.reduce([measured_rows(side, _SCORES[name][0]) for name in names])
        if measured.sum() < 2:
            raise DataError(f"`{argument}` has {int(measured.sum())} rows with finite scores; expected at least 2.")
        kept.append(side.isel(row=np.flatnonzero(measured)))
        left_out.append(int((~measured).sum()))
    columns: dict[str, Any] = {}
    for name in names:
        term, sign = _SCORES[name]
        columns[name] = ("row", sign * np.concatenate([side[term].values for side in kept]), {"units": "nats"})
    sizes = [side.sizes["row"] for side in kept]
    columns["outside"] = ("row", np.repeat([False, True], sizes))
    coordinates = {
        "row": np.concatenate([side["row"].values for side in kept]),
        "part": ("row", np.concatenate([side["part"].values for side in kept])),
    }
    attributes = settings_of_both(kept[0], kept[1], ("inside", "outside")) | {
        "inside": _name(sides[0], "inside"),
        "outside": _name(sides[1], "outside"),
        "inside_left_out": left_out[0],
        "outside_left_out": left_out[1],
        "shared": _shared(*kept),
        "different_settings": settings_that_differ(*kept),
    }
    return Outliers(xr.Dataset(columns, coords=coordinates, attrs=attributes))


def _one_part(side: Comparison | xr.Dataset, argument: str) -> xr.Dataset:
    rows = side.rows if isinstance(side, Comparison) else side
    parts = list(dict.fromkeys(rows["part"].values.tolist()))
    if len(parts) > 1:
        raise DataError(
            f"`{argument}` holds the parts {', '.join(map(repr, parts))}; choose one: `comparison.part({parts[-1]!r})`."
        )
    return rows


def _name(rows: xr.Dataset, otherwise: str) -> str:
    return str(rows["part"].values[0]) if rows.sizes["row"] else otherwise


def _shared(inside: xr.Dataset, outside: xr.Dataset) -> int:
    """Rows outside whose content also stands inside; 0 where content is not known."""
    if "key" not in inside.coords or "key" not in outside.coords:
        return 0
    return int(np.isin(outside["key"].values, inside["key"].values).sum())
