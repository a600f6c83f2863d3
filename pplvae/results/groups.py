"""`gap_by_group`: which rows does the encoder fail?"""

from dataclasses import dataclass
from typing import Any, ClassVar

import xarray as xr

from pplvae.results.base import Result
from pplvae.results.comparison import Comparison
from pplvae.statistics.groups import group_lines, group_means, grouped_rows, sentences_of


@dataclass(frozen=True, eq=False, repr=False)
class Groups(Result):
    """Means of a column by group.

    Attributes:
        rows: over dimension "row" (coordinates: id and part), those that have a label: the column, in nats; `group`,
            the label; `measured`, whether the row has a finite value that counts (its status is neither nonfinite nor
            skipped). The settings are those of the comparison, `term`, `part`, `level` and `group_seed`. Found: the
            `mean` of all rows, the number of `permutations`, and `unlabelled`, the number of rows without a label.
        table: see `summary`.
    """

    kind: ClassVar[str] = "gaps by group"
    essential: ClassVar[str] = "group"
    figures: ClassVar[tuple[str, ...]] = ("gaps_by_group",)

    table: xr.Dataset

    def summary(self) -> xr.Dataset:
        """Means by group, with intervals and tests.

        Returns:
            Over dimension "group": `count` of rows used; `left_out`, rows without a finite value; `mean` in nats per
            row, `stderr` over rows, `low` and `high`; `difference`, the mean minus that of all other rows, and
            `difference_stderr`; `p`, two-sided, from permutations of Welch's statistic; `p_holm`, adjusted for the
            number of groups tested; `differs`. Where a group has fewer than 2 rows all of these are NaN and `differs`
            is False.
        """
        return self.table

    @property
    def warnings(self) -> list[str]:
        """Which groups differ, and what a reader must know, a sentence each."""
        return sentences_of(self.table, noun="Group")

    def _lines(self) -> list[str]:
        return group_lines(self.table)


def gap_by_group(
    comparison: Comparison,
    labels: Any = None,
    *,
    part: str | None = None,
    term: str = "amortisation_gap",
    level: float = 0.95,
    seed: int = 0,
) -> Groups:
    """Mean of a gap over the rows of each group, and whether it differs from the mean of all other rows.

    Gaps have a long right tail, which makes Student's interval miss large means (see `mean_interval`) and Welch's test
    see differences where there are none. Ten equal groups of 43 log-normal gaps (spread 0.9 of the logarithm): Welch's
    test with Holm's adjustment flagged some group in 24 % of cases, permutations of Welch's statistic in 4 %; a group
    whose gaps were doubled was found in 63 % against 93 %.

    Args:
        comparison: of the rows.
        labels: one entry per row of the comparison (all of its parts, in its order), of any type; by default its
            `label` coordinate. Rows whose entry is missing (None, NaN) are left out.
        part: take the rows of this part only. By default all parts are pooled.
        term: which column: "amortisation_gap", or any other in nats.
        level: probability of an interval. A group is flagged where its adjusted p-value is below 1 - level.
        seed: names all noise: the same seed gives the same bits. That is permutations and resamples.

    Returns:
        A `Groups`.

    Raises:
        DataError: there are no labels; ShapeError if their number is wrong.
        UnknownNameError: no such part or term.
        ValueError: a `level` outside (0, 1).

    References:
        Exact and asymptotically robust permutation tests (Chung and Romano, 2013), arXiv 1304.5939; A simple
        sequentially rejective multiple test procedure (Holm, 1979), Scand. J. Stat. 6, 65-70.
    """
    rows = grouped_rows(comparison.rows, labels, part=part, term=term)
    table = group_means(rows, level=level, seed=seed)
    return Groups(rows.assign_attrs(table.attrs), table)
