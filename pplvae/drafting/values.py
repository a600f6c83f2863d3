"""What kind of values rows have: of each column, or of all columns together."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

BINARY, UNIT, SHARE, CLASSES, COUNTS, REAL = "binary", "unit", "share", "classes", "counts", "real"
_MOST_CLASSES = 10  # more are counts, or measurements
_RARE = 0.1  # of the values: the highest of some counts is rarer, the highest code of some classes is not
_FEWEST = 5  # values, before the highest of them is called rare
_MANY = 10  # columns
_HOLDS = {COUNTS: (BINARY, CLASSES), UNIT: (BINARY, SHARE)}
_SKEWED = 1.0  # that of a normal distribution is 0, of an exponential one 2


@dataclass(frozen=True)
class Columns:
    """Columns of one kind.

    Attributes:
        kind: one of the names above.
        places: where they are among all columns.
        low: the least value.
        high: the greatest.
        means: of each column, over the values that were observed.
        spreads: standard deviation of each column; 1 where a column is constant.
        seen: what they hold, in words.
    """

    kind: str
    places: tuple[int, ...]
    low: float
    high: float
    means: tuple[float, ...]
    spreads: tuple[float, ...]
    seen: str

    @property
    def standard(self) -> bool:
        """Whether all columns are around 0 with a spread around 1, as networks expect."""
        pairs = zip(self.means, self.spreads, strict=True)
        return all(abs(mean) < 3 and 1 / 3 < spread < 3 for mean, spread in pairs)


def columns_of(values: Tensor, observed: Tensor, *, apart: bool) -> list[Columns]:
    """The columns by kind.

    Args:
        values: of shape (row, column).
        observed: likewise, which of them count.
        apart: whether each column may have a kind of its own; else all have that of all values together.
    """
    everywhere = range(values.shape[1])
    if not apart:
        return [_described(kind_of(values[observed]), list(everywhere), values, observed)]
    kinds = _joined([kind_of(values[observed[:, k], k]) for k in everywhere])
    found = [
        _described(kind, [k for k in everywhere if kinds[k] == kind], values, observed)
        for kind in (BINARY, UNIT, SHARE, CLASSES, COUNTS, REAL)
        if kind in kinds
    ]
    return sorted(found, key=lambda columns: columns.places[0])


def kind_of(values: Tensor) -> str:
    """The kind of some values: the narrowest that holds all of them.

    Whole numbers from 0 are counts, unless there are few of them and the highest is common: then they are codes of
    classes. So are few whole numbers from 1. Other whole numbers, such as years, are measurements.
    """
    if not len(values):
        return REAL
    low, high = float(values.min()), float(values.max())
    if bool(((values == 0) | (values == 1)).all()):
        return BINARY
    if bool((values == values.round()).all()) and low in (0, 1):
        levels = values.unique()
        common = len(values) < _FEWEST or float((values == high).double().mean()) >= _RARE
        if len(levels) == high - low + 1 <= _MOST_CLASSES and (common or low == 1):
            return CLASSES
        return COUNTS if low == 0 else REAL
    if 0 <= low and high <= 1:
        return SHARE if low > 0 and high < 1 else UNIT
    return REAL


def constant_columns(values: Tensor, observed: Tensor) -> list[int]:
    """Columns whose observed values are all equal; they tell nothing of h."""
    return [k for k in range(values.shape[1]) if len(values[observed[:, k], k].unique()) < 2]


def skewed_columns(columns: Columns, values: Tensor, observed: Tensor) -> list[int]:
    """Columns of positive numbers with a long tail above, such as incomes: by the third standardised moment."""
    found = []
    for k, mean, spread in zip(columns.places, columns.means, columns.spreads, strict=True):
        seen = values[observed[:, k], k].double()
        if len(seen) and float(seen.min()) > 0 and float((((seen - mean) / spread) ** 3).mean()) > _SKEWED:
            found.append(k)
    return found


def _joined(kinds: list[str]) -> list[str]:
    """Where most of many columns are of one kind, the others are too if their values allow it: genes that are rare."""
    for wide, narrow in _HOLDS.items():
        if kinds.count(wide) > max(len(kinds) / 2, _MANY):
            kinds = [wide if kind in narrow else kind for kind in kinds]
    return kinds


def _described(kind: str, places: Sequence[int], values: Tensor, observed: Tensor) -> Columns:
    some, which = values[:, list(places)].double(), observed[:, list(places)]
    seen, number = some[which], which.sum(0).clamp(min=1)
    means = some.where(which, 0).sum(0) / number
    spreads = ((some - means) ** 2).where(which, 0).sum(0).div(number).sqrt()
    low, high = (float(seen.min()), float(seen.max())) if len(seen) else (0.0, 0.0)
    return Columns(
        kind,
        tuple(places),
        low,
        high,
        tuple(means.tolist()),
        tuple(torch.where(spreads > 0, spreads, torch.ones_like(spreads)).tolist()),
        _in_words(kind, seen, low, high, means, spreads),
    )


def _in_words(kind: str, seen: Tensor, low: float, high: float, means: Tensor, spreads: Tensor) -> str:
    if kind == BINARY:
        return f"zeros and ones, {_share(seen == 1)} of them ones"
    if kind == UNIT:
        return f"numbers from 0 to 1, {_share((seen == 0) | (seen == 1))} of them exactly 0 or 1"
    if kind == SHARE:
        return f"numbers between 0 and 1, from {low:.4g} to {high:.4g}"
    if kind == CLASSES:
        return f"few whole numbers, from {low:.0f} to {high:.0f}, and none of them rare: taken as codes of classes"
    if kind == COUNTS:
        many = means > 0
        ratio = float((spreads[many] ** 2 / means[many]).median()) if bool(many.any()) else 0.0
        return f"counts up to {high:.0f}, {_share(seen == 0)} of them 0, with variance {ratio:.2g} times the mean"
    return f"real numbers from {low:.4g} to {high:.4g}"


def _share(which: Tensor) -> str:
    return f"{100 * float(which.double().mean()):.0f} %" if len(which) else "none"
