"""Run folders and result files from the outside: damaged, mixed up, or where nothing can be written."""

import json
import shutil

import numpy as np
import pytest
import xarray as xr
from test_fit import linear_pair

import pplvae
from pplvae.errors import StoreError
from pplvae.store import open_datasets, read_tensors, write_datasets, write_tensors


@pytest.fixture
def two_runs(tmp_path):
    model, v = linear_pair()
    for seed in (0, 1):
        pplvae.fit(model.model, model.guide, v, epochs=1, seed=seed, run=tmp_path / str(seed))
    return model, v, tmp_path


@pytest.mark.parametrize("file", ["weights.safetensors", "history.nc"])
def test_files_of_another_run_are_refused(two_runs, file):
    model, v, folder = two_runs
    pplvae.load_fit(folder / "0", model.model, model.guide, v)
    shutil.copy(folder / "1" / file, folder / "0" / file)
    with pytest.raises(StoreError, match=rf"{file}' is not the file that this run has written.*another run"):
        pplvae.load_fit(folder / "0", model.model, model.guide, v)


@pytest.mark.parametrize("file", ["weights.safetensors", "history.nc"])
def test_damaged_files_are_refused_before_a_library_opens_them(two_runs, file, monkeypatch):
    model, v, folder = two_runs
    path = folder / "0" / file
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    monkeypatch.setattr(xr, "open_dataset", pytest.fail)
    monkeypatch.setattr("safetensors.safe_open", pytest.fail)
    with pytest.raises(StoreError, match=file):
        pplvae.load_fit(folder / "0", model.model, model.guide, v)


def test_every_flipped_bit_of_a_file_is_noticed(tmp_path, monkeypatch):
    rows = xr.Dataset({"a": ("row", np.arange(5.0))})
    table = write_datasets(tmp_path / "a.nc", "history", {"history": rows})
    tensors = write_tensors(tmp_path / "a.safetensors", {"w": pplvae.load_data("digits").test.values[:3]})
    assert open_datasets(table, "history")["history"].identical(rows)
    for path, read in ((table, lambda: open_datasets(table, "history")), (tensors, lambda: read_tensors(tensors))):
        whole = path.read_bytes()
        for place in np.linspace(0, len(whole) - 60, 60).astype(int):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 4]) + whole[place + 1 :])
            with pytest.raises(StoreError, match=r"damaged|format"):
                read()


def test_a_damaged_checkpoint_is_not_gone_on_with(two_runs):
    model, v, folder = two_runs
    path = folder / "0" / "checkpoint.safetensors"
    content = bytearray(path.read_bytes())
    content[-9] ^= 64  # a number of the optimiser's state
    path.write_bytes(content)
    with pytest.raises(StoreError, match="its numbers are not those that were written"):
        pplvae.fit(model.model, model.guide, v, epochs=2, run=folder / "0", existing="resume")


def test_where_nothing_can_be_written(tmp_path):
    model, v = linear_pair()
    (tmp_path / "file").touch()

    def never(*_):
        pytest.fail("the program was run")

    with pytest.raises(StoreError, match=r"file/run' would lie below '.*file', which is a file; choose another name"):
        pplvae.fit(never, never, v, run=tmp_path / "file" / "run")
    with pytest.raises(StoreError, match="cannot be written: File name too long"):
        pplvae.fit(never, never, v, run=tmp_path / ("x" * 300))
    gap = pplvae.amortisation_gap(model.model, model.guide, v[:5], particles=10, max_steps=1)
    with pytest.raises(StoreError, match=r"gap\.nc' cannot be written: .*Choose another place"):
        gap.save(tmp_path / "file" / "gap.nc")


@pytest.mark.parametrize(("name", "bad"), [("settings", None), ("files", [1]), ("status", {}), ("status", "ENDED")])
def test_a_record_that_was_edited_is_damaged(two_runs, name, bad):
    model, v, folder = two_runs
    path = folder / "0" / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {name: bad}))
    with pytest.raises(StoreError, match=r"run\.json' is damaged"):
        pplvae.load_fit(folder / "0", model.model, model.guide, v)
