"""Files that are made to fill a memory, to be read for ever, or to lead somewhere else, for every reader."""

import bz2
import gzip
import io
import json
import lzma
import os
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import h5py
import numpy as np
import pandas as pd

import pplvae
from benchmarks.hostile_files import cells, saved
from pplvae import plain
from pplvae.run_folders import read_spec
from pplvae.store import open_datasets, read_tensors

_DEEP = 100_000
_READERS: dict[str, Callable[[Path], object]] = {
    "a.npy": pplvae.load_data,
    "a.npz": pplvae.load_data,
    "a.csv": pplvae.load_data,
    "a.csv.gz": pplvae.load_data,
    "a.parquet": pplvae.load_data,
    "a.h5ad": pplvae.load_data,
    "a.safetensors": read_tensors,
    "a.nc": lambda path: open_datasets(path, "comparison"),
    "a.json": read_spec,
}


def bombs(folder: Path) -> Iterator[tuple[str, Path, Callable[[Path], object]]]:
    """What each is, its path, and how it is read; one lies there at a time."""
    for making in (_lies, _packed, _deep):
        for called, file, content in making(folder):
            (folder / file).write_bytes(content)
            yield called, folder / file, _READERS[file]
            (folder / file).unlink()
    for file, read in _READERS.items():
        for called, place in _no_files(folder / file):
            yield f"{called}, as {file.partition('.')[2]}", folder / file, read
            place.unlink()


def _header(text: str) -> bytes:
    head = text.encode() + b"\n"
    return b"\x93NUMPY\x02\x00" + len(head).to_bytes(4, "little") + head


def _array(shape: str, descr: str = "'<f8'") -> bytes:
    return _header(f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}") + bytes(64)


def _zipped(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def _lies(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Shapes and lengths that are not those of the content."""
    yield "10¹² rows", "a.npy", _array("(1000000000000, 6)")
    yield "2⁶² rows, whose bytes overflow", "a.npy", _array("(4611686018427387904, 8)")
    yield "10¹² rows of no column", "a.npy", _array("(1000000000000, 0)")
    yield "10¹² texts of no letter", "a.npy", _array("(1000000000000,)", "'<U0'")
    yield "rows of 2 GiB", "a.npy", _array("(4,)", "'|V2147483647'")
    yield "fewer than no rows", "a.npy", _array("(-1, 6)")
    yield "Python objects", "a.npy", _array("(4,)", "'|O'")
    yield "a header of 100 000 brackets", "a.npy", _header("(" * _DEEP)
    yield "10¹² rows", "a.npz", _zipped(**{"x.npy": _array("(1000000000000, 6)")})
    sparse = {"format": np.array("csr"), "data": np.ones(1), "indices": np.zeros(1, int)}
    yield "10¹² rows", "a.npz", saved(np.savez, **sparse, indptr=np.array([0, 1]), shape=np.array([10**12, 6]))
    wide = {"indptr": np.array([0, 1]), "shape": np.array([1, 10**9])}
    yield "10⁹ columns", "a.npz", saved(np.savez, **sparse, **wide)
    away = {"indptr": np.array([0, 1, 10**6, 0]), "shape": np.array([3, 6])}
    yield "entries far outside", "a.npz", saved(np.savez, **sparse, **away)
    yield "10¹⁸ numbers", "a.h5ad", cells(folder, shape=[10**9, 10**9])
    yield "10⁹ columns", "a.h5ad", cells(folder, shape=[40, 10**9])
    yield "10¹³ numbers, of which none is written", "a.h5ad", _hollow(folder)
    huge = (2**63 - 1).to_bytes(8, "little")
    yield "a header of 2⁶³ bytes", "a.safetensors", huge + b"{}"
    tensor = {"w": {"dtype": "F64", "shape": [2**40, 2**40], "data_offsets": [0, 8]}}
    head = json.dumps(tensor).encode()
    yield "2⁸⁰ numbers", "a.safetensors", len(head).to_bytes(8, "little") + head + bytes(8)
    variable = {"name": "x", "dims": ["row"], "attrs": {}, "coordinate": False, "dtype": "<f8"}
    for shape in ([10**12], [0, 10**12]):
        hollow = variable | {"shape": shape, "dims": ["row", "of"][: len(shape)]}
        groups = {"comparison": {"attrs": {}, "variables": [hollow]}}
        about = json.dumps({"format": 1, "kind": "comparison", "groups": groups}).encode()
        yield f"a shape of {shape}", "a.nc", plain.sealed(b"", about, bytes(8 * (len(shape) == 1)))


def _hollow(folder: Path) -> bytes:
    with h5py.File(folder / "made.h5ad", "w") as file:
        file.create_dataset("X", (10**9, 10**4), "f4", chunks=(1000, 1000), compression="gzip")
        file["obs/_index"] = file["var/_index"] = ["a"]
    return _taken(folder / "made.h5ad")


def _packed(folder: Path) -> Iterator[tuple[str, str, bytes]]:
    """Much that is packed into little."""
    zeros = _header("{'descr': '<f8', 'fortran_order': False, 'shape': (34078720, 1), }") + bytes(260 << 20)
    yield "260 MiB of zeros", "a.npz", _zipped(**{"x.npy": zeros})
    once = _zipped(**{"x.npy": zeros[: 16 << 20]})
    yield "64 GiB: 4000 members in one place", "a.npz", _many_of_one(once, 4000)
    line = b"1,2\n"
    for called, pack in (("gzip", gzip.compress), ("bzip2", bz2.compress), ("xz", lzma.compress)):
        some = pack(line * (1 << 20))
        yield f"2 GiB of lines, {called}", "a.csv.gz", some * 512
    frame = pd.DataFrame({"a": np.zeros(17_000_000), "b": np.zeros(17_000_000)})
    frame.to_parquet(folder / "made.parquet")
    yield "34 million equal numbers", "a.parquet", _taken(folder / "made.parquet")
    words = pd.DataFrame({"a": np.zeros(5000), "label": pd.Categorical(["x" * (1 << 16)] * 5000)})
    words.to_parquet(folder / "made.parquet", row_group_size=1024)
    yield "one text of 64 KiB in 5000 rows", "a.parquet", _taken(folder / "made.parquet")


def _deep(_: Path) -> Iterator[tuple[str, str, bytes]]:
    """Much within much."""
    nested = b"[" * _DEEP + b"]" * _DEEP
    yield "100 000 brackets", "a.json", b'{"format": 1, "spec": ' + nested + b"}"
    yield "a number of 10⁶ digits", "a.json", b'{"format": 1, "spec": ' + b"9" * 10**6 + b"}"
    yield "64 MiB", "a.json", b'{"format": 1, "spec": {}' + b" " * (64 << 20) + b"}"
    yield (
        "100 000 brackets",
        "a.nc",
        plain.sealed(b"", b'{"format": 1, "kind": "comparison", "groups": ' + nested + b"}", b""),
    )
    head = json.dumps({"__metadata__": {"format": "1", "content": nested.decode()}}).encode()
    yield "100 000 brackets", "a.safetensors", len(head).to_bytes(8, "little") + head
    yield "a number of 10⁶ digits", "a.csv", b"a,b\n1," + b"9" * 10**6 + b"\n2,3\n"
    yield "130 000 digits and a letter", "a.csv", b"a,b\n1," + b"9" * 130_000 + b"x\n2,3\n"
    yield "a quotation that never ends", "a.csv", b'a,b\n1,"' + b"2\n" * 10**6
    yield "10⁶ columns, then one", "a.csv", b",".join([b"1"] * 10**6) + b"\n1\n"


def _no_files(path: Path) -> Iterator[tuple[str, Path]]:
    os.mkfifo(path)
    yield "a pipe that nobody writes to", path
    path.symlink_to("/dev/zero")
    yield "a link to /dev/zero", path
    path.symlink_to(path.name)
    yield "a link to itself", path


def _many_of_one(archive: bytes, count: int) -> bytes:
    """An archive whose directory names its one member so many times."""
    begin = archive.index(b"PK\x01\x02")
    end = archive.index(b"PK\x05\x06")
    entry = archive[begin:end]
    tail = bytearray(archive[end:])
    tail[8:10] = tail[10:12] = count.to_bytes(2, "little")
    tail[12:16] = (len(entry) * count).to_bytes(4, "little")
    return archive[:begin] + entry * count + bytes(tail)


def _taken(path: Path) -> bytes:
    content = path.read_bytes()
    path.unlink()
    return content
