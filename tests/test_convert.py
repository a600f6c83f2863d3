"""Archives of named data sets, made from small files of the public files' formats."""

import gzip
import pickle
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy.io import savemat

import pplvae
from pplvae.data import DATA_SETS, originals, readers, registry
from pplvae.data.convert import convert, main
from pplvae.data.download import File, Source, digest_of_arrays
from pplvae.data.registry import CONVERSIONS, DataSet
from pplvae.errors import DataError

BIRDS = """species,island,bill_length_mm,bill_depth_mm,flipper_length_mm,body_mass_g,sex,year
Adelie,Torgersen,39.1,18.7,181,3750,male,2007
Gentoo,Biscoe,NA,NA,NA,NA,NA,2009
"""
NEVER_RUN = []


@pytest.fixture
def birds(tmp_path, monkeypatch):
    """A file of two birds, whose archive is the one that is known."""
    (tmp_path / "birds.csv").write_text(BIRDS)
    digest = digest_of_arrays(originals.penguins([tmp_path / "birds.csv"]))
    known = DataSet((Source((File("two.npz", digest),), readers.penguins),), missing="mask")
    monkeypatch.setitem(DATA_SETS, "penguins", known)
    monkeypatch.setenv("PPLVAE_DATA", str(tmp_path / "cache"))
    return tmp_path / "birds.csv"


def test_what_has_no_address_can_be_made():
    assert {name for name, known in DATA_SETS.items() if any(not f.urls for f in known.sources[0].files)} == set(
        CONVERSIONS
    )


def test_the_command_makes_what_is_loaded(birds, monkeypatch, capsys, single_precision):
    monkeypatch.setattr(sys, "argv", ["convert", "penguins", str(birds)])
    main()
    assert capsys.readouterr().out.strip() == str(birds.parent / "cache" / "penguins" / "two.npz")
    data = pplvae.load_data("penguins", valid=0, test=0, standardise=False)
    torch.testing.assert_close(data.train.values, torch.tensor([[39.1, 18.7, 181, 3750], [0, 0, 0, 0]]))
    assert data.train.tensors[1].tolist() == [[True] * 4, [False] * 4]


def test_the_checksum_is_that_of_the_arrays(birds):
    """Archives of other bytes, with the arrays in another order, are the same; another year, or name, is not."""
    path = convert("penguins", [birds], birds.parent / "cache")
    arrays = originals.penguins([birds])
    np.savez(path, **dict(reversed(arrays.items())))
    pplvae.load_data("penguins")
    for other in (arrays | {"year": arrays["year"] + np.int16(1)}, arrays | {"when": arrays["year"]}):
        np.savez(path, **other)
        with pytest.raises(DataError, match="is damaged, or another version"):
            pplvae.load_data("penguins")
    path.write_bytes(b"no archive")
    with pytest.raises(DataError, match="is damaged, or another version"):
        pplvae.load_data("penguins")


def test_other_files_are_refused(birds, monkeypatch, capsys):
    birds.write_text(BIRDS.replace("2009", "2008"))
    with pytest.raises(DataError, match="these are not the public files"):
        convert("penguins", [birds], birds.parent)
    with pytest.raises(DataError, match=r"is made from penguins\.csv, in this order; got 2 files"):
        convert("penguins", [birds, birds], birds.parent)
    monkeypatch.setattr(sys, "argv", ["convert", "penguins", str(birds)])
    with pytest.raises(SystemExit):
        main()
    assert "not the public files" in capsys.readouterr().err


def test_an_array_has_one_digest_whatever_its_bytes_and_strides():
    plain = np.arange(6, dtype="<i4").reshape(2, 3)
    assert digest_of_arrays({"a": plain}) == digest_of_arrays({"a": plain.astype(">i4").T.copy().T})
    assert digest_of_arrays({"a": plain}) != digest_of_arrays({"a": plain.astype(np.int64)})


def test_hours_of_the_air(tmp_path):
    head = "Date,Time," + ",".join(f"sensor {k}" for k in range(13))
    (tmp_path / "air.csv").write_text(f"\ufeff{head}\n2004-03-10,9:00:00,-200,{','.join(['1.5'] * 12)}\n,,\n", "utf-8")
    found = originals.air_quality([tmp_path / "air.csv"])
    np.testing.assert_array_equal(found["x"], np.float32([[np.nan, *[1.5] * 12]]))
    assert found["time"].tolist() == [np.datetime64("2004-03-10T09:00:00").item()]
    assert found["columns"][12] == "sensor 12"


def test_chords_become_piano_rolls(tmp_path):
    songs = {"train": [[(21, 108), ()], [(np.int64(60),)]]}
    (tmp_path / "songs.pickle").write_bytes(pickle.dumps(songs, 3))
    found = originals.chorales([tmp_path / "songs.pickle"])
    assert found["train_len"].tolist() == [2, 1]
    assert [np.flatnonzero(roll).tolist() for roll in found["train_x"]] == [[0, 87], [], [39]]


def test_frames_of_a_face(tmp_path):
    frames = np.arange(2 * 560, dtype=np.uint8).reshape(1, 2, 560)
    (tmp_path / "face.pkl").write_bytes(pickle.dumps([frames], 3))
    np.testing.assert_array_equal(originals.frey_faces([tmp_path / "face.pkl"])["x"], frames.reshape(2, 28, 20))


class Harmful:
    def __reduce__(self):
        return NEVER_RUN.append, (1,)


def test_a_pickle_that_calls_functions_is_not_read(tmp_path):
    (tmp_path / "bad.pickle").write_bytes(pickle.dumps(Harmful()))
    with pytest.raises(DataError, match=r"this one asks for builtins.getattr: it was not read"):
        originals.chorales([tmp_path / "bad.pickle"])
    assert NEVER_RUN == []


def test_words_of_documents(tmp_path):
    for name, text in {"a": "1 3:2 1:4\n1 2:1\n1 \n", "b": "1 1:9\n", "c": "no 0\nuse 0\nget 0\n"}.items():
        (tmp_path / name).write_text(text)
    found = originals.newsgroups([tmp_path / name for name in "abc"])
    assert found["vocab"].tolist() == ["no", "use", "get"]
    assert [found[f"train_{name}"].tolist() for name in ("data", "indices", "indptr")] == [
        [4, 2, 1],
        [0, 2, 1],
        [0, 2, 3],
    ]


def test_outlines_stand_upright(tmp_path):
    seen = np.zeros((4, 28, 28), np.uint8)
    seen[:, 3, 5] = 1
    names = np.array([["cup", "fan"]], object)
    matrix = {"X": 1 - seen.transpose(0, 2, 1).reshape(4, 784), "Y": [[1, 2, 1, 2]], "classnames": names}
    savemat(tmp_path / "outlines.mat", matrix)
    found = originals.silhouettes([tmp_path / "outlines.mat"])
    assert found["class_names"].tolist() == ["cup", "fan"]
    pictures = np.concatenate([found[f"x_{part}"] for part in ("train", "valid", "test")])
    np.testing.assert_array_equal(pictures, seen)
    assert sorted(np.concatenate([found[f"y_{part}"] for part in ("train", "valid", "test")])) == [1, 1, 2, 2]


def test_drawings_are_shrunk_by_areas(tmp_path):
    """A pixel is the mean of those whose centres lie in it: 4 of 3.75 in the first one, each way."""
    drawings = np.ones((2, 2, 105, 105), bool)
    drawings[1, 0, 0, 0] = False
    for name, some in (("a", drawings[:1]), ("b", drawings[1:])):
        np.savez(tmp_path / f"{name}.npz", images=some)
    found = originals.omniglot([tmp_path / "a.npz", tmp_path / "b.npz"])
    whole = {
        (int(y), int(drawer)): picture
        for part in ("train", "test")
        for y, drawer, picture in zip(*(found[f"{kind}_{part}"] for kind in ("y", "drawer", "x")), strict=True)
    }
    assert len(found["x_train"]) == 3
    assert whole[1, 0][0, 0] == round(255 / 4**2)
    assert sum(int(picture.sum()) for picture in whole.values()) == whole[1, 0][0, 0]


def test_counts_of_genes(monkeypatch):
    """By R's columns; the gene that varies most comes first, and one that never does last."""
    counts = np.array([[1, 0, 9], [1, 5, 0]])
    data, rows = counts.T[counts.T > 0], np.nonzero(counts.T)[1]
    matrix = SimpleNamespace(x=data, i=rows, p=np.array([0, 2, 3, 4]), Dim=[2, 3])
    cells = pd.DataFrame({"celltype": ["b", "t"], "subpop": ["B cell", "T cell"]})
    genes = pd.DataFrame({"symbol": ["x", "y", "z"], "ensembl": ["1", "2", "3"]})
    whole = {"counts": matrix, "counts_test": matrix, "samples": cells, "samples_test": cells, "genes": genes}
    monkeypatch.setattr(originals, "_from_r", lambda _: {"pbmc_facs": whole})
    found = originals.pbmc_facs([Path("a")])
    table = readers._sparse(found, "test_", 3).toarray()
    np.testing.assert_array_equal(table, counts)
    assert found["hvg"].tolist()[-1] == 0
    assert found["test_subpop"].tolist() == ["B cell", "T cell"]


def test_cells_come_first(monkeypatch):
    counts = xr.DataArray([[1, 2, 3], [4, 5, 6]], dims=("g", "c"), coords={"g": ["x", "y"]})
    whole = {"count.matrix.large": counts, "labels": ["a", "b", "a"], "library.size": [9.0, 8.0, 7.0]}
    monkeypatch.setattr(originals, "_from_r", lambda _: {"zeisel": whole})
    found = originals.cortex_zeisel([Path("a")])
    assert found["x"].tolist() == [[1, 4], [2, 5], [3, 6]]
    assert found["gene"].tolist() == ["x", "y"]
    assert found["library_size"].tolist() == [9, 8, 7]


def test_files_of_r_need_a_reader(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "rdata", None)
    with pytest.raises(
        DataError, match=r"'a\.rda' is a file of R: reading it needs rdata, `pip install 'pplvae\[data\]'`"
    ):
        originals.cortex_zeisel([tmp_path / "a.rda"])


def test_binarised_digits_are_packed(tmp_path):
    bits = np.random.default_rng(0).integers(0, 2, (3, 784))
    for k in range(3):
        (tmp_path / str(k)).write_text("".join(" ".join(map(str, row)) + "\n" for row in bits[: k + 1]))
    found = originals.mnist_static([tmp_path / str(k) for k in range(3)])
    np.testing.assert_array_equal(np.unpackbits(found["x_test"], axis=1), bits)
    assert len(found["x_train"]) == 1


def test_clothes_are_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(originals, "FASHION_ROWS", 2)
    images, labels = np.arange(12, dtype=np.uint8).reshape(3, 2, 2), np.arange(3, dtype=np.uint8)
    for name, array in (("images", images), ("labels", labels)):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / name).write_bytes(gzip.compress(head + array.tobytes()))
    found = originals.fashion_first([tmp_path / "images", tmp_path / "labels"])
    np.testing.assert_array_equal(found["x_train"], images[:2])
    assert found["y_train"].tolist() == [0, 1]
    assert registry.CONVERSIONS["fashion_mnist"].files[0] == "train-images-idx3-ubyte.gz"
