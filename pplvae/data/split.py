"""Rows into train, validation and test part, by seed or as the source has them."""

from dataclasses import dataclass

import numpy as np

from pplvae.data.table import Table
from pplvae.errors import DataError


@dataclass(frozen=True)
class Part:
    """Rows of one part, with their place in the source.

    Attributes:
        source: of which the part is some rows; it may lie in a file.
        index: positions of these rows; None for all.
        ids: one per row.
        labels: one per row, or None.
        extra: numbers beside the values, one entry per row, or None.
    """

    source: np.ndarray
    index: np.ndarray | None
    ids: np.ndarray
    labels: np.ndarray | None
    extra: np.ndarray | None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return (len(self.ids), *self.source.shape[1:])

    def values(self, dtype: np.dtype) -> np.ndarray:
        """The values, in an array of their own."""
        some = self.source if self.index is None else self.source[self.index]
        return some.astype(dtype, copy=self.index is None)

    def take(self, index: np.ndarray) -> "Part":
        """Some of the rows of a whole source."""
        labels = None if self.labels is None else self.labels[index]
        return Part(self.source, index, self.ids[index], labels, None if self.extra is None else self.extra[index])


def split(table: Table, rng: np.random.Generator, valid: float, test: float) -> dict[str, Part]:
    """The three parts: those that the source has, and what it lacks taken from its train part.

    Args:
        table: with the parts "all", or "train" and perhaps "valid" and "test".
        rng: draws the rows of the parts that the source lacks.
        valid: share of the rows, where the source has no such part.
        test: likewise.

    Raises:
        DataError: another number of labels than rows, or too few rows to split.
    """
    given: dict[str, Part] = {}
    start = 0
    for name, values in table.parts.items():
        ids, labels = table.ids.get(name, start + np.arange(len(values))), table.labels.get(name)
        if labels is not None and len(labels) != len(values):
            raise DataError(f"There are {len(values)} rows but {len(labels)} labels; each row needs one.")
        given[name] = Part(values, None, ids, labels, table.extra.get(name))
        start += len(values)
    whole = given["all"] if "all" in given else given["train"]
    order = rng.permutation(len(whole.ids))
    shares = {"valid": valid, "test": test}
    parts = {name: given[name] for name in shares if name in given}
    for name, share in shares.items():
        if name not in parts:
            count = round(share * len(whole.ids))
            taken, order = np.sort(order[:count]), order[count:]
            parts[name] = whole.take(taken)
    if len(order) == 0:
        raise DataError(f"{len(whole.ids)} rows are too few to split: no row is left to train on.")
    return {"train": whole.take(np.sort(order)), **parts}
