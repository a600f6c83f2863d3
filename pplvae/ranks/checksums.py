"""Whether tensors that should be the same on all ranks are."""

from collections.abc import Mapping

import torch
from jaxtyping import Int64
from torch import Tensor

from pplvae.errors import RanksError
from pplvae.ranks.group import Ranks

_ODD = 0x9E3779B97F4A7C15 - 2**64  # as a signed integer
_BITS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def check_same(ranks: Ranks, tensors: Mapping[str, Tensor], when: str) -> None:
    """Stop where ranks have come apart; what they compute would be of no one model.

    Args:
        ranks: of the job.
        tensors: by name, the same names on all ranks.
        when: says so, for the message.

    Raises:
        RanksError: with the name of the first that differs, on all ranks.
    """
    if ranks.size == 1 or not tensors:
        return
    sums = torch.stack([checksum(tensor) for tensor in tensors.values()])
    # The least is the largest of what is inverted bit by bit: one message for both.
    largest, least = ranks.largest_(torch.stack([sums, ~sums]))
    apart = torch.nonzero(largest != ~least).flatten().tolist()
    if apart:
        raise RanksError(
            f"The ranks have come apart {when}: {[*tensors][apart[0]]!r} is not the same on all of them "
            f"({len(apart)} of {len(tensors)} tensors differ). Something in the programs depends on the rank or on "
            "its own rows: a number of Python, a buffer that every run writes into, or a tensor that is read from a "
            "file. The last checkpoint is from before."
        )


def checksum(tensor: Tensor) -> Int64[Tensor, ""]:
    """A number made of all bits of a tensor and of their places."""
    values = tensor.detach().contiguous().flatten()
    values = torch.view_as_real(values).flatten() if values.is_complex() else values
    words = values.view(_BITS[values.element_size()]).to(torch.int64)
    places = torch.arange(1, len(words) + 1, device=words.device) * _ODD
    mixed = (words ^ places) * (places | 1)
    return (mixed ^ (mixed >> 29)).sum()
