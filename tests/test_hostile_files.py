"""Files that were damaged or made up: refused in words, within a bounded time and memory, whatever they say."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import sparse

import pplvae
from benchmarks.hostile import tried
from benchmarks.hostile_bombs import bombs
from benchmarks.hostile_files import formats
from benchmarks.hostile_reading import Limits, outcomes
from pplvae.errors import DataError, PplvaeError, StoreError
from pplvae.store import open_datasets, write_datasets

MUTATIONS = 25  # of each format; `python -m benchmarks hostile` tries 2000


@pytest.fixture(scope="module")
def every(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    torch.set_default_dtype(torch.float64)  # as in tests
    return folder, formats(folder)


def test_whole_files_are_read(every, tmp_path):
    for some in every[1].values():
        found = outcomes(some.wholes, some.read, tmp_path / some.file)
        assert {outcome.kind for outcome in found} == {"read"}, (some.file, found)


def test_changed_files_are_read_or_refused_in_words_and_sealed_ones_are_noticed(every):
    folder, known = every
    for called, some in known.items():
        found = tried(called, some, folder, max(5, MUTATIONS // some.slow))
        odd = [outcome for outcome in found if outcome.kind not in ("refused", *([] if some.sealed else ["read"]))]
        assert not odd, (called, odd[:3])


def test_bombs_lies_pipes_and_links_are_refused_in_words(tmp_path):
    limits = Limits(seconds=20.0, resident=256 << 20)
    for called, path, read in bombs(tmp_path):
        (outcome,) = outcomes([None], read, path, limits)
        assert outcome.kind == "refused", (called, path.name, outcome)


def test_what_reads_a_result_is_not_the_library_that_others_read_it_with(tmp_path, monkeypatch):
    rows = xr.Dataset({"a": ("row", np.arange(5.0)), "b": ("row", ["x", None, "y", "z", "é"])}, attrs={"seed": 3})
    path = write_datasets(tmp_path / "a.nc", "history", {"history": rows})
    with xr.open_datatree(path, engine="h5netcdf") as others:
        np.testing.assert_array_equal(others["history"]["a"], rows["a"])
        others.load().to_netcdf(tmp_path / "anew.nc", engine="h5netcdf")
    monkeypatch.setattr("h5py.File", pytest.fail)
    assert open_datasets(path, "history")["history"].identical(rows)
    with pytest.raises(StoreError, match=r"another tool has written it.*xarray\.open_datatree"):
        open_datasets(tmp_path / "anew.nc", "history")


def test_what_packs_well_is_read_up_to_a_limit(tmp_path):
    counts = np.zeros((3000, 1000))
    np.savez_compressed(tmp_path / "a.npz", x=counts)  # 24 MB in 24 kB
    sparse.save_npz(tmp_path / "b.npz", sparse.csr_array(counts))
    for name in ("a.npz", "b.npz"):
        assert pplvae.load_data(tmp_path / name).train.values.shape == (2100, 1000)
    np.savez_compressed(tmp_path / "a.npz", x=np.zeros((40_000, 1000)))
    with pytest.raises(DataError, match=r"would take 305 MiB or more.*above the 256 MiB.*`numpy\.savez`"):
        pplvae.load_data(tmp_path / "a.npz")


@pytest.mark.parametrize("path", ["x" * 5000 + ".npy", "a\0b.npy", "/dev/null/a.csv"])
def test_names_that_the_system_does_not_take(path):
    with pytest.raises(PplvaeError, match="There is no file"):
        pplvae.load_data(path)
    with pytest.raises(PplvaeError, match="There is no file"):
        pplvae.load_comparison(path)
