"""Rows in a file, of which no copy is made; rows that need more memory than there is."""

import gc
import threading
from contextlib import contextmanager

import h5py
import numpy as np
import pandas
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bad_pair
from pyarrow.parquet import ParquetFile
from scipy import sparse

import pplvae
from pplvae.data import as_rows, limits
from pplvae.data import packed as packed_rows
from pplvae.errors import DataError, PplvaeWarning, ProgramError, ShapeError
from pplvae.programs.memory import bytes_of, rows_in
from pplvae.scoring.chunks import Chunk

ROWS, COLUMNS = 40_000, 400


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("mapped") / "rows.npy"
    rows = np.lib.format.open_memmap(path, mode="w+", dtype=np.float64, shape=(ROWS, COLUMNS))
    rows[:] = np.arange(ROWS)[:, None] % 1000
    rows.flush()
    return path


def own_memory():
    """MiB of this process that are no file's."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


def file_at(address):
    """The file, if any, that this process has mapped where a tensor lies."""
    with open("/proc/self/maps") as maps:
        for line in maps:
            span, *others = line.rstrip("\n").split(maxsplit=5)
            start, end = (int(bound, 16) for bound in span.split("-"))
            if start <= address < end:
                return next((name for name in others[4:] if name.startswith("/")), None)  # not "[heap]"
    return None


def test_a_memory_map_is_not_copied(path):
    rows = as_rows(np.load(path, mmap_mode="r")).values
    assert file_at(rows.data_ptr()) == str(path)
    assert rows.shape == (ROWS, COLUMNS)
    assert float(rows[-1, 0]) == 999


@contextmanager
def peak_of_own_memory():
    """A list that holds, in the end, the most MiB by which this process grew meanwhile."""
    found, ended, before = [], threading.Event(), own_memory()

    def watch():
        most = 0
        while not ended.wait(0.002):
            most = max(most, own_memory() - before)
        found.append(most)

    watching = threading.Thread(target=watch)
    watching.start()
    try:
        yield found
    finally:
        ended.set()
        watching.join()


def test_a_large_file_is_loaded_once(path):
    gc.collect()
    with peak_of_own_memory() as peak:
        data = pplvae.load_data(path)
    assert len(data.train) + len(data.valid) + len(data.test) == ROWS
    assert peak[0] < 1.6 * ROWS * COLUMNS * 8 / 2**20


@pytest.mark.parametrize("kind", ["dense", "sparse"])
def test_a_large_file_of_cells_is_loaded_once(kind, tmp_path, path):
    with h5py.File(tmp_path / "cells.h5ad", "w") as file:
        for table, count in (("obs", ROWS), ("var", COLUMNS)):
            file[f"{table}/_index"] = [f"{i}" for i in range(count)]
            file[table].attrs["_index"] = "_index"
        if kind == "dense":
            file["X"] = np.load(path, mmap_mode="r")
        else:
            file["X/data"], file["X/indices"] = np.ones(20 * ROWS, "f4"), np.tile(np.arange(20, dtype="i4"), ROWS)
            file["X/indptr"] = 20 * np.arange(ROWS + 1, dtype="i4")
            file["X"].attrs.update({"encoding-type": "csr_matrix", "shape": [ROWS, COLUMNS]})
    gc.collect()
    with peak_of_own_memory() as peak:
        data = pplvae.load_data(tmp_path / "cells.h5ad")
    assert len(data.train) + len(data.valid) + len(data.test) == ROWS
    assert float(data.test.values[-1, 0]) == (1 if kind == "sparse" else int(data.test.ids[-1]) % 1000)
    assert peak[0] < 1.6 * ROWS * COLUMNS * 8 / 2**20


def test_what_is_sparse_and_would_not_fit_is_refused_before_it_is_tried(monkeypatch):
    monkeypatch.setattr(limits, "memory_of_machine", lambda: 2**30)
    few = sparse.csr_array((10**6, 10**3))
    with pytest.raises(DataError, match=r"1000000×1000 numbers would take 9\.7 GiB, and the machine has 1\.0"):
        as_rows(few)


def test_an_array_in_chunks_is_not_held_whole(tmp_path, path, monkeypatch):
    zarr = pytest.importorskip("zarr")
    array = zarr.create_array(str(tmp_path / "rows.zarr"), shape=(ROWS, COLUMNS), chunks=(2000, COLUMNS), dtype="f8")
    given, asked = np.load(path, mmap_mode="r"), []
    for start in range(0, ROWS, 2000):
        array[start : start + 2000] = given[start : start + 2000]
    monkeypatch.setattr(zarr.Array, "__array__", None)  # which would hold it whole
    of_chunks = zarr.Array.__getitem__
    monkeypatch.setattr(zarr.Array, "__getitem__", lambda self, part: asked.append(part) or of_chunks(self, part))
    rows = as_rows(array).values
    assert max(part.stop - part.start for part in asked) * COLUMNS * 8 <= 2**24
    np.testing.assert_array_equal(rows[::999].numpy(), given[::999])


@pytest.fixture(scope="module")
def packed(tmp_path_factory):
    """Files of one table: float64, of which single precision tells the first column badly; an index in .parquet."""
    folder = tmp_path_factory.mktemp("packed")
    table = np.random.default_rng(0).normal(size=(5000, 30))
    table[:, 0] = 1e6 + 1e-3 * table[:, 0]
    frame = pandas.DataFrame(table, columns=[f"c{i}" for i in range(30)], index=[f"r{i}" for i in range(5000)])
    frame.to_parquet(folder / "named.parquet", row_group_size=700)
    frame.reset_index(drop=True).to_parquet(folder / "plain.parquet", row_group_size=700)
    with h5py.File(folder / "rows.h5", "w") as file:
        file.create_dataset("X", data=table, chunks=(100, 30))
    return folder, table


def opened(folder, name):
    return ParquetFile(folder / name) if name.endswith(".parquet") else h5py.File(folder / name)["X"]


@pytest.mark.parametrize("name", ["named.parquet", "plain.parquet", "rows.h5"])
def test_what_a_user_has_opened_is_read_some_rows_at_a_time(packed, name, monkeypatch):
    folder, table = packed
    monkeypatch.setattr(packed_rows, "_BYTES_AT_ONCE", 30 * 8 * 1000)
    asked, in_a_file = [], packed_rows.in_a_file
    monkeypatch.setattr(
        packed_rows,
        "in_a_file",
        lambda shape, dtype, pieces: in_a_file(shape, dtype, (asked.append(len(some)) or some for some in pieces)),
    )
    rows = as_rows(opened(folder, name))
    np.testing.assert_array_equal(rows.values, table)
    assert max(asked) == (1000 if name == "rows.h5" else 700)
    assert file_at(rows.values.data_ptr()) is not None
    assert rows.columns is None if name == "rows.h5" else rows.columns.tolist() == [f"c{i}" for i in range(30)]
    assert rows.ids[:3].tolist() == (["r0", "r1", "r2"] if name == "named.parquet" else [0, 1, 2])


@pytest.mark.parametrize("name", ["plain.parquet", "rows.h5"])
@pytest.mark.usefixtures("single_precision")
def test_what_is_unpacked_has_the_default_dtype_at_once(packed, name):
    folder, table = packed
    with pytest.warns(PplvaeWarning, match="single precision has fewer"):
        rows = as_rows(opened(folder, name))
    assert file_at(rows.values.data_ptr()) is not None  # not copied on the way to another dtype
    np.testing.assert_array_equal(rows.values, table.astype(np.float32))


def test_integers_and_what_is_missing_in_an_open_parquet(tmp_path):
    frame = pandas.DataFrame({"a": [1, 2, 3], "b": [True, False, True]})
    frame.to_parquet(tmp_path / "whole.parquet")
    whole = as_rows(ParquetFile(tmp_path / "whole.parquet")).values
    assert (whole.dtype, whole.tolist()) == (torch.int64, [[1, 1], [2, 0], [3, 1]])
    frame.astype({"a": "Int64"}).replace({"a": {2: pandas.NA}}).to_parquet(tmp_path / "gaps.parquet")
    with pytest.raises(DataError, match=r"rows 1 .counted from 0. hold NaN"):
        as_rows(ParquetFile(tmp_path / "gaps.parquet"))
    frame.assign(sex=["f", "m", "f"]).to_parquet(tmp_path / "text.parquet")
    with pytest.raises(DataError, match=r"column 'sex' of the \.parquet file holds (large_)?string"):
        as_rows(ParquetFile(tmp_path / "text.parquet"))
    pandas.DataFrame({"a": [1.0, 2.0]}, index=["x", "x"]).to_parquet(tmp_path / "twice.parquet")
    with pytest.raises(DataError, match=r"'x' stands in it more than once"):
        as_rows(ParquetFile(tmp_path / "twice.parquet"))


def test_what_is_no_array_of_numbers_in_a_file_is_refused_in_words(tmp_path):
    with h5py.File(tmp_path / "odd.h5", "w") as file:
        file["text"], file["one"], file["complex"] = ["a", "b"], 3.0, np.ones((2, 2), complex)
        file["rows"] = np.ones((2, 2))
        for name, words in (("text", "hold numbers"), ("one", "a single number"), ("complex", "real and imaginary")):
            with pytest.raises((DataError, ShapeError), match=words):
                as_rows(file[name])
        closed = file["rows"]
    with pytest.raises(DataError, match="HDF5 file that is closed"):
        as_rows(closed)


def test_a_full_disk_is_said(packed, monkeypatch):
    class Full:
        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def write(self, _):
            raise OSError(28, "No space left on device")

    folder, _ = packed
    monkeypatch.setattr(packed_rows.tempfile, "TemporaryFile", Full)
    with pytest.raises(DataError, match=r"temporary file of 1 MiB, and .* would not take it .*TMPDIR"):
        as_rows(opened(folder, "rows.h5"))


@pytest.mark.parametrize("part", [slice(None), slice(10, 30), slice(0, 40, 2)])
def test_a_program_may_write_into_its_rows(path, part):
    def model(v):
        v[:] = 7  # which ends the process where the map is only to be read
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 1), 1).to_event(1))
            pyro.sample("v", dist.Normal(h, 1).to_event(1), obs=v[:, :1])

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(torch.zeros(len(v), 1), 1).to_event(1))

    rows = np.load(path, mmap_mode="r")[:40][part]
    expected = np.array(rows)
    pplvae.log_weights(model, guide, rows, particles=2)
    np.testing.assert_array_equal(np.load(path, mmap_mode="r")[:40][part], expected)
    np.testing.assert_array_equal(as_rows(rows).values.numpy(), expected)


@pytest.mark.parametrize(("said", "size"), [("2GiB", 2**31), (" 2.5 gb", 2_500_000_000), (2**31, 2**31)])
def test_a_memory_in_words(said, size):
    assert bytes_of(said) == size


@pytest.mark.parametrize("said", ["2 apples", "", "1GiB", -1, "GiB"])
def test_no_memory(said):
    with pytest.raises(ValueError, match=r"`memory` is a number of bytes, at least 1.5 GiB"):
        bytes_of(said)


def test_wider_rows_go_in_smaller_chunks():
    narrow, wide = ([torch.zeros(3, columns)] for columns in (784, 100_000))
    assert rows_in(2**31, narrow) > 1000
    assert 1 <= rows_in(2**31, wide) < 100
    assert rows_in(2**31, [torch.zeros(3, 160, 88)]) < 200
    assert rows_in(2**31, [torch.zeros(1, 10**9, device="meta")]) == 1


@pytest.mark.parametrize(
    "trouble",
    [MemoryError(), torch.OutOfMemoryError("CUDA"), RuntimeError("DefaultCPUAllocator: can't allocate memory")],
)
def test_a_chunk_that_memory_cannot_hold_is_halved(monkeypatch, trouble):
    model, guide, rows = bad_pair(1, rows=20)
    options = {"particles": 10, "max_steps": 5}
    whole = pplvae.amortisation_gap(model.model, guide, rows, **options).rows
    sizes, of_chunk, most = [], Chunk.scores, 6

    def scores(chunk, name):
        sizes.append(len(chunk.batch))
        if len(chunk.batch) > most:
            raise trouble
        return of_chunk(chunk, name)

    monkeypatch.setattr(Chunk, "scores", scores)
    found = pplvae.amortisation_gap(model.model, guide, rows, **options).rows
    assert sizes[:3] == [20, 10, 5]
    np.testing.assert_allclose(found["elbo_local"], whole["elbo_local"], rtol=1e-9)
    np.testing.assert_array_equal(found["row"], whole["row"])
    most = 0  # where a single row is too much, it is said
    with pytest.raises((MemoryError, ProgramError), match=r"[Mm]emory|CUDA"):
        pplvae.amortisation_gap(model.model, guide, rows, **options)
