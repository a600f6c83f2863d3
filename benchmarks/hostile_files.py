"""Whole files of every format that is read, how each is read, and what of it a change can leave unnoticed."""

import bz2
import gzip
import io
import json
import lzma
import random
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import torch
from scipy import sparse

import pplvae
from benchmarks.hostile_reading import Limits
from benchmarks.mutations import mutated
from pplvae import plain
from pplvae.commands.code import trusted
from pplvae.commands.folders import spec_of
from pplvae.commands.spec import OF_DATA, made
from pplvae.models import MODELS
from pplvae.run_folders import CHECKPOINT, RUN
from pplvae.store import open_datasets, read_tensors, write_json, write_tensors

_EPOCHS = 1
_GIB = 1 << 30


@dataclass(frozen=True)
class Format:
    """A format.

    Attributes:
        file: name of the file that is read.
        wholes: files as they should be.
        read: of a path.
        sealed: whether every change has to be noticed.
        change: of a whole file; by default its bytes are changed.
        slow: how many times fewer changes are tried, since reading one takes longer.
        limits: of a file; None for those of all others.
    """

    file: str
    wholes: list[bytes]
    read: Callable[[Path], object]
    sealed: bool = False
    change: Callable[[bytes, bytes, random.Random], bytes] = mutated
    slow: int = 1
    limits: Limits | None = None


def formats(folder: Path) -> dict[str, Format]:
    """Every format, by what it is called on the page; files are made, and fits written, in the folder."""
    data = _data_files(folder)
    run, again = _run_files(folder)
    return {
        "npy": Format("a.npy", data["npy"], pplvae.load_data),
        "npz": Format("a.npz", data["npz"], pplvae.load_data),
        "npz, packed anew": Format("a.npz", data["npz"] + data["sparse"], pplvae.load_data, change=_packed_anew),
        "npz, other arrays": Format("a.npz", data["npz"] + data["sparse"], pplvae.load_data, change=_other_arrays),
        "csv": Format("a.csv", data["csv"], pplvae.load_data),
        "csv, packed": Format("a.csv.gz", data["packed"], pplvae.load_data),
        "parquet": Format("a.parquet", data["parquet"], pplvae.load_data),
        "h5ad": Format("a.h5ad", data["cells"], _load_cells, slow=10, limits=Limits(30.0, _GIB, 8 * _GIB)),
        "safetensors": Format("a.safetensors", run["weights.safetensors"], read_tensors, sealed=True),
        "safetensors, sealed anew": Format(CHECKPOINT, run[CHECKPOINT][:1], again, change=_checkpoint_sealed_anew),
        "netCDF": Format("a.nc", run["comparison.nc"], pplvae.load_comparison, sealed=True),
        "netCDF, sealed anew": Format("a.nc", run["comparison.nc"], pplvae.load_comparison, change=_table_sealed_anew),
        "netCDF of a history": Format(
            "a.nc", run["history.nc"], lambda path: open_datasets(path, "history"), sealed=True
        ),
        "JSON of a fit": Format(RUN, run[RUN][:1], _load_fit(folder)),
        "JSON of a command": Format("command.json", run["command.json"][:1], _made, change=_command),
    }


def saved(save: Callable[..., object], *arrays: Any, **named: Any) -> bytes:
    """What a function of NumPy's writes."""
    buffer = io.BytesIO()
    save(buffer, *arrays, **named)
    return buffer.getvalue()


def cells(folder: Path, **attributes: Any) -> bytes:
    """A small file of AnnData, with a sparse matrix of which some attributes are others."""
    path = folder / "made.h5ad"
    counts = sparse.csr_array(np.random.default_rng(0).poisson(0.3, (40, 6)).astype("f4"))
    with h5py.File(path, "w") as file:
        for name in ("data", "indices", "indptr"):
            file.create_dataset(f"X/{name}", data=getattr(counts, name), compression="gzip")
        file["X"].attrs.update({"encoding-type": "csr_matrix", "shape": counts.shape, **attributes})
        for table, size in (("obs", 40), ("var", 6)):
            file[f"{table}/_index"] = [f"{table} {i}" for i in range(size)]
            file[table].attrs["_index"] = "_index"
        file["obs/total"] = np.arange(1.0, 41)
        file["obs/cell_type/codes"], file["obs/cell_type/categories"] = np.arange(40, dtype="i1") % 2, ["a", "b"]
    return path.read_bytes()


def _load_cells(path: Path) -> object:
    return pplvae.load_data(path, labels="cell_type", total="total")


def _data_files(folder: Path) -> dict[str, list[bytes]]:
    generator = np.random.default_rng(0)
    rows, counts = generator.normal(size=(40, 6)).round(3), generator.poisson(0.3, (40, 6))
    labels = np.array(["one", "two", "three", "four"] * 10)
    frame = pd.DataFrame(rows, columns=list("abcdef")).assign(label=labels)
    text = frame.to_csv(index=False).encode()
    europe = frame.drop(columns="label").to_csv(sep=";", decimal=",").encode()
    record = np.array([(1.0, 2), (3.0, 4)] * 9, dtype=[("a", "<f8"), ("b", "<i4")])

    def parquet(some: pd.DataFrame, **options: Any) -> bytes:
        some.to_parquet(folder / "a.parquet", **options)
        return (folder / "a.parquet").read_bytes()

    parts = {"x_train": rows, "x_test": rows[:9], "y_train": labels, "y_test": labels[:9]}
    return {
        "npy": [saved(np.save, array) for array in (rows, counts.astype(">i2"), np.asfortranarray(rows), record)],
        "npz": [
            saved(np.savez, x=rows, y=labels),
            saved(np.savez_compressed, **parts),
            saved(np.savez_compressed, counts),
        ],
        "sparse": [
            saved(sparse.save_npz, kind(counts.astype(float)))
            for kind in (sparse.csr_array, sparse.coo_array, sparse.csc_array)
        ],
        "cells": [cells(folder)],
        "csv": [
            text,
            europe,
            text.replace(b",", b"\t"),
            b"\n".join(b" ".join(b"%d" % n for n in row) for row in counts),
        ],
        "packed": [pack(text) for pack in (gzip.compress, bz2.compress, lzma.compress)],
        "parquet": [
            parquet(frame, compression="snappy"),
            parquet(frame.set_index("label"), compression="gzip"),
            parquet(pd.DataFrame(counts, columns=list("uvwxyz")), compression=None, row_group_size=10),
            parquet(frame.astype({"label": "category"}), compression="zstd"),
        ],
    }


def _pair() -> Any:
    torch.manual_seed(0)
    return MODELS["gaussian-vae"](visible=3, latent=1)


def _rows() -> torch.Tensor:
    return torch.randn(20, 3, generator=torch.Generator().manual_seed(1))


def _run_files(folder: Path) -> tuple[dict[str, list[bytes]], Callable[[Path], object]]:
    """Files of two run folders by name, and a function that goes on with a checkpoint."""
    found: dict[str, list[bytes]] = {}
    np.save(folder / "rows.npy", _rows().numpy())
    for seed in (0, 1):
        vae, run = _pair(), folder / str(seed)
        pplvae.fit(vae.model, vae.guide, _rows(), epochs=_EPOCHS, run=run, seed=seed)
        result = pplvae.compare(vae.model, vae.guide, _rows(), max_steps=20, particles=10, evidence=None)
        result.save(run / "comparison.nc")
        spec = {"model": "vae", "data": str(folder / "rows.npy"), "latent": 1, "seed": seed, "likelihood": "gaussian"}
        spec |= {"prior": None, "guide": None, "scale": 1.0, **dict.fromkeys(OF_DATA[:4])}
        write_json(run / "command.json", {"spec": spec})
        for path in run.iterdir():
            found.setdefault(path.name, []).append(path.read_bytes())

    def resumed(path: Path) -> object:
        vae = _pair()
        return pplvae.fit(vae.model, vae.guide, _rows(), epochs=_EPOCHS + 1, run=path.parent, existing="resume")

    return found, resumed


def _load_fit(folder: Path) -> Callable[[Path], object]:
    """Read a fit whose `run.json` is the given file, and whose other files are whole."""

    def load(path: Path) -> object:
        run = folder / "0"
        (run / RUN).write_bytes(path.read_bytes())
        vae = _pair()
        return repr(pplvae.load_fit(run, vae.model, vae.guide, _rows()))

    return load


def _made(path: Path) -> object:
    """The rows and the program that a run folder asks for, as `compare` makes them."""
    spec = spec_of(path.parent)
    return made(trusted(path.parent, spec, None, force=False), spec["seed"])


def _command(whole: bytes, other: bytes, random_numbers: random.Random) -> bytes:
    """Changed in its bytes or, as often, in one of its values."""
    if random_numbers.random() < 0.5:
        return mutated(whole, other, random_numbers)
    content = json.loads(whole)
    content["spec"][random_numbers.choice(sorted(content["spec"]))] = random_numbers.choice(_ODD)
    return json.dumps(content).encode()


def _packed_anew(whole: bytes, other: bytes, random_numbers: random.Random) -> bytes:
    """Bytes of one member changed, and its checksum with them."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive, zipfile.ZipFile(buffer, "w") as changed:
        target = random_numbers.choice(archive.namelist())
        for name in archive.namelist():
            content = archive.read(name)
            changed.writestr(name, mutated(content, content, random_numbers) if name == target else content)
    return buffer.getvalue()


def _other_arrays(whole: bytes, other: bytes, random_numbers: random.Random) -> bytes:
    """One array exchanged for one that does not go with the others."""
    arrays = dict(np.load(io.BytesIO(whole)))
    name = random_numbers.choice(sorted(arrays))
    values = arrays[name]
    odd = [
        np.zeros(0), np.array(3.0), np.array("text"), np.zeros((3, 0)), np.zeros((0, 3)), np.full(4, np.nan),
        np.array([2**62, -(2**62)]), np.array([1e300, -1e300]), np.array([b"csr"]), np.array([1 + 1j]),
        np.array(["2020-01-01"], "M8[D]"), np.zeros((2, 2, 2, 2)), np.array([10**6, 10**6]), np.array([-1, -1]),
        np.zeros(3, "V4"), np.zeros(3, [("a", "f8"), ("b", "U3")]), np.ones(40, bool), np.zeros(40, "M8[s]"),
    ]  # fmt: skip
    if values.dtype.kind in "iu" and random_numbers.random() < 0.5:
        changed = values.copy()
        changed.flat[random_numbers.randrange(max(values.size, 1)) :] = random_numbers.choice((-1, 10**6, 2**31 - 1))
        odd = [changed, values[::-1], values.astype(np.int64) * 10**9]
    arrays[name] = random_numbers.choice(odd)
    return saved(np.savez, **arrays)


def _table_sealed_anew(whole: bytes, other: bytes, random_numbers: random.Random) -> bytes:
    """Changed in what is read of it, with a right digest: as someone makes it who wants it to be opened."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a"
        path.write_bytes(whole)
        about, numbers = plain.read(path)
        head = json.dumps(about).encode()
        if random_numbers.random() < 0.2:
            numbers = mutated(bytes(numbers), other, random_numbers)
        else:
            head = mutated(head, head, random_numbers)
        return plain.sealed(b"", head, bytes(numbers))


def _checkpoint_sealed_anew(whole: bytes, _: bytes, random_numbers: random.Random) -> bytes:
    """A value of its JSON, or a tensor, exchanged for another one, with a right checksum."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "a.safetensors"
        path.write_bytes(whole)
        tensors, content = read_tensors(path)
        if random_numbers.random() < 0.5:
            _exchange_one(content, random_numbers)
        else:
            key = random_numbers.choice(sorted(tensors))
            odd = [torch.zeros(0), torch.zeros(7, 7), torch.tensor(3), torch.full_like(tensors[key], torch.nan)]
            tensors[key] = random_numbers.choice(odd)
            if random_numbers.random() < 0.3:
                del tensors[key]
        return write_tensors(path, tensors, content).read_bytes()


_ODD = (None, -1, 0, 10**9, 10**30, 1.5, 1e300, float("nan"), "text", "", [], {}, [[]], True, "\0", "/dev/zero")


def _exchange_one(content: Any, random_numbers: random.Random) -> None:
    """Exchange a value somewhere in JSON."""
    while True:
        keys = list(content) if isinstance(content, dict) else list(range(len(content)))
        key = random_numbers.choice(keys)
        if not (isinstance(content[key], dict | list) and content[key]) or random_numbers.random() < 0.2:
            content[key] = random_numbers.choice(_ODD)
            return
        content = content[key]
