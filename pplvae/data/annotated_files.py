"""Files and stores of AnnData of all versions since 0.6: their layout, as a tree, and the rows that come of it."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from pplvae.data.annotated import Annotated, check_distinct, held, no_x, place_of
from pplvae.data.beside import further_of
from pplvae.data.hdf5 import read_hdf5
from pplvae.data.limits import SPARSE, check_fits
from pplvae.data.sparse import check_places
from pplvae.data.table import LABELS, Choice, Table
from pplvae.data.tree import Tree
from pplvae.errors import DataError, UnknownNameError

INDEX = "_index"  # attribute that names the index of a table
_OLD_INDEX = "index"
_OLD_CATEGORIES = "__categories"
_RESTORE = "Restore it from a copy, or write it anew with anndata."


def read_h5ad(path: Path, layer: str | None) -> Annotated:
    """A matrix of a file of AnnData.

    Raises:
        DataError: damaged, no file of AnnData, or it would not fit into memory.
        UnknownNameError: no such layer.
    """
    matrices = ["X"] if layer in (None, "X") else [f"layers/{layer}", f"obsm/{layer}"]
    return of_tree(
        read_hdf5(
            path,
            nodes=["obs", *matrices, *(["raw/X"] if layer == "raw" else [])],
            indexes=["var", *(["raw/var"] if layer == "raw" else [])],
            names=["layers", "obsm", "raw"],
        ),
        path,
        layer,
    )


def names_of_rows(path: Path, ids: str | None) -> np.ndarray:
    """What names the rows of a file, as `load_data` reads it.

    Args:
        path: of the file.
        ids: see `Choice`.

    Raises:
        DataError: damaged, or no file of AnnData.
        UnknownNameError: no such column.
    """
    tree, called = read_hdf5(path, nodes=["obs"], indexes=[], names=[]), repr(str(path))
    obs = _obs_of(tree, called)
    if not ids:
        names = _index_of(obs, called)
        return names if ids is None else np.arange(len(names)).astype(str)
    if ids not in _columns_of(obs):
        raise UnknownNameError(f"id column of {called}", ids, _columns_of(obs))
    return _texts(_column(tree, ids, called))


def of_tree(tree: Tree, path: Path, layer: str | None) -> Annotated:
    """Likewise of what has been read.

    Args:
        tree: with `obs`, `var`, and the matrix.
        path: of the file or store.
        layer: see `place_of`.
    """
    called = repr(str(path))
    obs, raw = _obs_of(tree, called), tree.get("raw")
    members = {group: list((tree.get(group) or Tree()).members) for group in ("layers", "obsm")}
    group, name = place_of(layer, members["layers"], members["obsm"], raw is not None, called)
    place = {"X": "X", "raw": "raw/X"}.get(group, f"{group}/{name}")
    found = tree.get(place)
    if found is None or (found.array is None and not found.members):
        raise no_x(called, members["layers"])
    names = _index_of(obs, called)
    matrix = _matrix(found, place, path)
    table = None if group == "obsm" else tree.get("raw/var" if group == "raw" else "var")
    columns = None if table is None else _index_of(table, called)
    expected = (len(names), *([] if columns is None else [len(columns)]))
    if matrix.ndim != 2 or matrix.shape[: len(expected)] != expected:
        raise DataError(f"{called} is damaged: {place} is of shape {matrix.shape}, and names {expected}. {_RESTORE}")
    return Annotated(called, matrix, columns, names, _columns_of(obs), lambda name: _column(tree, name, called))


def table_of_annotated(found: Annotated, choice: Choice) -> Table:
    """Rows, with labels, ids, totals and batches out of `obs`.

    Raises:
        DataError: ids that repeat themselves, or a column that is not what it is asked for.
        UnknownNameError: a column that `obs` does not have.
    """
    asked = {"label column": choice.labels, "id column": choice.ids or None}
    for kind, name in [*asked.items(), *((f"column of the {role}", name) for role, name in choice.further.items())]:
        if name is not None and name not in found.beside:
            raise UnknownNameError(f"{kind} of {found.called}", name, found.beside)
    matrix = held(found.matrix)
    matrix = matrix.tocsr() if hasattr(matrix, "tocsr") else np.asarray(matrix)
    if hasattr(matrix, "toarray"):
        check_fits(matrix.shape, matrix.dtype.itemsize, f"The matrix of {found.called}")
    label = choice.labels or next((name for name in LABELS if name in found.beside), None)
    ids = _texts(found.column(choice.ids)) if choice.ids else found.names
    if choice.ids != "":
        cure = 'Count them, `ids=""`, name a column of `obs` by `ids=`, or call `adata.obs_names_make_unique()`.'
        check_distinct(ids, found.called, cure)
    return Table(
        {"all": matrix},
        {} if label is None else {"all": _labels(found.column(label))},
        {
            role: {"all": further_of(role, found.column(name), name, found.called)}
            for role, name in choice.further.items()
        },
        columns=found.columns,
        ids={} if choice.ids == "" else {"all": ids},
        found=() if choice.layer is None else (f"layer {choice.layer!r}",),
    )


def _obs_of(tree: Tree, called: str) -> Tree:
    found = tree.get("obs")
    if found is None or not found.members:
        raise DataError(f"{called} is no file of AnnData: it has no table `obs`. {_RESTORE}")
    return found


def _labels(column: Any) -> np.ndarray:
    return column.to_numpy() if column.dtype.kind in "biuf" else _texts(column)


def _texts(column: Any) -> np.ndarray:
    return np.array(["" if missing else str(value) for value, missing in zip(column, column.isna(), strict=True)])


def _matrix(found: Tree, place: str, path: Path) -> Any:
    kind = found.attributes.get("encoding-type") or found.attributes.get("h5sparse_format")
    if found.array is not None:
        return found.array
    shape = found.attributes.get("shape") or found.attributes.get("h5sparse_shape")
    parts = [part.array for name in ("data", "indices", "indptr") if (part := found.get(name)) is not None]
    by_rows = str(kind).startswith("csr")
    if not (by_rows or str(kind).startswith("csc")) or shape is None or len(parts) != 3:
        raise DataError(f"{place} of {str(path)!r} is no matrix, but {kind or 'a group'}. Name another: `layer=`.")
    from scipy import sparse  # imported late: SciPy takes a while

    try:
        matrix: Any = (sparse.csr_matrix if by_rows else sparse.csc_matrix)(tuple(parts), shape=tuple(shape))
        check_places(matrix)
    except Exception as error:  # made-up numbers make SciPy raise whatever there is
        raise DataError(f"{place} of {str(path)!r} is a damaged sparse matrix: {error}. {_RESTORE}") from error
    size = math.prod(matrix.shape) * matrix.dtype.itemsize
    SPARSE.check(path, size, "read it with anndata and pass the object: `load_data(adata)`")
    return matrix.tocsr()


def _index_of(table: Tree, called: str) -> np.ndarray:
    name = table.attributes.get(INDEX, _OLD_INDEX)
    found = table.get(name) if name in table.members else next(iter(table.members.values()), None)
    if found is None or found.array is None or found.array.ndim != 1:
        raise DataError(f"{called} is damaged: a table in it has no index. {_RESTORE}")
    return found.array.astype(str)


def _columns_of(obs: Tree) -> list[str]:
    index = obs.attributes.get(INDEX, _OLD_INDEX)
    return [name for name in obs.members if name not in (index, _OLD_CATEGORIES)]


def _column(tree: Tree, name: str, called: str) -> Any:
    """A column of `obs`, as a series."""
    obs = tree.members["obs"]
    found = obs.members[name]
    if found.array is not None:
        categories = _categories_beside(tree, found, name)
        values: Any = found.array if categories is None else _categorical(found.array, categories, name, called)
    else:
        parts = {part: member.array for part, member in found.members.items() if member.array is not None}
        if {"codes", "categories"} <= parts.keys():
            values = _categorical(parts["codes"], parts["categories"], name, called)
        elif {"values", "mask"} <= parts.keys():  # numbers or texts of which some are missing
            values = pd.Series(parts["values"]).astype(object if parts["values"].dtype.kind in "UT" else np.float64)
            values = values.mask(parts["mask"].astype(bool))
        else:
            raise DataError(f"Column {name!r} of {called} is of a kind that is not read. Leave it out.")
    return pd.Series(values)


def _categories_beside(tree: Tree, found: Tree, name: str) -> np.ndarray | None:
    """Categories of a column that holds their numbers, as they were stored before anndata 0.8 and before 0.7."""
    reference = found.attributes.get("categories")
    if reference is not None:
        kept = tree.get(str(reference).strip("/"))
    else:
        kept = None if tree.members["obs"].attributes else tree.get(f"uns/{name}_categories")
    return None if kept is None else kept.array


def _categorical(codes: np.ndarray, categories: np.ndarray, name: str, called: str) -> Any:
    try:
        return pd.Categorical.from_codes(codes.astype(np.int64), categories=list(categories.astype(str)))
    except ValueError as error:
        raise DataError(f"Column {name!r} of {called} is damaged: {error}. {_RESTORE}") from error
