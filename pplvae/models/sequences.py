"""What models of sequences check at their door: padded steps, and how many of them belong to each row."""

import torch
from jaxtyping import Bool
from pyro.infer.util import is_validation_enabled
from torch import Tensor

from pplvae.errors import DataError, ShapeError


def steps_inside(v: Tensor, lengths: Tensor | None, visible: int) -> Bool[Tensor, "row time"]:
    """Which steps of padded sequences are no padding.

    Args:
        v: sequences of shape (row, time, visible), the padding at the end.
        lengths: steps of each row, of shape (row,); None where no row has padding.
        visible: columns of a step, as the model was built for.

    Raises:
        ShapeError: other shapes.
        DataError: numbers of steps that there are not.
    """
    if v.ndim != 3 or v.shape[2] != visible:
        raise ShapeError(f"Sequences must have shape (row, time, {visible}), padded at the end, got {tuple(v.shape)}.")
    if lengths is None:
        return torch.ones(v.shape[:2], dtype=torch.bool, device=v.device)
    if lengths.shape != v.shape[:1]:
        raise ShapeError(
            f"`lengths` must hold one number of steps for each of the {len(v)} rows, got shape {tuple(lengths.shape)}."
        )
    # Looked at where Pyro validates, as in the first step of a fit: on a GPU, looking is waiting.
    whole = (lengths == lengths.round()) & (lengths > 0) & (lengths <= v.shape[1]) if is_validation_enabled() else None
    if whole is not None and not bool(whole.all()):
        raise DataError(
            f"`lengths` must be whole numbers of steps from 1 to {v.shape[1]}, got {lengths[~whole].tolist()[:5]}."
        )
    return torch.arange(v.shape[1], device=v.device) < lengths.unsqueeze(-1)
