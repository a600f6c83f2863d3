"""A program of its own, run beside the process: what HDF5's library does to files that were made up ends with it.

That library reads files on which it never returns, and others on which it writes where it should not. Nothing of
pplvae is imported here, since a child should start in a fraction of a second.

    python hdf5_child.py SECONDS read FILE FOLDER ASKED     parts of a file, as .npy files and `tree.json`
    python hdf5_child.py SECONDS append FILE FOLDER         columns of `columns.json` into the table `obs` of a file
"""

import json
import math
import sys
from pathlib import Path
from typing import Any

import h5py
import numpy as np

_AT_ONCE = 2**24  # bytes
_CHUNK = 2**30  # bytes, the most that the library unpacks at once
_MEMORY = 2**32
_LETTER = 4  # bytes
_DEEP = 4  # groups within groups


class Unreadable(Exception):
    """What a user can be told of a file."""


class Dump:
    """Parts of a file as plain arrays in a folder.

    Args:
        folder: where they are written.
        most: bytes that they may take together.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.left, self.most, self.count = folder, most, most, 0

    def node(self, found: Any, only: str | None = None, depth: int = 0) -> dict[str, Any]:
        """A group with its members, or an array; of a table, `only` one column or its index."""
        attributes = {
            str(name): value for name, given in found.attrs.items() if (value := plain(found, given)) is not None
        }
        if isinstance(found, h5py.Dataset):
            return {"attributes": attributes, **self._dataset(found)}
        if depth > _DEEP:
            raise Unreadable("groups lie too deep in each other")
        names = list(found) if only is None else [attributes.get("_index", only)]
        members = {name: self.node(member(found, name), depth=depth + 1) for name in names if name in found}
        return {"attributes": attributes, "members": members}

    def _dataset(self, found: h5py.Dataset) -> dict[str, Any]:
        if found.shape is None:
            return {}
        if found.dtype.names is not None:  # a table as it was stored before anndata 0.7
            fields = {
                name: {"attributes": {}, **self._saved(found.fields(name), found.dtype[name], found)}
                for name in found.dtype.names
            }
            return {"members": fields}
        return self._saved(found, found.dtype, found)

    def _saved(self, read: Any, dtype: np.dtype, found: h5py.Dataset) -> dict[str, Any]:
        text = h5py.check_string_dtype(dtype)
        if text is None and dtype.kind not in "biufS":
            return {}
        rows = found.shape[0] if found.shape else 1
        if text is not None or dtype.kind == "S":
            return self._save(np.array(self._texts(read, found), dtype=str).reshape(found.shape))
        self._take(math.prod(found.shape) * dtype.itemsize)
        step = max(1, _AT_ONCE // max(1, dtype.itemsize * math.prod(found.shape[1:])))
        path = self._path()
        with path.open("wb") as file:
            header = {"descr": np.lib.format.dtype_to_descr(dtype), "fortran_order": False, "shape": found.shape}
            np.lib.format.write_array_header_1_0(file, header)
            for start in range(0, rows, step):
                file.write(np.ascontiguousarray(read[start : start + step] if found.shape else read[()]).tobytes())
        return {"array": path.name}

    def _texts(self, read: Any, found: h5py.Dataset) -> list[str]:
        texts: list[str] = []
        longest = 1
        flat = found.shape[0] if found.shape else 1
        for start in range(0, flat, 65536):
            some = np.ravel(read[start : start + 65536] if found.shape else np.array([read[()]], dtype=object))
            texts += [text.decode("utf-8", "replace") if isinstance(text, bytes) else str(text) for text in some]
            longest = max(longest, *map(len, texts[-len(some) :]))
            if len(texts) * longest * _LETTER > self.left:
                self._take(len(texts) * longest * _LETTER)
        return texts

    def _save(self, array: np.ndarray) -> dict[str, Any]:
        self._take(array.nbytes)
        path = self._path()
        np.save(path, array, allow_pickle=False)
        return {"array": path.name}

    def _path(self) -> Path:
        self.count += 1
        return self.folder / f"{self.count}.npy"

    def _take(self, size: int) -> None:
        self.left -= size
        if self.left < 0:
            raise Unreadable(f"more than {self.most >> 20} MiB would come out of it")


def member(group: Any, name: str) -> Any:
    """What a group holds under a name, if it lies in the file itself: a file may point at any other on the machine."""
    for part in name.split("/"):
        if not isinstance(group, h5py.Group) or not isinstance(group.get(part, getlink=True), h5py.HardLink):
            raise Unreadable(f"{name!r} in it is missing, or is a link")
        group = group[part]
    if isinstance(group, h5py.Dataset):
        if group.external or group.is_virtual:
            raise Unreadable(f"the numbers of {name!r} lie in other files")
        if group.chunks and math.prod(group.chunks) * group.dtype.itemsize > _CHUNK:
            raise Unreadable(f"{name!r} is packed in pieces above {_CHUNK >> 20} MiB")
    return group


def plain(found: Any, value: Any) -> Any:
    """An attribute as JSON has it; None for what has no place there."""
    if isinstance(value, h5py.Reference):
        return str(found.file[value].name) if value else None
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, list):
        return [one.decode("utf-8", "replace") if isinstance(one, bytes) else one for one in value]
    return value if isinstance(value, str | int | float | bool) else None


def read(path: str, folder: Path, asked: dict[str, Any]) -> None:
    """Write parts of a file into a folder.

    Args:
        path: of the file.
        folder: where they are written.
        asked: `nodes`, those of which all that is there is wanted; `indexes`, tables of which the index is; `names`,
            groups whose members' names are; `most`, bytes.
    """
    with h5py.File(path, "r") as opened:
        file: Any = opened
        dump = Dump(folder, asked["most"])
        names = {name: list(file[name]) for name in asked["names"] if isinstance(file.get(name), h5py.Group)}
        found = {name: dump.node(member(file, name)) for name in asked["nodes"] if name in file}
        found |= {name: dump.node(member(file, name), "index") for name in asked["indexes"] if name in file}
        if isinstance(file.get("obs"), h5py.Dataset) and isinstance(file.get("uns"), h5py.Group):  # their categories
            old = [f"uns/{name}" for name in file["uns"] if name.endswith("_categories")]
            found |= {name: dump.node(member(file, name)) for name in old}
    (folder / "tree.json").write_text(json.dumps({"names": names, "nodes": found}))


def append(path: str, folder: Path) -> None:
    """Write columns into the table `obs` of a file, in place of those of the same name."""
    columns = json.loads((folder / "columns.json").read_text())
    with h5py.File(path, "r+") as file:
        table = member(file, "obs")
        if not isinstance(table, h5py.Group):
            raise Unreadable("it is of anndata before 0.7: read it with `anndata.read_h5ad`, and write it anew")
        order = [str(plain(file, name)) for name in table.attrs.get("column-order", [])]
        for name, kind in columns.items():
            if name in table:
                del table[name]
            column = write(table, name, kind, folder)
            if column is not None and name not in order:
                order.append(name)
        table.attrs["column-order"] = np.array(order, dtype=object) if order else np.array([], dtype=float)


def write(table: Any, name: str, files: dict[str, str], folder: Path) -> Any:
    """A column of numbers, or of categories with their names."""
    arrays = {part: np.load(folder / file, allow_pickle=False) for part, file in files.items()}
    if "codes" not in arrays:
        column = table.create_dataset(name, data=arrays["values"])
        column.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
        return column
    column = table.create_group(name)
    column.attrs.update({"encoding-type": "categorical", "encoding-version": "0.2.0", "ordered": False})
    codes = column.create_dataset("codes", data=arrays["codes"])
    codes.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    words = column.create_dataset("categories", data=arrays["categories"].astype(object), dtype=h5py.string_dtype())
    words.attrs.update({"encoding-type": "string-array", "encoding-version": "0.2.0"})
    return column


def bound(seconds: int) -> None:
    """Take no more addresses than a file of any size needs, since numbers go through in pieces, and end in any case.

    Args:
        seconds: of processor time; a parent that has been killed waits for nobody.
    """
    try:
        import resource
    except ImportError:  # not on Windows
        return
    for limit, most in ((resource.RLIMIT_AS, _MEMORY), (resource.RLIMIT_CPU, seconds)):
        hard = resource.getrlimit(limit)[1]
        most = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(limit, (most, most))


if __name__ == "__main__":
    bound(int(sys.argv[1]))
    verb, file, folder = sys.argv[2:5]
    try:
        read(file, Path(folder), json.loads(sys.argv[5])) if verb == "read" else append(file, Path(folder))
    except Unreadable as error:
        sys.exit(f"={error}")
    except Exception as error:  # bytes from outside make HDF5 raise whatever there is
        sys.exit(f"={type(error).__name__}: {error}")
