"""Stores of zarr: an array, arrays by name, or AnnData. Nothing in a store is ever executed."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from pplvae.data.annotated_files import INDEX, of_tree, table_of_annotated
from pplvae.data.archives import table_of_arrays
from pplvae.data.limits import ARRAYS
from pplvae.data.packed import unpacked
from pplvae.data.table import Choice, Table
from pplvae.data.tree import Tree
from pplvae.errors import DataError

_LARGE = 2**26  # bytes
_CURE = "read it with zarr and pass the array"
# Others, such as "pickle", may run what is in a store.
_CODECS = {
    *("blosc", "zstd", "gzip", "zlib", "lz4", "lzma", "bz2", "shuffle", "delta", "fixedscaleoffset", "packbits"),
    *("bytes", "crc32c", "transpose", "sharding_indexed", "vlen-utf8", "vlen-bytes", "astype", "bitround"),
}


def read_store(path: Path, choice: Choice) -> Table:
    """Read a folder that zarr has written.

    Raises:
        DataError: damaged, packed in a way that may run code, or not clear which array the rows are.
        UnknownNameError: labels, ids, or a layer that it does not have.
    """
    import zarr  # imported late: it takes a third of a second
    from zarr.storage import LocalStore

    try:
        opened: Any = zarr.open(store=LocalStore(path, read_only=True), mode="r", use_consolidated=False)
    except Exception as error:  # metadata that were made up make zarr raise whatever there is
        raise DataError(f"{str(path)!r} cannot be read as a store of zarr: {error}. Restore it from a copy.") from error
    try:
        return _table_of(opened, path, choice)
    except DataError:
        raise
    except KeyError:
        raise
    except Exception as error:  # likewise chunks
        raise DataError(f"{str(path)!r} is damaged: {error}. Restore it from a copy.") from error


def _table_of(opened: Any, path: Path, choice: Choice) -> Table:
    if hasattr(opened, "shape"):
        return Table({"all": _array(opened, path)})
    if "obs" in opened and "var" in opened:
        return table_of_annotated(of_tree(_annotated(opened, path, choice.layer), path, choice.layer), choice)
    arrays = {name: _array(array, path) for name, array in opened.arrays()}
    if not arrays:
        raise DataError(f"{str(path)!r} holds no arrays: {', '.join(opened.keys()) or 'it is empty'}.")
    return table_of_arrays(arrays, choice.labels, path)


def _annotated(opened: Any, path: Path, layer: str | None) -> Tree:
    """What `of_tree` looks at, and no more."""
    members = {"obs": _tree(opened["obs"], path), "var": _tree(opened["var"], path, only_index=True)}
    for group in ("layers", "obsm"):
        inside = opened[group] if group in opened else {}
        members[group] = Tree(members={name: _tree(inside[name], path) if name == layer else Tree() for name in inside})
    if layer in (None, "X") and "X" in opened:
        members["X"] = _tree(opened["X"], path)
    if "raw" in opened:
        raw = opened["raw"] if layer == "raw" else {}
        members["raw"] = Tree(
            members={name: _tree(raw[name], path, name == "var") for name in ("X", "var") if name in raw}
        )
    return Tree(members=members)


def _tree(found: Any, path: Path, only_index: bool = False) -> Tree:
    attributes = dict(found.attrs)
    if hasattr(found, "shape"):
        return Tree(attributes, _array(found, path))
    names = [attributes[INDEX]] if only_index and INDEX in attributes else list(found.keys())
    return Tree(attributes, None, {name: _tree(found[name], path) for name in names})


def _array(found: Any, path: Path) -> np.ndarray:
    """The numbers or texts of an array, through a file if they are many."""
    packed = _codecs_of(found.metadata.to_dict())
    if not packed <= _CODECS:
        odd = sorted(packed - _CODECS)[0]
        raise DataError(f"{str(path)!r} is packed by {odd!r}, which is not known to be safe. Write it anew without.")
    item = max(1, found.dtype.itemsize)
    ARRAYS.check(path, math.prod(found.shape) * item, _CURE)
    ARRAYS.check(path, math.prod(found.chunks) * item, _CURE)
    if found.dtype.kind in "biuf":
        return unpacked(found) if math.prod(found.shape) * item >= _LARGE else np.asarray(found[...])
    texts = np.asarray(found[...])
    longest = max(map(len, map(str, texts.ravel())), default=0)
    ARRAYS.check(path, texts.size * longest * 4, _CURE)
    return np.array([str(text) for text in texts.ravel().tolist()], dtype=str).reshape(texts.shape)


def _codecs_of(metadata: Any) -> set[str]:
    """Names of all that packs an array, in metadata of both formats."""
    if isinstance(metadata, dict):
        name = metadata.get("id") or (metadata.get("name") if "configuration" in metadata else None)
        inner = [
            value
            for key, value in metadata.items()
            if key in ("codecs", "compressor", "filters", "configuration", "index_codecs")
        ]
        return {str(name).removeprefix("numcodecs.")} - {"None"} | {one for each in inner for one in _codecs_of(each)}
    if isinstance(metadata, list | tuple):
        return {one for each in metadata for one in _codecs_of(each)}
    if hasattr(metadata, "get_config"):
        return _codecs_of(metadata.get_config())
    return set()
