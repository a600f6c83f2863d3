"""Scoring draws until the standard errors are those that were asked for, row by row, and no more."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from pplvae.comparison.chunks import Columns, Draws, spread
from pplvae.comparison.estimates import joined

Sample = dict[str, Draws]  # by guide: log weights of the same rows on the same noise, mirrored ones last
More = Callable[..., Draws]  # called as `Chunk.log_weights` is: with `particles`, `before` and `index`

FEWEST_DRAWS = 200
FEWEST_WEIGHTS = 1000  # where a tail is fitted to them: of fewer, k-hat is lower than of all, and a screen skips less
_MOST_DRAWS = 6_400
_KEPT_AT_ONCE = 2**22  # draws × rows of one guide: 32 MiB


@dataclass(frozen=True)
class Precision:
    """How many draws the rows are scored with.

    Attributes:
        fewest: draws of every row; they are doubled until the row is done.
        most: draws of a row at most.
        stderr: nats; a row is done when no standard error of its is larger, or one is not finite.
    """

    fewest: int
    most: int = _MOST_DRAWS
    stderr: float = 0.0

    @classmethod
    def of(cls, particles: int | None, stderr: float, fewest: int, most: int = _MOST_DRAWS) -> "Precision":
        """Exactly so many draws; where that is None, as many as the standard error needs.

        Raises:
            ValueError: numbers out of range.
        """
        if particles is None:
            if not stderr > 0:
                raise ValueError(f"`stderr` is a standard error in nats, above 0; got {stderr}.")
            return cls(fewest, most, stderr)
        if particles < 4 or particles % 2:
            raise ValueError(f"`particles` must be even (they come in mirrored pairs) and at least 4, got {particles}.")
        return cls(particles, particles)

    @property
    def is_exact(self) -> bool:
        """Whether all rows have the same number of draws, whatever their errors."""
        return self.fewest == self.most

    def counts(self) -> Iterator[int]:
        """Numbers of draws after which the rows are looked at."""
        count = self.fewest
        while count < self.most:
            yield count
            count *= 2
        yield self.most

    def wanting(self, errors: Float[Tensor, "estimate row"]) -> Bool[Tensor, " row"]:
        """Rows that need more draws; those without a finite error will not get one."""
        return (errors > self.stderr).any(0) & errors.isfinite().all(0)


def measure_precisely(
    rows: int,
    precision: Precision,
    more: Mapping[str, More],
    estimates: Callable[[Sample], Columns],
    others: Callable[[Tensor, Sample], Columns],
    start: Sample | None = None,
) -> Columns:
    """Columns of rows, each from as many draws as its standard errors need.

    Draws that a row has are kept when it takes more. Rows do not meet: each is done when its own errors say so.

    Args:
        rows: their number.
        precision: when a row is done.
        more: draws under each guide.
        estimates: from the sample of some rows to columns; a row is done when each `<name>_stderr` among them is small.
        others: from the positions of rows that are done, and their sample, to further columns.
        start: the first `precision.fewest` draws of all rows under some of the guides, if they are there already.

    Returns:
        The columns, and `draws`, how many each row took.
    """
    groups = []
    for piece in torch.arange(rows).split(max(1, _KEPT_AT_ONCE // precision.most)):
        index, sample = piece, _of_rows(start or {}, piece)
        for count in precision.counts():
            sample = {name: _extended(sample.get(name), count, index, draw) for name, draw in more.items()}
            found = estimates(sample)
            errors = torch.stack([values for name, values in found.items() if name.endswith("_stderr")])
            wanting = precision.wanting(errors) & (count < precision.most)
            done, left = (torch.nonzero(some).flatten() for some in (~wanting, wanting))
            if len(done):
                columns = _of_rows(found, done) | others(index[done.cpu()], _of_rows(sample, done))
                groups.append((index[done.cpu()], columns | {"draws": torch.full((len(done),), count)}))
            if not len(left):
                break
            index, sample = index[left.cpu()], _of_rows(sample, left)
    return spread(groups, rows)


def _extended(drawn: Float[Tensor, "_ row"] | None, count: int, index: Tensor, more: More) -> Draws:
    if drawn is None:
        return more(particles=count, index=index)
    fresh = [] if len(drawn) == count else [more(particles=count, before=len(drawn), index=index)]
    return joined([drawn, *fresh])


def _of_rows(columns: Mapping[str, Tensor], index: Tensor) -> dict[str, Tensor]:
    """Some rows, which are the last axis of all estimates and samples."""
    return {name: values[..., index] for name, values in columns.items()}
