"""What a user's object holds, before it becomes tensors: the parts of each row, and what is said about rows."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True)
class Given:
    """Rows as an object of another library has them.

    Attributes:
        parts: one entry per row each; they become the tensors of the rows, in this order.
        ids: one per row, or None where the parts say it themselves, or nobody does.
        labels: one per row, or None.
        columns: names of the columns of the first part, or None where it says them itself.
    """

    parts: tuple[Any, ...]
    ids: np.ndarray | None = None
    labels: np.ndarray | None = None
    columns: np.ndarray | None = None


def is_named(given: Any) -> bool:
    """Whether something holds sets of rows by name; xarray's data sets, and one of SciPy's matrices, are rows."""
    return isinstance(given, Mapping) and not is_a(given, "xarray", "Dataset") and not hasattr(given, "toarray")


def is_a(given: Any, module: str, name: str) -> bool:
    """Whether something is of a class of an optional package, or of one made of it, without importing the package."""
    return any(kind.__name__ == name and f"{kind.__module__}.".startswith(module + ".") for kind in type(given).__mro__)
