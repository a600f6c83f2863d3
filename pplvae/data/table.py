"""What a reader gives: the arrays of a data set, before anything is split, scaled or checked."""

from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Table:
    """Arrays by part: "train", "valid", "test" where the source names them, else "all".

    Attributes:
        parts: the rows of each part, of shape (row, ...).
        labels: one per row, of the parts that have them.
        extra: a second array for the programs, one line per row: of every part, or of none.
        role: what `extra` is: "total" (counts of a row) or "lengths" (steps of a sequence).
        columns: names of the columns, or None.
        ids: one per row, of every part, or of none: then rows are counted from 0.
        found: how the source was read, where that is not plain, in words.
        sequences: whether rows have shape (time, column); other rows are flattened.
    """

    parts: dict[str, np.ndarray]
    labels: dict[str, np.ndarray] = field(default_factory=dict)
    extra: dict[str, np.ndarray] = field(default_factory=dict)
    role: str = ""
    columns: np.ndarray | None = None
    sequences: bool = False
    ids: dict[str, np.ndarray] = field(default_factory=dict)
    found: tuple[str, ...] = ()
