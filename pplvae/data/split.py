"""Rows into train, validation and test part, by seed or as the source has them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from pplvae.data.table import Table
from pplvae.errors import DataError


@dataclass(frozen=True)
class Part:
    """Rows of one part, with their place in the source.

    Attributes:
        source: of which the part is some rows; it may lie in a file, or be a matrix of SciPy's.
        index: positions of these rows; None for all.
        ids: one per row.
        labels: one per row, or None.
        extra: numbers beside the values by their role, one entry per row.
    """

    source: Any
    index: np.ndarray | None
    ids: np.ndarray
    labels: np.ndarray | None
    extra: dict[str, np.ndarray]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the values."""
        return (len(self.ids), *self.source.shape[1:])

    def values(self, dtype: np.dtype) -> np.ndarray:
        """The values, in an array of their own."""
        some = self.source if self.index is None else self.source[self.index]
        if hasattr(some, "toarray"):
            return some.astype(dtype, copy=False).toarray()
        return some.astype(dtype, copy=self.index is None)

    def take(self, index: np.ndarray) -> "Part":
        """Some of the rows of a whole source."""
        labels = None if self.labels is None else self.labels[index]
        return Part(
            self.source, index, self.ids[index], labels, {role: values[index] for role, values in self.extra.items()}
        )


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
        ids: Any = table.ids.get(name, start + np.arange(values.shape[0]))
        labels = table.labels.get(name)
        if labels is not None and len(labels) != len(ids):
            raise DataError(f"There are {len(ids)} rows but {len(labels)} labels; each row needs one.")
        extra = {role: arrays[name] for role, arrays in table.extra.items()}
        given[name] = Part(values, None, ids, labels, extra)
        start += values.shape[0]
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
