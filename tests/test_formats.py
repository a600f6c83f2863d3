"""Files of every format that a release has written: they load, or are refused with what to do."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from contracts.test_results import CASES
from files.make import FIT, programs, sums

import pplvae
from pplvae import store
from pplvae.errors import StoreError

ARCHIVES = sorted((Path(__file__).parent / "files").glob("format_*.zip"))


@pytest.fixture(scope="module", params=ARCHIVES, ids=lambda path: path.stem)
def folder(request, tmp_path_factory):
    where = tmp_path_factory.mktemp(request.param.stem)
    shutil.unpack_archive(request.param, where)
    return where


def test_the_present_format_has_files():
    assert f"format_{store.FORMAT}" in [path.stem for path in ARCHIVES]


def test_results(folder):
    expected = json.loads((folder / "expected.json").read_text())
    files = {path.stem.replace("_", " "): path for path in folder.glob("*.nc")}
    assert files.keys() == expected.keys() - {"run"}
    for name, path in files.items():
        found = CASES[name].kind.load(path)
        assert sums(found) == pytest.approx(expected[name], nan_ok=True)
        assert len(found.settings) > 1
        assert str(found)


def test_a_run_folder_is_loaded_and_gone_on_with(folder, tmp_path):
    run = shutil.copytree(folder / "run", tmp_path / "run")
    rows, model = torch.from_numpy(np.load(folder / "rows.npy")), programs()
    back = pplvae.load_fit(run, model.model, model.guide, rows)
    expected = json.loads((folder / "expected.json").read_text())["run"]["log_weights"]
    assert float(pplvae.log_weights(back.model, back.guide, rows).sum()) == pytest.approx(expected, rel=1e-9)
    longer, new = FIT | {"epochs": 3}, programs()
    gone_on = pplvae.fit(new.model, new.guide, rows, run=run, existing="resume", **longer)
    at_once = programs()
    whole = pplvae.fit(at_once.model, at_once.guide, rows, **longer)
    np.testing.assert_allclose(gone_on.history["objective"], whole.history["objective"], rtol=1e-9)


@pytest.mark.parametrize(
    ("change", "remedy"), [(1, "newer version wrote it: update"), (-1, "the version that wrote it, or make")]
)
def test_files_of_other_formats_are_refused(change, remedy, tmp_path, monkeypatch):
    result = pplvae.Evidence.load(next(path for path in _latest(tmp_path).glob("evidence.nc")))
    with monkeypatch.context() as patched:
        patched.setattr(store, "FORMAT", store.FORMAT + change)
        result.save(tmp_path / "result.nc")
        store.write_json(tmp_path / "run.json", {})
        store.write_tensors(tmp_path / "weights.safetensors", {"h": torch.ones(2)})
    readers = {
        "result.nc": pplvae.Evidence.load,
        "run.json": store.read_json,
        "weights.safetensors": store.read_tensors,
    }
    for name, read in readers.items():
        with pytest.raises(StoreError, match=f"{name}.* has format {store.FORMAT + change}, .*{remedy}"):
            read(tmp_path / name)


def _latest(where):
    shutil.unpack_archive(ARCHIVES[-1], where / "latest")
    return where / "latest"
