"""Tables in .parquet. Nothing in a file is ever executed."""

from pathlib import Path
from typing import Any

import pandas as pd

from pplvae.data.frames import Named
from pplvae.data.limits import ARRAYS
from pplvae.errors import DataError

_NUMBER = 8  # bytes
_CURE = "save it as .npy, which is not packed"


def read_parquet(path: Path) -> Named:
    """A table and its columns; an index has no name, like one that is written as text.

    Raises:
        DataError: damaged, or far larger than the file: a run of equal values takes no room in it.
    """
    frame = _frame(path)
    if not isinstance(frame.index, pd.RangeIndex):
        levels = [str(name or "") for name in frame.index.names]
        frame = frame.reset_index(names=[f"{i}" for i in range(len(levels))])
        names = [*[""] * len(levels), *map(str, frame.columns[len(levels) :])]
    else:
        names = [str(name) for name in frame.columns]
    return Named(frame.set_axis(range(frame.shape[1]), axis=1), names)


def _frame(path: Path) -> Any:
    try:
        from pyarrow import parquet
    except ImportError as error:
        raise DataError("Reading .parquet needs pyarrow: `pip install 'pplvae[data]'`.") from error
    try:
        with path.open("rb") as file:
            opened = parquet.ParquetFile(file)
            columns = [opened.schema.column(i) for i in range(len(opened.schema))]
            size = opened.metadata.num_rows * sum(max(_NUMBER, column.length) for column in columns)
            ARRAYS.check(path, size, _CURE)
            # A text that many rows share is kept once, until it is known how much all of them take.
            texts = [column.path for column in columns if column.physical_type == "BYTE_ARRAY"]
            table = parquet.ParquetFile(file, read_dictionary=texts).read(use_threads=False)
            ARRAYS.check(path, size + sum(map(_bytes_of_text, table.columns)), _CURE)
            return table.cast(opened.schema_arrow).to_pandas()
    except DataError:
        raise
    except Exception as error:  # bytes from outside make Arrow and pandas raise whatever there is
        raise DataError(f"{str(path)!r} cannot be read as parquet: {error}. Restore it from a copy.") from error


def _bytes_of_text(column: Any) -> int:
    """What the texts of a column take when each row has its own; 0 for numbers."""
    from pyarrow import compute, types

    if not types.is_dictionary(column.type):
        return 0
    chunks = column.chunks
    lengths = [compute.call_function("binary_length", [chunk.dictionary]).take(chunk.indices) for chunk in chunks]
    return sum(compute.call_function("sum", [some]).as_py() or 0 for some in lengths)
