"""Keys of rows, made of their content: what a row's noise, and its place in a guide without an encoder, hang on."""

import hashlib
import math
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int64
from torch import Tensor

from pplvae.programs.mixing import GOLDEN, mix, word_of

_AT_ONCE = 16384  # rows whose bytes stand side by side in a copy


def row_keys(tensors: Sequence[Tensor]) -> Int64[Tensor, " row"]:
    """A 64-bit key for each row, the same on every machine.

    Args:
        tensors: with one row of each making up a row.

    Returns:
        The BLAKE2 hash of the row's bytes in all tensors, one after the other; equal rows share a key.
    """
    pieces = zip(*(tensor.split(_AT_ONCE) for tensor in tensors), strict=True)
    keys = b"".join(map(_hashed, pieces))
    return torch.from_numpy(np.frombuffer(keys, "<i8").astype(np.int64)).to(tensors[0].device)


def keys_of_step(
    positions: Int64[Tensor, " row"], address: tuple[int, ...], step: int
) -> tuple[Int64[Tensor, " row"], Int64[Tensor, ""]]:
    """Keys for the noise of a training step: of each row, by its place, and of what belongs to all rows.

    Equal rows have places of their own, and so noise of their own. A row's key does not depend on the batch that it is
    in, nor on how many processes share that.

    Args:
        positions: of the rows in the whole data set.
        address: stream, seed and epoch, in which a row is met once.
        step: of the epoch.
    """
    of_epoch, of_step = (word_of(*words) for words in (address, (*address, step)))
    return mix(positions * GOLDEN + of_epoch), torch.tensor(of_step, device=positions.device)


def _hashed(tensors: Sequence[Tensor]) -> bytearray:
    parts = [_bytes_of_rows(tensor) for tensor in tensors]
    rows = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    width, content = rows.shape[1], rows.reshape(-1).data
    begin, keys = hashlib.blake2b(digest_size=8).copy, bytearray()
    for first in range(0, len(rows) * width, width) if width else [0] * len(rows):
        hashing = begin()  # to copy a hash that has seen nothing takes half the time of making one
        hashing.update(content[first : first + width])
        keys += hashing.digest()
    return keys


def _bytes_of_rows(tensor: Tensor) -> np.ndarray:
    """Axes (row, byte); the least significant byte of a number first."""
    rows = tensor.detach().cpu().reshape(len(tensor), math.prod(tensor.shape[1:])).numpy()
    return np.ascontiguousarray(rows, rows.dtype.newbyteorder("<")).view(np.uint8)
