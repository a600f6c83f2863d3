"""SciPy's sparse matrices, before anything is made of them."""

from typing import Any

import numpy as np


def check_places(matrix: Any) -> None:
    """Refuse places outside of a matrix, which SciPy would write to; its own check stops where there are no entries.

    Raises:
        ValueError: there are some.
    """
    if matrix.indptr[0] != 0 or (np.diff(matrix.indptr) < 0).any():
        raise ValueError("places that go backwards")
    matrix.check_format(full_check=True)
