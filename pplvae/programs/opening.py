"""The one way in: a pair in a process state of its own, inspected, ready to be run on its rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from pplvae.data import Rows, as_rows, is_named
from pplvae.errors import DataError
from pplvae.isolate import evaluation_mode, isolated
from pplvae.programs.inspection import inspect_pair
from pplvae.programs.reading import Layout, Program, WholePlates


@contextmanager
def opened(model: Program, guide: Program, tensors: Sequence[Tensor], seed: int) -> Iterator[Layout]:
    """Open a pair; while it is open, its modules are in eval mode and nothing outside of it changes.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        tensors: the rows.
        seed: of the random generators.

    Yields:
        How the pair is built.

    Raises:
        ProgramError: a pair whose rows cannot be told apart.
    """
    with isolated(seed, dtype=floating_dtype(tensors)), evaluation_mode(model, guide):
        layout = inspect_pair(model, guide, tensors)
        with WholePlates(layout.whole):
            yield layout


def one_set(rows: Any, argument: str = "rows") -> Rows:
    """Rows where one set of them is wanted: as `as_rows` takes them, or a mapping with a single name.

    Args:
        rows: what a user passed.
        argument: the caller's name for it, used in messages.

    Raises:
        DataError: several sets, or rows that cannot be used.
    """
    if not is_named(rows):
        return as_rows(rows, argument=argument)
    if len(rows) != 1:
        names = ", ".join(map(repr, rows)) or "none"
        choice = f" Choose one: `{argument}[{next(iter(rows))!r}]`." if rows else ""
        raise DataError(
            f"`{argument}` must be one set of rows, got a mapping with {len(rows)} of them: {names}.{choice}"
        )
    ((name, some),) = rows.items()
    return as_rows(some, argument=f"{argument}[{name!r}]", name=str(name))


def floating_dtype(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """The dtype of the rows' numbers; None where all are integers."""
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
