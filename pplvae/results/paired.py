"""Two guides, or two models, on the same rows: what changed, with the spread between rows taken out by pairing."""

from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import xarray as xr
from scipy import stats

from pplvae.errors import DataError, UnknownNameError
from pplvae.results.base import Result
from pplvae.results.comparison import Comparison
from pplvae.statistics.groups import Values, measured_rows
from pplvae.statistics.paired import (
    HIGHER_IS_BETTER,
    paired_lines,
    paired_summary,
    paired_terms,
    paired_warnings,
    skew_corrected_t,
)
from pplvae.statistics.settings import settings_of_both, settings_that_differ
from pplvae.statistics.summary import parts_of


@dataclass(frozen=True, eq=False, repr=False)
class PairedRuns(Result):
    """Differences between two comparisons of the same rows: the second minus the first.

    Attributes:
        rows: over dimension "row" (coordinates: id, part, and label where there is one), in nats, for every term in
            both: the second's value minus the first's, NaN where either has none; `lost`, rows that the first could
            measure and whose status in the second is nonfinite. The settings are those of both; the attribute
            "different_settings" names those that differ, "content" says whether the content of the rows was compared.
    """

    kind: ClassVar[str] = "paired runs"
    essential: ClassVar[str] = "lost"
    figures: ClassVar[tuple[str, ...]] = ("paired_differences",)

    @property
    def parts(self) -> list[str]:
        """Names of the compared sets of rows, in order."""
        return parts_of(self.rows)

    @property
    def terms(self) -> list[str]:
        """Names of the terms in both."""
        return paired_terms(self.rows)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return paired_warnings(self.summary())

    def differences(self, part: str, term: str) -> Values:
        """Second minus first of a term, for those rows of a part that both could measure, in nats.

        Raises:
            UnknownNameError: no such part or term.
        """
        if part not in self.parts:
            raise UnknownNameError("part", part, self.parts)
        if term not in self.terms:
            raise UnknownNameError("term", term, self.terms)
        values = self.rows[term].values[self.rows["part"].values == part]
        return values[np.isfinite(values)]

    def summary(self) -> xr.Dataset:
        """Mean differences with their paired errors.

        Returns:
            Over dimensions "part", "term" and "quantile": `count` of rows that both could measure and `left_out`;
            `mean` of second minus first, in nats per row, and `stderr` over rows, of the paired differences; `t`, mean
            over standard error, and `p`, two-sided, from t corrected for skewness (see `skew_corrected_t`); `improved`,
            the share of rows where the second is better; `quantiles` of the difference over rows. Per part: `lost`.
        """
        return paired_summary(self.rows)

    def worse(
        self, margin: float = 0.0, alpha: float = 0.01, *, term: str = "elbo_amortised", part: str | None = None
    ) -> bool:
        """Whether the second is worse by more than a margin, for a build that fails when a guide got worse.

        True if in any part the mean of a term is worse (an ELBO lower, a gap higher) by more than `margin`, by a
        one-sided t-test corrected for skewness, or if a row that the first could measure ended nonfinite in the
        second. False is no proof of equality: too few rows cannot show that anything got worse.

        Args:
            margin: nats per row that may be lost.
            alpha: size of the test, the probability of saying so where exactly the margin was lost; divided by the
                number of parts.
            term: which mean.
            part: look at this part only.

        Raises:
            UnknownNameError: no such part or term.
            ValueError: a negative margin, or an alpha outside (0, 1).
            DataError: fewer than two rows to test on.
        """
        if not margin >= 0:
            raise ValueError(f"`margin` is how many nats per row may be lost, 0 or more; got {margin}.")
        if not 0 < alpha < 1:
            raise ValueError(f"`alpha` is a probability between 0 and 1, such as 0.01; got {alpha}.")
        chosen = self.parts if part is None else [part]
        sign = -1 if HIGHER_IS_BETTER.get(term) else 1
        verdicts = []
        for name in chosen:
            losses = sign * self.differences(name, term)
            if len(losses) < 2:
                raise DataError(f"Part {name!r} has {len(losses)} rows that both could measure; a test needs 2.")
            p = float(stats.t.sf(skew_corrected_t(losses - margin), len(losses) - 1))
            verdicts.append(p < alpha / len(chosen) or self._lost(name) > 0)
        return any(verdicts)

    def _lost(self, part: str) -> int:
        return int(self.rows["lost"].values[self.rows["part"].values == part].sum())

    def _lines(self) -> list[str]:
        return paired_lines(self.summary())


def compare_runs(first: Comparison, second: Comparison, *, part: str | None = None) -> PairedRuns:
    """Pair two comparisons of the same rows, by part and row id, whatever their order.

    Args:
        first: the comparison to start from.
        second: of another guide, or another model, on the same rows.
        part: take the rows of this part only. By default both must have the same parts.

    Raises:
        UnknownNameError: no such part.
        DataError: ids that are missing on one side, that stand there twice, or whose rows differ in content (where
            both have the coordinate "key").
    """
    if part is not None:
        for comparison in (first, second):
            if part not in comparison.parts:
                raise UnknownNameError("part", part, comparison.parts)
    before, after = _match(_rows_of(first, part, "first"), _rows_of(second, part, "second"))
    keyed = "key" in before.coords and "key" in after.coords
    if keyed:
        _check_content(before, after)
    columns = {}
    for term in (term for term in paired_terms(before) if term in after):
        both = measured_rows(before, term) & measured_rows(after, term)
        difference = np.where(both, after[term].values - before[term].values, np.nan)
        columns[term] = ("row", difference, {"units": "nats"})
    lost = measured_rows(before, "elbo_amortised") & (after["status"].values == "nonfinite")
    coordinates = {name: before.coords[name] for name in ("row", "part", "label", "key") if name in before.coords}
    attributes = settings_of_both(before, after, ("first", "second")) | {
        "different_settings": settings_that_differ(before, after),
        "content": "compared" if keyed else "not compared",
    }
    return PairedRuns(xr.Dataset(columns | {"lost": ("row", lost)}, coords=coordinates, attrs=attributes))


def _rows_of(comparison: Comparison, part: str | None, which: str) -> xr.Dataset:
    rows = comparison.rows if part is None else comparison.part(part)
    twice = [label for label, times in Counter(_index(rows)).items() if times > 1]
    if twice:
        raise DataError(f"The {which} comparison has rows that share part and id: {_few(twice)}. Give every row an id.")
    return rows


def _index(rows: xr.Dataset) -> list[tuple[Hashable, Hashable]]:
    return list(zip(rows["part"].values.tolist(), rows["row"].values.tolist(), strict=True))


def _match(before: xr.Dataset, after: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The same rows in the first's order."""
    expected, place = _index(before), {label: i for i, label in enumerate(_index(after))}
    known = set(expected)
    missing = [label for label in expected if label not in place]
    extra = [label for label in place if label not in known]
    if missing or extra:
        raise DataError(
            f"The two comparisons do not hold the same rows: {len(missing)} are missing from the second "
            f"({_few(missing)}), {len(extra)} from the first ({_few(extra)}). Compare both pairs on the same rows, or "
            "choose a `part` that both have."
        )
    return before, after.isel(row=[place[label] for label in expected])


def _few(labels: list[tuple[Hashable, Hashable]], most: int = 3) -> str:
    listed = ", ".join(f"{part} {row}" for part, row in labels[:most])
    return (listed + (", ..." if len(labels) > most else "")) or "none"


def _check_content(before: xr.Dataset, after: xr.Dataset) -> None:
    different = np.flatnonzero(before["key"].values != after["key"].values)
    if len(different):
        listed = _few(_index(before.isel(row=different)))
        raise DataError(
            f"{len(different)} of {before.sizes['row']} rows have the same id but not the same content ({listed}): "
            "another split, binarisation, scale or dtype. Compare both pairs on the same rows."
        )
