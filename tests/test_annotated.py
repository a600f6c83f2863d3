"""AnnData: what a file or an object says of cells and genes is kept, and results go back into it by name."""

import importlib
import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import xarray as xr
import zarr

import pplvae
from pplvae.cli import main
from pplvae.data import as_rows, hdf5
from pplvae.data.annotated_files import names_of_rows
from pplvae.data.hdf5 import append_columns
from pplvae.errors import DataError, UnknownNameError

ARCHIVE = Path(__file__).parent / "files" / "anndata.zip"
X = (np.arange(18.0).reshape(6, 3) % 5).astype("f4")  # as in files/make_anndata.py
NAMES = [f"cell {i}" for i in range(6)]
ALL = {"valid": 0.0, "test": 0.0}
ASKED = {"labels": "cell_type", "total": "total", "batch": "cell_type"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("anndata")
    shutil.unpack_archive(ARCHIVE, where)
    return where


@pytest.fixture(scope="module")
def anndata():
    return pytest.importorskip("anndata", reason="anndata is not installed")


@pytest.fixture
def file(folder, tmp_path):
    """A file of one's own, to be changed."""
    return Path(shutil.copy(folder / "0.12_rows.h5ad", tmp_path / "cells.h5ad"))


FILES = ["0.6_rows", "0.6_columns", "0.7_rows", "0.7_dense", "0.12_rows", "0.12_columns", "0.12_dense"]
STORES = ["0.12_rows_format_2", "0.12_rows_format_3"]


@pytest.mark.parametrize("name", [*(f"{name}.h5ad" for name in FILES), *(f"{name}.zarr" for name in STORES)])
def test_files_of_every_version(name, folder):
    rows = pplvae.load_data(folder / name, **ALL, **ASKED).train
    np.testing.assert_array_equal(rows.values, X)
    assert rows.ids.tolist() == NAMES
    assert rows.columns.tolist() == ["g1", "g2", "g3"]
    assert rows.labels.tolist() == list("xyxzzy")
    assert rows.roles == ("total", "batch")
    assert rows.tensors[1].tolist() == (X.sum(1, keepdims=True) + 1).tolist()
    assert rows.tensors[2].tolist() == [2, 1, 2, 0, 0, 1]  # z, y, x: the order of the categories
    assert pplvae.load_data(folder / name, **ALL, ids="text").train.ids.tolist() == list("pqrstu")
    assert pplvae.load_data(folder / name, **ALL, ids="").train.ids.tolist() == list(range(6))


@pytest.mark.parametrize("name", ["0.7_rows.h5ad", "0.12_columns.h5ad", "0.12_rows_format_3.zarr"])
def test_a_layer_and_what_raw_keeps(name, folder):
    data = pplvae.load_data(folder / name, layer="counts", **ALL)
    np.testing.assert_array_equal(data.train.values, 2 * X)
    assert data.read_as == "layer 'counts'"
    np.testing.assert_array_equal(pplvae.load_data(folder / name, layer="raw", **ALL).train.values, X)
    with pytest.raises(UnknownNameError, match=r"layer of .*'count'. Did you mean 'counts'\? Known: X, counts, raw"):
        pplvae.load_data(folder / name, layer="count")


def test_a_missing_number_is_no_label_and_no_total(folder):
    path = folder / "0.12_rows.h5ad"
    np.testing.assert_array_equal(pplvae.load_data(path, labels="score", **ALL).train.labels, [1, np.nan, 3, 4, 5, 6])
    with pytest.raises(DataError, match=r"rows 1 .counted from 0. of column 'score'"):
        pplvae.load_data(path, total="score")
    for role in ("labels", "total", "batch", "ids"):
        with pytest.raises(UnknownNameError, match=r"'cell_typ'\. Did you mean 'cell_type'"):
            pplvae.load_data(path, **{role: "cell_typ"})
    with pytest.raises(DataError, match=r"'cell_type' of .* is no total"):
        pplvae.load_data(path, total="cell_type")


def test_an_object_is_read_as_its_file_is(anndata, folder):
    for name in ("0.12_rows.h5ad", "0.12_dense.h5ad"):
        for backed in (None, "r"):
            given = anndata.read_h5ad(folder / name, backed=backed)
            rows = as_rows(given)
            np.testing.assert_array_equal(rows.values, X)
            assert (rows.ids.tolist(), rows.columns.tolist()) == (NAMES, ["g1", "g2", "g3"])
            for options in ({}, {"layer": "counts"}, {"layer": "raw"}, ASKED):
                ours, theirs = (pplvae.load_data(each, seed=1, **options) for each in (given, folder / name))
                for part in ("train", "valid", "test"):
                    mine, other = getattr(ours, part), getattr(theirs, part)
                    assert all(map(np.array_equal, mine.tensors, other.tensors))
                    np.testing.assert_array_equal(mine.ids, other.ids)
                    np.testing.assert_array_equal(mine.columns, other.columns)
                    assert np.array_equal(mine.labels, other.labels)


def test_a_file_that_is_open_is_not_held_whole(anndata, folder, monkeypatch):
    given = anndata.read_h5ad(folder / "0.12_rows.h5ad", backed="r")
    dataset = importlib.import_module("anndata._core.sparse_dataset").BaseCompressedSparseDataset
    monkeypatch.setattr(dataset, "to_memory", None)  # which would hold it whole
    np.testing.assert_array_equal(as_rows(given).values, X)


def test_an_object_without_x_or_with_one_name_for_two_cells(anndata):
    cells = anndata.AnnData(X)
    cells.obs_names = ["a", "b", "a", "c", "d", "e"]
    with pytest.raises(DataError, match=r"'a' is that of 2 rows.*obs_names_make_unique"):
        as_rows(cells)
    with pytest.raises(DataError, match=r"has no matrix X. Name a layer: `load_data\(..., layer='counts'\)`"):
        pplvae.load_data(anndata.AnnData(layers={"counts": X}))


def test_two_cells_of_one_name_in_a_file(file):
    with h5py.File(file, "r+") as opened:
        opened["obs"]["_index"][:] = ["cell 0", *NAMES[:-1]]
    with pytest.raises(DataError, match=r"'cell 0' is that of 2 rows. Count them, `ids=\"\"`"):
        pplvae.load_data(file)
    assert len(pplvae.load_data(file, ids="", **ALL).train) == 6


def outside(opened, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["X"] = X
    del opened["X"]
    opened["X"] = h5py.ExternalLink(str(tmp_path / "secret.h5"), "X")


def raw_bytes(opened, tmp_path):
    (tmp_path / "secret").write_bytes(bytes(X))
    del opened["X"]
    opened.create_dataset("X", X.shape, X.dtype, external=[(str(tmp_path / "secret"), 0, X.nbytes)])


def virtual(opened, tmp_path):
    with h5py.File(tmp_path / "secret.h5", "w") as other:
        other["X"] = X
    del opened["X"]
    layout = h5py.VirtualLayout(X.shape, X.dtype)
    layout[:] = h5py.VirtualSource(str(tmp_path / "secret.h5"), "X", X.shape)
    opened.create_virtual_dataset("X", layout)


def many_rows(opened, _):
    opened["X"].attrs["shape"] = [10**9, 10**9]


def many_numbers(opened, _):
    del opened["X"]
    opened.create_dataset("X", (10**8, 10**4), "f4", chunks=(10, 1000), compression="gzip")


def large_pieces(opened, _):
    del opened["X"]
    opened.create_dataset("X", (6, 3), "f8", chunks=(2**26, 3), maxshape=(None, 3), compression="gzip")


def places_outside(opened, _):
    opened["X"]["indices"][:] = 7


def another_length(opened, _):
    del opened["obs"]["_index"]
    opened["obs"]["_index"] = NAMES[:3]


HOSTILE = {
    "link to another file": (outside, "is missing, or is a link"),
    "numbers in another file": (raw_bytes, "lie in other files"),
    "views of another file": (virtual, "lie in other files"),
    "more rows than fit": (many_rows, r"damaged sparse matrix|would take|names \(6"),
    "more numbers than fit": (many_numbers, "MiB would come out of it"),
    "large pieces": (large_pieces, "pieces above 1024 MiB"),
    "places outside": (places_outside, "damaged sparse matrix"),
    "too few names": (another_length, r"is of shape \(6, 3\), and names \(3, 3\)"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_made_up_files_are_refused_in_words(kind, file, tmp_path):
    change, words = HOSTILE[kind]
    with h5py.File(file, "r+") as opened:
        change(opened, tmp_path)
    with pytest.raises(DataError, match=words):
        pplvae.load_data(file)


def test_a_file_whose_reader_ends_or_never_ends(file, monkeypatch, tmp_path):
    child = tmp_path / "child.py"
    monkeypatch.setattr(hdf5.hdf5_child, "__file__", str(child))
    child.write_text("import os; os.abort()")
    with pytest.raises(DataError, match="HDF5's library ends the process"):
        pplvae.load_data(file)
    monkeypatch.setattr(hdf5, "_SECONDS", 1)
    child.write_text("while True: pass")
    with pytest.raises(DataError, match="cannot be read within 1 s"):
        pplvae.load_data(file)
    file.write_text("no file of HDF5")
    with pytest.raises(DataError, match="is no HDF5 file"):
        pplvae.load_data(file)


def zarr_of_codec(path, codec):
    """A store whose array says that it is packed so."""
    array = zarr.create_array(str(path), data=X, zarr_format=2, filters=None, compressors=None)
    assert array.metadata.filters is None
    text = (path / ".zarray").read_text()
    (path / ".zarray").write_text(text.replace('"compressor": null', f'"compressor": {{"id": "{codec}"}}'))
    return path


def test_a_store_that_would_run_code_is_refused(tmp_path):
    class Payload:
        def __reduce__(self):
            return Path.touch, (tmp_path / "was run",)

    store = tmp_path / "x.zarr"
    store.mkdir()
    about = {"zarr_format": 2, "shape": [1], "chunks": [1], "order": "C", "compressor": None, "fill_value": None}
    (store / ".zarray").write_text(json.dumps({**about, "dtype": "|O", "filters": [{"id": "pickle", "protocol": 5}]}))
    (store / "0").write_bytes(pickle.dumps(np.array([Payload()], dtype=object)))
    with pytest.raises(DataError, match=r"x\.zarr"):
        pplvae.load_data(store)
    assert not (tmp_path / "was run").exists()
    pickle.loads((store / "0").read_bytes())
    assert (tmp_path / "was run").exists()  # it would have
    with pytest.raises(DataError, match="packed by 'base64', which is not known to be safe"):
        pplvae.load_data(zarr_of_codec(tmp_path / "y.zarr", "base64"))


def test_stores_of_arrays(tmp_path):
    zarr.create_array(str(tmp_path / "a.zarr"), data=X)
    np.testing.assert_array_equal(pplvae.load_data(tmp_path / "a.zarr", **ALL).train.values, X)
    group = zarr.open_group(tmp_path / "b.zarr", mode="w")
    for name, values in (("x", X), ("y", np.arange(6))):
        group.create_array(name, data=values)
    rows = pplvae.load_data(tmp_path / "b.zarr", **ALL).train
    np.testing.assert_array_equal(rows.values, X)
    assert rows.labels.tolist() == list(range(6))
    zarr.create_array(str(tmp_path / "c.zarr"), shape=(10**9, 10**4), dtype="f4")
    with pytest.raises(DataError, match="made to fill a memory"):
        pplvae.load_data(tmp_path / "c.zarr")
    with pytest.raises(DataError, match="There is no file"):
        pplvae.load_data(tmp_path / "d.zarr")
    (tmp_path / "e.zarr").mkdir()
    with pytest.raises(DataError, match="cannot be read as a store of zarr"):
        pplvae.load_data(tmp_path / "e.zarr")


def test_totals_and_batches_of_other_tables(tmp_path):
    frame = pd.DataFrame(X, columns=["a", "b", "c"]).assign(size=X.sum(1) + 1, site=list("vuuvvw"))
    frame.to_csv(tmp_path / "x.csv", index=False)
    rows = pplvae.load_data(tmp_path / "x.csv", total="size", batch="site", **ALL).train
    assert rows.columns.tolist() == ["a", "b", "c"]
    assert rows.tensors[1].flatten().tolist() == (X.sum(1) + 1).tolist()
    assert rows.tensors[2].tolist() == [1, 0, 0, 1, 1, 2]
    frame.assign(size=range(6)).to_csv(tmp_path / "y.csv", index=False)
    with pytest.raises(DataError, match=r"Totals must be positive, but rows 0 .*column 'size' of .*y\.csv"):
        pplvae.load_data(tmp_path / "y.csv", total="size", batch="site")
    with pytest.raises(DataError, match=r"`layer` names a matrix of AnnData"):
        pplvae.load_data(tmp_path / "x.csv", layer="a")
    with pytest.raises(DataError, match=r"`total` is for tables"):
        pplvae.load_data("digits", total="a")


def result_of(names, part="test"):
    count = len(names)
    rows = {"gap": ("row", np.arange(1.0, count + 1)), "status": ("row", ["converged", "max_steps"] * count)}
    rows = {name: (dim, values[:count]) for name, (dim, values) in rows.items()}
    rows |= {"steps": ("row", np.arange(count)), "loc": (("row", "axis"), np.ones((count, 2)))}
    return xr.Dataset(rows, coords={"row": names, "part": ("row", [part] * count)})


def test_a_result_is_written_into_obs_by_name(monkeypatch):
    evidence = pplvae.Evidence(result_of(["c", "a"]))
    cells = SimpleNamespace(obs=pd.DataFrame({"n": [1, 2, 3]}, index=list("abc")), obs_names=pd.Index(list("abc")))
    evidence.to_obs(cells)
    obs = cells.obs
    assert obs.columns.tolist() == [
        *("n", "pplvae_part", "pplvae_gap", "pplvae_status", "pplvae_steps", "pplvae_loc[0]", "pplvae_loc[1]"),
    ]
    np.testing.assert_array_equal(obs["pplvae_gap"], [2, np.nan, 1])
    assert obs["pplvae_status"].tolist() == ["max_steps", np.nan, "converged"]
    assert obs["pplvae_status"].dtype == "category"
    evidence.to_obs(cells, prefix="")
    assert obs["gap"].tolist()[::2] == [2, 1]
    for names, words in ((["a", "b", "a"], "'a' stands in `adata`"), (["x", "y", "z"], "here 'x', there 'c'")):
        with pytest.raises(DataError, match=words):
            evidence.to_obs(SimpleNamespace(obs=cells.obs, obs_names=pd.Index(names)))
    with pytest.raises(DataError, match="'c' stands in the result"):
        pplvae.Evidence(result_of(["c", "c"])).to_obs(cells)
    with pytest.raises(DataError, match="a DataFrame has none"):
        evidence.to_obs(cells.obs)


def test_columns_in_a_file_are_those_that_anndata_reads(file, request):
    columns = {
        "gap": {"values": np.array([1.0, np.nan, 3, 4, 5, 6])},
        "status": {"codes": np.array([0, -1, 1, 0, 0, 1], dtype=np.int32), "categories": np.array(["good", "bad"])},
        "text": {"values": np.arange(6)},
    }
    append_columns(file, columns)
    append_columns(file, columns)
    rows = pplvae.load_data(file, labels="status", **ALL).train
    assert rows.labels.tolist() == ["good", "", "bad", "good", "good", "bad"]
    np.testing.assert_array_equal(rows.values, X)
    assert names_of_rows(file, None).tolist() == NAMES
    cells = request.getfixturevalue("anndata").read_h5ad(file)
    assert cells.obs.columns.tolist() == ["total", "cell_type", "text", "passed", "score", "gap", "status"]
    assert cells.obs["text"].tolist() == list(range(6))
    assert cells.obs["status"].tolist() == ["good", np.nan, "bad", "good", "good", "bad"]
    np.testing.assert_array_equal(cells.obs["gap"], columns["gap"]["values"])


@pytest.fixture
def pplvae_command(monkeypatch, capsys):
    """Run a command; what it says."""

    def run(*words, status=0):
        monkeypatch.setattr("sys.argv", ["pplvae", *map(str, words)])
        try:
            code = main()
        except SystemExit as ended:
            code = ended.code
        said = capsys.readouterr()
        assert (code or 0) == status, said
        return said.out + said.err

    return run


@pytest.fixture
def cells(tmp_path):
    """A file of 40 cells, as the description of the format has it; X is logarithms."""
    counts = np.random.default_rng(0).poisson(2.0, size=(40, 3)).astype("f4")
    with h5py.File(tmp_path / "cells.h5ad", "w") as file:
        file["X"] = np.log1p(counts)
        file["layers/counts"] = counts
        file["var/_index"] = ["gene a", "gene b", "gene c"]
        file["obs/_index"] = [f"barcode {i}" for i in range(40)]
        file["obs/total"] = counts.sum(1) + 1
        file["obs/cell_type/codes"] = np.arange(40, dtype="i1") % 2
        file["obs/cell_type/categories"] = ["neuron", "glia"]
        file["obs/cell_type"].attrs["encoding-type"] = "categorical"
        file["var"].attrs["_index"] = file["obs"].attrs["_index"] = "_index"
    return tmp_path / "cells.h5ad"


def test_from_a_file_to_its_obs_on_the_command_line(cells, tmp_path, pplvae_command):
    run, before = tmp_path / "run", cells.read_bytes()
    asked = ("--layer", "counts", "--labels", "cell_type", "--total", "total", "--latent", 1, "--epochs", 1)
    said = pplvae_command("fit", "--data", cells, *asked, "--run", run)
    assert "total (28, 1)" in said
    assert "Likelihood: negative-binomial" in said
    pplvae_command("compare", run, "--particles", 10, "--max-steps", 2, "--simulated", 0, "--evidence", "none")
    pplvae_command("export", run, "--to", tmp_path / "out.h5ad")
    assert cells.read_bytes() == before
    gaps = pplvae.load_comparison(run / "comparison.nc").rows["amortisation_gap"].to_series()
    with h5py.File(tmp_path / "out.h5ad") as out:
        found = pd.Series(out["obs/pplvae_amortisation_gap"][:], index=out["obs/_index"].asstr()[:])
    assert found.isna().sum() == 4  # of the validation part
    pd.testing.assert_series_equal(found.loc[gaps.index], gaps, check_names=False, check_index_type=False)
    assert "is there already" in pplvae_command("export", run, "--to", cells, status=2)
    pplvae_command("export", run, "--to", cells, "--force")
    assert cells.read_bytes() != before
    assert pplvae.load_data(cells, layer="counts").train.ids.tolist()[0].startswith("barcode")
    shown = pplvae.load_comparison(run / "comparison.nc").shown  # what the page shows of some rows
    assert shown["column"].values.tolist() == ["gene a", "gene b", "gene c"]
    assert set(shown["id"].values) <= {f"barcode {i}" for i in range(40)}


def test_a_copy_is_made_of_the_file_that_a_run_is_of(tmp_path, pplvae_command):
    run = tmp_path / "run"
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(40, 3)))
    pplvae_command("fit", "--data", tmp_path / "rows.npy", "--latent", 1, "--epochs", 1, "--run", run)
    pplvae_command("compare", run, "--particles", 10, "--max-steps", 2, "--simulated", 0, "--evidence", "none")
    assert "Write a .csv, .parquet or .nc" in pplvae_command("export", run, "--to", tmp_path / "a.h5ad", status=2)
    assert not (tmp_path / "a.h5ad").exists()
