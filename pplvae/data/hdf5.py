"""HDF5 files, read and written to by a child process, whose end is the end of whatever a made-up file does to it."""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pplvae.data import hdf5_child
from pplvae.data.limits import ARRAYS
from pplvae.data.tree import Tree
from pplvae.errors import DataError

_SECONDS, _PER_MIB = 20, 1
_LARGE = 2**26  # bytes
_MAGIC = b"\x89HDF\r\n\x1a\n"


def read_hdf5(path: Path, *, nodes: Sequence[str], indexes: Sequence[str], names: Sequence[str]) -> Tree:
    """Parts of a file; numbers are looked at through files that are gone when they are.

    Args:
        path: of the file.
        nodes: of which all is wanted, as far as they are there.
        indexes: tables of which the index alone is.
        names: groups whose members' names are: they are members without content.

    Raises:
        DataError: damaged, made up, or nothing that HDF5 has written.
    """
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise DataError(f"{str(path)!r} is no HDF5 file, as those of AnnData are. Restore it from a copy.")
    asked = {"nodes": nodes, "indexes": indexes, "names": names, "most": ARRAYS.most(path)}
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        _run(path, "read", str(path.resolve()), folder, json.dumps(asked))
        found = json.loads(Path(folder, "tree.json").read_text())
        whole = Tree()
        for group, members in found["names"].items():
            _put(whole, group, Tree(members=dict.fromkeys(members, Tree())))
        for name, content in found["nodes"].items():
            _put(whole, name, _tree(content, Path(folder)))
        return whole


def append_columns(path: Path, columns: Mapping[str, Mapping[str, np.ndarray]]) -> None:
    """Write columns into the table `obs` of a file, which may be left unusable where this fails: pass a copy.

    Args:
        path: of the file.
        columns: by name, `values`; or `codes` and `categories`.

    Raises:
        DataError: it cannot be written to.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        files: dict[str, dict[str, str]] = {}
        for i, (name, parts) in enumerate(columns.items()):
            files[name] = {part: f"{i}-{part}.npy" for part in parts}
            for part, values in parts.items():
                np.save(Path(folder, files[name][part]), values, allow_pickle=False)
        Path(folder, "columns.json").write_text(json.dumps(files))
        _run(path, "append", str(path.resolve()), folder)


def _run(path: Path, *words: str) -> None:
    seconds = _SECONDS + _PER_MIB * (path.stat().st_size >> 20)
    command = [sys.executable, "-P", str(hdf5_child.__file__), str(seconds), *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=seconds, check=False)
    except subprocess.TimeoutExpired as error:
        raise DataError(
            f"{str(path)!r} cannot be read within {seconds} s: it is damaged. Restore it from a copy."
        ) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [""])[-1]
        said = last[1:] if last.startswith("=") else f"HDF5's library ends the process ({done.returncode})"
        raise DataError(f"{str(path)!r} cannot be used: {said}. Restore it from a copy, or write it anew.")


def _tree(content: dict[str, Any], folder: Path) -> Tree:
    members = {name: _tree(member, folder) for name, member in content.get("members", {}).items()}
    return Tree(content["attributes"], _array(folder / content["array"]) if "array" in content else None, members)


def _array(file: Path) -> np.ndarray:
    return np.load(file, mmap_mode="r" if file.stat().st_size >= _LARGE else None, allow_pickle=False)


def _put(whole: Tree, name: str, what: Tree) -> None:
    *groups, last = name.split("/")
    for group in groups:
        whole = whole.members.setdefault(group, Tree())
    whole.members[last] = what
