"""Run folders and result files from the outside: damaged, mixed up, or where nothing can be written."""

import hashlib
import json
import os
import shutil
import signal
import threading

import numpy as np
import pytest
import xarray as xr
from test_fit import linear_pair

import pplvae
from pplvae.errors import StoreError
from pplvae.holding import holding
from pplvae.run_folders import open_run
from pplvae.store import open_datasets, read_tensors, write_datasets, write_tensors
from pplvae.training.loop import Loop


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


def test_a_checkpoint_of_another_run_is_refused(two_runs):
    model, v, folder = two_runs
    shutil.copy(folder / "1" / "checkpoint.safetensors", folder / "0")
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors' is not the file that this run has written"):
        pplvae.load_fit(folder / "0", model.model, model.guide, v)
    with pytest.raises(StoreError, match=r"checkpoint\.safetensors' is not the file that this run has written"):
        pplvae.fit(model.model, model.guide, v, epochs=2, run=folder / "0", existing="resume")
    pplvae.fit(model.model, model.guide, v, epochs=1, run=folder / "0", existing="overwrite")
    pplvae.load_fit(folder / "0", model.model, model.guide, v)


def test_a_result_whose_files_wait_for_their_places_is_found(two_runs):
    """Its record is there, so that it is the result; the process that wrote it died before it could go on."""
    model, v, folder = two_runs
    for name in ("weights.safetensors", "history.nc"):
        (folder / "0" / name).rename(folder / "0" / f".{name}.next")
        shutil.copy(folder / "1" / name, folder / "0" / name)
    pplvae.load_fit(folder / "0", model.model, model.guide, v)
    assert not list((folder / "0").glob(".*.next"))


def test_a_record_cannot_move_files_out_of_its_folder(two_runs):
    model, v, folder = two_runs
    planted, record = folder / "0" / "..." / "planted.next", folder / "0" / "run.json"
    planted.parent.mkdir()
    planted.write_text("")
    content = json.loads(record.read_text())
    content["files"]["../planted"] = hashlib.sha256(b"").hexdigest()
    record.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"no file .*planted'"):
        pplvae.load_fit(folder / "0", model.model, model.guide, v)
    assert not (folder / "planted").exists()


def refused_in_another_thread(folder):
    """What a process that comes second is told: another thread has a lock of its own, as that would."""
    said = []

    def come():
        try:
            with holding(folder):
                pass
        except StoreError as error:
            said.append(str(error))

    thread = threading.Thread(target=come)
    thread.start()
    thread.join()
    return said


def test_one_process_at_a_time(tmp_path):
    said = []

    def program(v):
        said.extend(refused_in_another_thread(tmp_path))
        return model.model(v)

    program.__self__ = (model := linear_pair()[0])
    pplvae.fit(program, model.guide, linear_pair()[1], epochs=1, run=tmp_path)
    assert f"is being written to by process {os.getpid()} on " in said[0]
    assert refused_in_another_thread(tmp_path) == []


def test_the_lock_of_a_dead_process_is_no_obstacle(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".holder.json").write_text('{"process": 4194305, "host": "elsewhere"}')
    left = tmp_path / ".weights.safetensors.pplvae-4194305-abc.safetensors"
    left.touch()
    model, v = linear_pair()
    pplvae.fit(model.model, model.guide, v, epochs=1, run=tmp_path)
    assert not left.exists()
    assert not (tmp_path / ".holder.json").exists()


def test_a_folder_in_which_nothing_was_written_goes(tmp_path):
    with open_run(tmp_path / "deep" / "run", "refuse"):
        assert (tmp_path / "deep" / "run").is_dir()
    assert not (tmp_path / "deep").exists()


def test_a_run_folder_that_is_renamed_keeps_what_it_held(tmp_path):
    run, elsewhere = tmp_path / "run", tmp_path / "elsewhere"
    model, v = linear_pair()

    def program(v):
        if (run / "checkpoint.safetensors").exists():
            run.rename(elsewhere)
        return model.model(v)

    program.__self__ = model
    with pytest.raises(StoreError, match=r"run' was removed or renamed while it was written to"):
        pplvae.fit(program, model.guide, v, epochs=3, run=run)
    assert not run.exists()
    model, v = linear_pair()
    pplvae.fit(model.model, model.guide, v, epochs=3, run=elsewhere, existing="resume")


@pytest.mark.parametrize("at", range(1, 6))
def test_ctrl_c_at_the_end_of_an_epoch_leaves_no_part_of_it(at, tmp_path, monkeypatch):
    """Wherever it comes: the columns of the history are as long as each other, and their epochs are in them."""
    model, v = linear_pair()

    class Columns(list):
        count = 0

        def append(self, value):
            Columns.count += 1
            if Columns.count == at:
                signal.raise_signal(signal.SIGINT)
            super().append(value)

    made = Loop.__init__

    def init(self, *args):
        made(self, *args)
        self._history.columns = {name: Columns() for name in self._history.names}

    monkeypatch.setattr(Loop, "__init__", init)
    found = pplvae.fit(model.model, model.guide, v, epochs=3, run=tmp_path)
    assert found.status.name == "INTERRUPTED"
    assert found.history.sizes["epoch"] == 1
    assert found.best_epoch == 0
