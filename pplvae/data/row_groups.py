"""Tables of .parquet that a user has opened: read a row group at a time, and never held whole."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from pplvae.data.arrays import ids_of
from pplvae.data.given import Given, is_a
from pplvae.data.packed import of_pieces, rows_at_once
from pplvae.errors import DataError

_KINDS = ("is_integer", "is_floating", "is_boolean", "is_decimal")  # of Arrow's types that are numbers


def is_open_parquet(given: Any) -> bool:
    """Whether something is a `ParquetFile` of pyarrow's."""
    return is_a(given, "pyarrow", "ParquetFile")


def from_parquet(given: Any, argument: str) -> Given:
    """The columns of numbers of a file, unpacked into a temporary file; an index of pandas names the rows.

    Raises:
        DataError: a column that holds no numbers, no room on the disk, or two rows of one name.
    """
    from pyarrow import types

    schema = given.schema_arrow
    index = [name for name in (schema.pandas_metadata or {}).get("index_columns", []) if isinstance(name, str)]
    fields = [field for field in schema if field.name not in index]
    odd = [field for field in fields if not any(getattr(types, kind)(field.type) for kind in _KINDS)]
    if odd:
        raise DataError(
            f"`{argument}` must hold numbers, but column {odd[0].name!r} of the .parquet file holds {odd[0].type}"
            + (f" (and {len(odd) - 1} more do not)" if len(odd) > 1 else "")
            + ". Write a file of the numeric columns, or load the table: `pplvae.load_data(path)`."
        )
    names, shape = np.array([field.name for field in fields], dtype=str), (given.metadata.num_rows, len(fields))
    whole = all(types.is_integer(field.type) or types.is_boolean(field.type) for field in fields)
    dtype = np.dtype(np.int64 if whole and not _may_lack(given) else np.float64)
    indexes = []

    def pieces() -> Iterator[np.ndarray]:
        for group in range(given.metadata.num_row_groups):  # Arrow holds on to all groups that it is asked for at once
            for batch in given.iter_batches(rows_at_once(shape, dtype), row_groups=[group], use_threads=False):
                frame = batch.to_pandas()
                indexes.append(frame.index)
                yield frame.to_numpy(dtype, **({} if dtype.kind == "i" else {"na_value": np.nan}))

    found = of_pieces(pieces(), shape, dtype, argument, names)
    ids = ids_of(indexes[0].append(indexes[1:]), argument) if index and indexes else None
    return Given((found,), ids, columns=names)


def _may_lack(given: Any) -> bool:
    """Whether entries of a file may be missing, as far as its own counts say."""
    groups = [given.metadata.row_group(k) for k in range(given.metadata.num_row_groups)]
    counts = [group.column(k).statistics for group in groups for k in range(group.num_columns)]
    return any(count is None or not count.has_null_count or count.null_count > 0 for count in counts)
