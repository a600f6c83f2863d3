"""What people hold numbers in, as tensors: arrays of every kind, frames with their names, or a refusal in words."""

import os
import sys
from dataclasses import dataclass
from decimal import Decimal
from numbers import Integral, Real
from os import PathLike
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from pplvae.data.digits import warn_of_lost_digits
from pplvae.data.given import is_a
from pplvae.data.limits import check_fits
from pplvae.data.mapped import writable
from pplvae.data.packed import is_in_chunks, unpacked_rows
from pplvae.errors import DataError, ShapeError

# torch computes little or nothing with these; the next wider kind holds the same numbers.
_WIDER = {torch.uint16: torch.int32, torch.uint32: torch.int64, torch.uint64: torch.int64}
_PRECISE = (torch.float32, torch.float64)
_REAL = (Real, Decimal)


@dataclass(frozen=True)
class Labelled:
    """A tensor with one entry per row, and what its source says about rows and columns.

    Attributes:
        tensor: of shape (row, ...).
        ids: one per row, or None where the source has no index.
        columns: names of the columns, or None.
    """

    tensor: Tensor
    ids: np.ndarray | None = None
    columns: np.ndarray | None = None


def labelled(part: Any, argument: str, *, masked: bool = False) -> Labelled:
    """A tensor from whatever a user has numbers in.

    Tensors keep dtype and device, but half precision becomes torch's default dtype, since log-probabilities need more
    digits. So do floating-point arrays; integers keep being integers. Sparse matrices become dense.

    Args:
        part: a tensor; an array; a pandas, polars or xarray object; a SciPy sparse matrix; nested lists of numbers.
        argument: the caller's name for it, used in messages.
        masked: whether masked values become NaN, rather than being refused.

    Raises:
        DataError: not numeric, masked, or too large to be dense.
        ShapeError: no row dimension, or rows of different lengths.
    """
    ids, columns = None, None
    if isinstance(part, Tensor):
        tensor = _dense_tensor(part, argument)
    else:
        frame = _frame(part, argument)
        if frame is not None:
            part, ids, columns = _taken_apart(frame, argument)
        elif is_a(part, "xarray", "DataArray"):
            ids = _ids_of_first_axis(part, argument)
        tensor = _from_array(_numbers(_array(part, argument, masked), argument), argument, columns)
    if tensor.ndim == 0:
        raise ShapeError(f"`{argument}` must have shape (row, ...), got a single number.")
    return Labelled(_computable(tensor, argument), ids, columns)


def _dense_tensor(part: Tensor, argument: str) -> Tensor:
    if part.is_complex():
        raise DataError(f"`{argument}` must hold real numbers, got {part.dtype}. Pass `torch.view_as_real(...)`.")
    if part.is_quantized:
        part = part.dequantize()
    if part.is_nested:
        raise ShapeError(
            f"`{argument}` is a nested tensor, whose rows may differ in length. Pad them, and pass the lengths beside: "
            "`(torch.nested.to_padded_tensor(v, 0.0), lengths)`."
        )
    if part.layout is not torch.strided:
        part = _unpacked(part.to_dense, part, argument)
    # The same numbers give the same bits however they lie in memory: kernels differ by it.
    part = part.detach().contiguous()
    return part.clone() if part.is_inference() else part


def _computable(tensor: Tensor, argument: str) -> Tensor:
    """The tensor in a dtype that programs can compute with."""
    if tensor.is_floating_point():
        return tensor if tensor.dtype in _PRECISE else tensor.to(torch.get_default_dtype())
    wider = tensor.to(_WIDER.get(tensor.dtype, tensor.dtype))
    if tensor.dtype is torch.uint64 and bool((wider < 0).any()):
        raise DataError(f"`{argument}` holds integers above 2^63, which torch cannot compute with. Pass floats.")
    return wider


def _frame(part: Any, argument: str) -> Any:
    """A pandas object, if that is what the part is or can say of itself; else None."""
    pandas = sys.modules.get("pandas")  # nobody has a frame who has not imported it
    if pandas is not None and isinstance(part, pandas.DataFrame | pandas.Series):
        return part
    if isinstance(part, np.ndarray) and part.dtype.names is not None:
        import pandas as pd  # imported late: it takes half a second

        return pd.DataFrame(fields_of(part)) if _is_flat(part, argument) else None
    to_pandas = getattr(part, "to_pandas", None)  # polars, pyarrow, xarray
    if to_pandas is not None and getattr(part, "ndim", 2) in (1, 2):
        try:
            return to_pandas()
        except ImportError as error:
            raise DataError(
                f"`{argument}` is a {type(part).__name__}, which needs another package to become numbers ({error}). "
                "Pass an array: `.to_numpy()`."
            ) from error
    return None


def _ids_of_first_axis(part: Any, argument: str) -> np.ndarray | None:
    """The index of an xarray array's rows, which pandas has no table for."""
    named = part.ndim > 0 and part.dims[0] in part.indexes
    return ids_of(part.indexes[part.dims[0]], argument) if named else None


def fields_of(array: np.ndarray) -> dict[str, np.ndarray]:
    """The fields of a structured array by name, in the machine's own order of bytes: pandas knows no other."""
    native = array.astype(array.dtype.newbyteorder("="), copy=False)
    return {name: native[name] for name in native.dtype.names or ()}


def _is_flat(array: np.ndarray, argument: str) -> bool:
    odd = [name for name in array.dtype.names or () if array[name].ndim != 1]
    if odd:
        raise ShapeError(
            f"`{argument}` is a structured array of shape {array.shape} whose field {odd[0]!r} is of shape "
            f"{array[odd[0]].shape}; expected one number per row and field. Pass the field: `array[{odd[0]!r}]`."
        )
    return True


def _taken_apart(frame: Any, argument: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Numbers, index and names of a pandas object; what is missing becomes NaN."""
    ids = ids_of(frame.index, argument)
    if frame.ndim == 1:
        return _numbers_of(frame.to_frame(), argument)[:, 0], ids, None
    counted = type(frame.columns).__name__ == "RangeIndex"
    names = None if counted else np.array([_name_of(column) for column in frame.columns], dtype=str)
    return _numbers_of(frame, argument), ids, names


def _numbers_of(frame: Any, argument: str) -> np.ndarray:
    frame = frame.infer_objects()
    kinds = ["f" if _holds_numbers(column) else _kind_of(column.dtype) for _, column in frame.items()]
    odd = [place for place, kind in enumerate(kinds) if kind not in "biuf"]
    if odd:
        column = frame.iloc[:, odd[0]]
        cure = (
            "Select the numeric columns (pandas: `frame.select_dtypes('number')`; polars: `frame.select(cs.numeric())` "
        )
        cure += "with `import polars.selectors as cs`), or encode it: `pandas.get_dummies`"
        if len(column) and hasattr(column.iloc[0], "__len__") and not isinstance(column.iloc[0], str):
            cure = f"Its entries are arrays: pass them as a tensor of their own, `numpy.stack(frame[{column.name!r}])`"
        raise DataError(
            f"`{argument}` must hold numbers, but column {_name_of(column.name)!r} does not"
            + (f" (nor do {len(odd) - 1} more)" if len(odd) > 1 else "")
            + f". {cure}."
        )
    if frame.isna().any(axis=None):
        return frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return frame.to_numpy(dtype=np.float64 if "f" in kinds else np.int64 if frame.shape[1] else np.float64)


def _holds_numbers(column: Any) -> bool:
    """Whether a column of Python's objects, or of Arrow's decimals, holds real numbers and what is missing."""
    is_decimal = str(column.dtype).startswith("decimal")
    return is_decimal or (column.dtype == object and all(isinstance(value, _REAL) for value in column.dropna()))


def _kind_of(dtype: Any) -> str:
    """NumPy's letter for the kind of a column, also of pandas' own dtypes that may hold missing or sparse numbers."""
    dtype = getattr(dtype, "subtype", dtype)
    kind = getattr(dtype, "kind", "O")
    return kind if kind == "b" or (isinstance(kind, str) and getattr(dtype, "_is_numeric", True)) else "O"


def ids_of(index: Any, argument: str) -> np.ndarray:
    """What names the rows: the entries of an index of pandas, which must differ."""
    values = index.to_numpy()
    if values.dtype.kind not in "iuM":
        values = np.array([_name_of(value) for value in index], dtype=str)
    if len(set(values.tolist())) == len(values):
        return values
    repeated = index[index.duplicated()][0]
    raise DataError(
        f"The index of `{argument}` names rows of results, but {_name_of(repeated)!r} stands in it more than once. "
        "Count the rows anew: `frame.reset_index(drop=True)`."
    )


def _name_of(value: Any) -> str:
    """A label as text; those of several levels are joined."""
    return " / ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _array(part: Any, argument: str, masked: bool) -> np.ndarray:
    if is_a(part, "h5py", "Dataset") and not part:
        raise DataError(f"`{argument}` is a dataset of an HDF5 file that is closed. Use it while the file is open.")
    if is_in_chunks(part):
        return unpacked_rows(part, argument)
    if isinstance(part, np.ma.MaskedArray):
        return _unmasked(part, argument, masked)
    if hasattr(part, "toarray") and hasattr(part, "nnz"):  # SciPy's sparse matrices and arrays
        return _unpacked(part.toarray, part, argument)
    if isinstance(part, list) and any(getattr(item, "ndim", 0) > 0 for item in part):
        raise DataError(
            f"`{argument}` is a list of arrays, which may mean two things. If each is one row, stack them: "
            "`numpy.stack(rows)`; if they are several tensors of the same rows, pass a tuple: `tuple(rows)`."
        )
    if isinstance(part, str | bytes | PathLike):
        raise DataError(
            f"`{argument}` must hold numbers, got {os.fspath(part)!r}. A file or a data set by name is read by "
            f"`pplvae.load_data({os.fspath(part)!r})`."
        )
    if isinstance(part, PackedSequence):
        raise DataError(
            f"`{argument}` is a PackedSequence, which has no axis of rows. Pass the padded sequences and their "
            "lengths, `(padded, lengths)` (`pad_packed_sequence` gives both), and pack them inside the program."
        )
    collect = "Call its `.collect()` first. " if hasattr(part, "collect") else ""  # lazy frames of polars
    if not hasattr(part, "__array__") and not isinstance(part, list | tuple | int | float | np.generic):
        raise DataError(
            f"`{argument}` must hold numbers, got a {type(part).__name__}. {collect}Pass a tensor or an array of shape "
            "(row, column), a pandas DataFrame, or a tuple of them."
        )
    try:
        return np.asarray(part)
    except ValueError as error:
        raise ShapeError(
            f"The rows of `{argument}` differ in length, so they are no array. Pad them to one length, and pass the "
            "lengths beside: `(padded, lengths)`."
        ) from error


def _unmasked(part: np.ma.MaskedArray, argument: str, masked: bool) -> np.ndarray:
    """The values without the fill values, which are not data."""
    hidden = np.ma.getmaskarray(part)
    if part.dtype.names is not None:
        hidden = np.array(hidden.tolist(), dtype=bool)
    if not hidden.any():
        return np.asarray(part.data)
    if not masked or part.dtype.names is not None:
        rows = np.nonzero(hidden.reshape(len(part), -1).any(1))[0]
        raise DataError(
            f"`{argument}` is an array with a mask, and {len(rows)} of its rows have masked values. Pass the pair "
            "`pplvae.with_mask(v)`: values and what is observed, for programs `model(v, observed)`. Else drop or "
            "impute them."
        )
    return np.where(hidden, np.nan, part.data.astype(np.float64))


def _numbers(array: np.ndarray, argument: str) -> np.ndarray:
    if array.dtype.kind in "biuf":
        return array
    if array.dtype == object and all(isinstance(value, _REAL) for value in array.flat):
        integers = all(isinstance(value, Integral) for value in array.flat)
        return array.astype(np.int64 if integers else np.float64)
    cure = "Select the numeric columns and convert them: `array.astype(float)`."
    if array.dtype.kind == "c":
        cure = "Pass real and imaginary part as columns of their own."
    raise DataError(f"`{argument}` must hold numbers, got an array of dtype {array.dtype}. {cure}")


def _from_array(array: np.ndarray, argument: str, columns: np.ndarray | None) -> Tensor:
    """A tensor of torch's default dtype; integers keep theirs."""
    floating = array.dtype.kind in "bf"
    if array.dtype.kind == "f":
        warn_of_lost_digits(array, f"`{argument}`", columns)
    kind = np.dtype(np.float64) if array.dtype.kind == "f" and array.dtype.itemsize > 8 else array.dtype
    native = np.require(writable(array), kind.newbyteorder("="), requirements=["C", "W"])
    return torch.as_tensor(native, dtype=torch.get_default_dtype() if floating else None)


def _unpacked(dense: Any, part: Any, argument: str) -> Any:
    check_fits(part.shape, part.dtype.itemsize, f"`{argument}`")
    try:
        return dense()
    except (MemoryError, RuntimeError) as error:
        raise DataError(
            f"`{argument}` is sparse, and dense it would not fit into memory (its shape is {tuple(part.shape)}). Pass "
            "fewer rows or columns."
        ) from error
