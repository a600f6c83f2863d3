"""The one way in: a pair in a process state of its own, inspected, ready to be run on its rows."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from pplvae.isolate import evaluation_mode, isolated
from pplvae.programs.inspection import inspect_pair
from pplvae.programs.reading import Layout, Program


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
        yield inspect_pair(model, guide, tensors)


def floating_dtype(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """The dtype of the rows' numbers; None where all are integers."""
    return next((tensor.dtype for tensor in tensors if tensor.is_floating_point()), None)
