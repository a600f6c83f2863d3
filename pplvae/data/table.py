"""What a reader is asked for, and what it gives: arrays, before anything is split, scaled or checked."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np

LABELS = ("label", "labels", "y")  # what a column of labels is called where nobody says


@dataclass(frozen=True)
class Choice:
    """Which numbers of a source are features, as the caller has it.

    Attributes:
        labels: name of the column of labels; None for one that is called so.
        ids: name of the column that says which row is which; None for one that is called or looks so, "" for none.
        layer: name of the matrix, where a source has several; None for the first.
        total: name of the column of totals, if any.
        batch: name of the column of batches, if any.
        classes: names of columns whose values are names of classes, with commas between them; None for none.
    """

    labels: str | None = None
    ids: str | None = None
    layer: str | None = None
    total: str | None = None
    batch: str | None = None
    classes: str | None = None

    @property
    def further(self) -> dict[str, str]:
        """Columns that become tensors of their own, by their role."""
        roles = {"total": self.total, "batch": self.batch}
        return {role: name for role, name in roles.items() if name is not None}


@dataclass(frozen=True)
class Table:
    """Arrays by part: "train", "valid", "test" where the source names them, else "all".

    Attributes:
        parts: the rows of each part, of shape (row, ...): an array, or a matrix of SciPy's by rows.
        labels: one per row, of the parts that have them.
        extra: further arrays for the programs by role, one line per row and of every part: "total" (counts of a row),
            "batch", "lengths" (steps of a sequence).
        columns: names of the columns, or None.
        ids: one per row, of every part, or of none: then rows are counted from 0.
        found: how the source was read, where that is not plain, in words.
        sequences: whether rows have shape (time, column); other rows are flattened.
    """

    parts: dict[str, Any]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    extra: dict[str, dict[str, np.ndarray]] = field(default_factory=dict)
    columns: np.ndarray | None = None
    sequences: bool = False
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    found: tuple[str, ...] = ()
