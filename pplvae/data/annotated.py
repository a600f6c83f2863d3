"""AnnData: a matrix whose rows (cells) and columns (genes) have names, and tables that say more about both."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from pplvae.data.given import Given, is_a
from pplvae.data.packed import is_in_chunks
from pplvae.errors import DataError, UnknownNameError


@dataclass(frozen=True)
class Annotated:
    """One matrix of an AnnData object or file, and what stands beside its rows.

    Attributes:
        called: what messages call it.
        matrix: of shape (row, column), an array or a sparse matrix of SciPy's, or one of them that lies in a file.
        columns: names of the columns, or None.
        names: of the rows.
        beside: names of the columns of `obs`.
        column: a column of `obs` by its name, as a pandas series.
    """

    called: str
    matrix: Any
    columns: np.ndarray | None
    names: np.ndarray
    beside: list[str]
    column: Callable[[str], Any]


def is_annotated(given: Any) -> bool:
    """Whether something is an AnnData object."""
    return is_a(given, "anndata", "AnnData")


def from_anndata(given: Any, argument: str) -> Given:
    """The matrix X with the names of its rows and columns; one that lies in a file stays there.

    Raises:
        DataError: no X, or two rows of one name.
    """
    found = of_memory(given, None, f"`{argument}`")
    check_distinct(found.names, found.called, "Call `adata.obs_names_make_unique()` first.")
    matrix = found.matrix if is_in_chunks(found.matrix) else held(found.matrix)
    return Given((matrix,), found.names, columns=found.columns)


def of_memory(given: Any, layer: str | None, called: str) -> Annotated:
    """A matrix of an AnnData object, also of one that lies in a file.

    Args:
        given: the object.
        layer: see `place_of`.
        called: what messages call it.

    Raises:
        DataError: it has no such matrix.
        UnknownNameError: likewise, and there are others.
    """
    group, name = place_of(layer, list(given.layers), list(given.obsm), given.raw is not None, called)
    if group == "X":
        matrix, columns = given.X, given.var_names
    elif group == "raw":
        matrix, columns = given.raw.X, given.raw.var_names
    else:
        matrix, columns = getattr(given, group)[name], given.var_names if group == "layers" else None
    if matrix is None:
        raise no_x(called, list(given.layers.keys()))
    obs = given.obs
    names = np.array(given.obs_names, dtype=str)
    columns = None if columns is None else np.array(columns, dtype=str)
    return Annotated(called, matrix, columns, names, [str(name) for name in obs.columns], obs.__getitem__)


def place_of(layer: str | None, layers: Sequence[str], obsm: Sequence[str], raw: bool, called: str) -> tuple[str, str]:
    """Where a matrix lies: in "X", "raw", "layers" or "obsm", and under which name.

    Args:
        layer: what a user calls it: a name among the layers or in `obsm`; "raw", for what `raw` keeps; "X" or None.
        layers: the names there are.
        obsm: likewise.
        raw: whether there is any.
        called: what messages call the object or file.

    Raises:
        DataError: a name of both kinds.
        UnknownNameError: a name of neither.
    """
    if layer is None or layer == "X":
        return "X", ""
    if layer in layers and layer in obsm:
        raise DataError(f"{called} has {layer!r} among its layers and in `obsm`: rename one of them.")
    if layer in layers or layer in obsm:
        return ("layers" if layer in layers else "obsm"), layer
    if layer == "raw" and raw:
        return "raw", ""
    raise UnknownNameError(f"layer of {called}", layer, ["X", *layers, *obsm, *(["raw"] if raw else [])])


def no_x(called: str, layers: Sequence[str]) -> DataError:
    """What is said where the matrix X is wanted and there is none."""
    others = f"Name a layer: `load_data(..., layer={layers[0]!r})`." if layers else "Pass numbers."
    return DataError(f"{called} has no matrix X. {others}")


def check_distinct(names: np.ndarray, called: str, cure: str) -> None:
    """Refuse rows of one name.

    Raises:
        DataError: there are two.
    """
    known, counts = np.unique(names, return_counts=True)
    if len(known) < len(names):
        twice = known[counts > 1][0]
        raise DataError(
            f"The rows of {called} have names (`obs_names`), which name rows of results, but {str(twice)!r} is that of "
            f"{counts.max()} rows. {cure}"
        )


def held(matrix: Any) -> Any:
    """A matrix that lies in a file or is yet to be computed, in memory."""
    for how in ("to_memory", "compute"):  # of anndata's files, of dask
        if hasattr(matrix, how):
            return getattr(matrix, how)()
    return matrix if hasattr(matrix, "toarray") or hasattr(matrix, "to_numpy") else np.asarray(matrix)
