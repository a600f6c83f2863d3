"""Rows that lie packed in a file or a store: unpacked some at a time into a temporary file, and never held whole."""

import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch

from pplvae.data.digits import Ends
from pplvae.data.given import is_a
from pplvae.errors import DataError

_BYTES_AT_ONCE = 2**24


def is_in_chunks(part: Any) -> bool:
    """Whether something is an array of numbers that is read from a file some rows at a time: of zarr, h5py, anndata."""
    of_zarr = type(part).__module__.partition(".")[0] == "zarr" and hasattr(part, "chunks") and hasattr(part, "shape")
    if not (of_zarr or (is_a(part, "h5py", "Dataset") and part) or _is_sparse_by_rows(part)):
        return False
    return len(part.shape) > 0 and part.dtype.kind in "biuf"


def _is_sparse_by_rows(part: Any) -> bool:
    """Whether it is a sparse matrix in a file of AnnData; one that is kept by columns has no rows to be read."""
    return is_a(part, "anndata", "BaseCompressedSparseDataset") and part.format == "csr"


def unpacked(part: Any) -> np.ndarray:
    """An array in chunks as a memory map of a file that is gone when the map is, in its own dtype.

    Raises:
        DataError: no room for it on the disk.
    """
    shape, dtype = tuple(part.shape), np.dtype(part.dtype)
    return in_a_file(shape, dtype, _pieces(part, rows_at_once(shape, dtype)))


def unpacked_rows(part: Any, argument: str, columns: np.ndarray | None = None) -> np.ndarray:
    """Likewise, as rows are wanted: floating-point numbers in torch's default dtype, so that no copy is made later.

    Args:
        part: the array.
        argument: the caller's name for it, used in messages.
        columns: their names, or None.
    """
    shape, dtype = tuple(part.shape), np.dtype(part.dtype)
    return of_pieces(_pieces(part, rows_at_once(shape, dtype)), shape, dtype, argument, columns)


def of_pieces(
    pieces: Iterable[np.ndarray], shape: Sequence[int], dtype: np.dtype, argument: str, columns: np.ndarray | None
) -> np.ndarray:
    """The same of pieces, one after the other."""
    ends, floats = Ends(dtype), np.dtype(str(torch.get_default_dtype()).removeprefix("torch."))

    def seen() -> Iterator[np.ndarray]:
        for piece in pieces:
            ends.see(piece)
            yield piece

    found = in_a_file(shape, floats if dtype.kind == "f" else dtype, seen())
    if dtype.kind == "f":
        ends.warn(f"`{argument}`", columns)
    return found


def rows_at_once(shape: Sequence[int], dtype: np.dtype) -> int:
    """How many rows are unpacked together; at least one."""
    row = dtype.itemsize * int(np.prod(shape[1:], dtype=np.int64))
    return max(1, _BYTES_AT_ONCE // max(1, row))


def in_a_file(shape: Sequence[int], dtype: np.dtype, pieces: Iterable[np.ndarray]) -> np.ndarray:
    """Pieces of an array, one after the other, as a memory map of a temporary file.

    Raises:
        DataError: no room for it on the disk.
    """
    with tempfile.TemporaryFile() as file:
        try:
            for piece in pieces:
                file.write(np.ascontiguousarray(piece, dtype).data)
            file.flush()
        except OSError as error:  # written beforehand: a map of a full disk would end the process
            size = dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            raise DataError(
                f"Rows are unpacked into a temporary file of {size / 2**20:.0f} MiB, and {tempfile.gettempdir()!r} "
                f"would not take it ({error}). Name a folder on a larger disk by the environment variable TMPDIR."
            ) from error
        return np.memmap(file, dtype, "r+", 0, tuple(shape)) if np.prod(shape) else np.zeros(shape, dtype)


def _pieces(part: Any, rows: int) -> Iterator[np.ndarray]:
    for start in range(0, part.shape[0], rows):
        piece = part[start : start + rows]
        yield piece.toarray() if hasattr(piece, "toarray") else np.asarray(piece)
