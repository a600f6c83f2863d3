"""Data sets by name: what they hold, where their files come from, and what is said when one is missing."""

import gzip
import hashlib
import os
import sys
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pooch
import pytest
import torch

import pplvae
from pplvae.data import DATA_SETS, readers
from pplvae.data.download import File, Source, cache_folder, obtain
from pplvae.data.registry import DataSet
from pplvae.errors import DataError, UnknownNameError

COPIES = Path(os.environ.get("PPLVAE_DATA") or Path(pplvae.__file__).parents[2] / "shared" / "data")

# Rows of train, valid and test part (0: the set has none and it is split off), shape of a row, kinds of labels.
SETS = {
    "mnist": (60000, 0, 10000, (784,), 10),
    "mnist_static_binarized": (50000, 10000, 10000, (784,), 0),
    "fashion_mnist": (20000, 0, 10000, (784,), 10),
    "omniglot": (24345, 0, 8115, (784,), 1623),
    "frey_faces": (1965, 0, 0, (560,), 0),
    "caltech101_silhouettes": (4100, 2264, 2307, (784,), 101),
    "pbmc_facs": (3774, 0, 100, (2000,), 5),
    "cortex_zeisel": (1464, 0, 0, (1000,), 3),
    "newsgroups20_bow": (11258, 0, 7487, (1995,), 0),
    "jsb_chorales": (229, 76, 77, (160, 88), 0),
    "air_quality_uci": (9357, 0, 0, (13,), 0),
    "penguins": (344, 0, 0, (4,), 3),
}


@pytest.fixture
def copies(monkeypatch, single_precision):  # half the memory
    monkeypatch.setenv("PPLVAE_DATA", str(COPIES))

    def copy_of(name, **options):
        if not (COPIES / name.replace("-", "_")).is_dir():
            pytest.skip(f"no copy of {name} in {COPIES}")
        return pplvae.load_data(name, **options)

    return copy_of


def together(data, get):
    """One quantity of all rows, in the order of the source."""
    parts = [data.train, data.valid, data.test]
    order = np.argsort(np.concatenate([part.ids for part in parts]))
    return np.concatenate([np.asarray(get(part)) for part in parts])[order]


@pytest.mark.parametrize("name", SETS)
def test_every_set_has_its_rows_and_labels(name, copies):
    train, valid, test, shape, kinds = SETS[name]
    data = copies(name)
    sizes = [len(part) for part in (data.train, data.valid, data.test)]
    assert sum(sizes) == train + valid + test
    assert sizes[1] == (valid or round(0.1 * train))
    assert sizes[2] == (test or round(0.2 * train))
    assert np.array_equal(together(data, lambda part: part.ids), np.arange(sum(sizes)))
    for part in (data.train, data.valid, data.test):
        assert part.values.shape[1:] == shape
        assert part.values.dtype == torch.float32
        assert all(len(t) == len(part) and bool(t.isfinite().all()) for t in part.tensors)
        assert (part.image_shape is not None) == (len(DATA_SETS[name].sources[0].files) > 0 and shape[0] in (784, 560))
        assert part.binarisation == "none"
    assert (0 if data.train.labels is None else len(set(together(data, lambda part: part.labels)))) == kinds
    assert data.about == DATA_SETS[name].about


def test_pictures_are_in_the_unit_interval(copies):
    binary = copies("mnist-static-binarized")
    assert binary.name == "mnist_static_binarized"
    assert set(binary.test.values.unique().tolist()) == {0.0, 1.0}
    mnist = copies("mnist")
    pixels = torch.cat([mnist.train.values, mnist.valid.values])
    # the constants that everybody normalises MNIST with
    assert float(pixels.mean()) == pytest.approx(0.1307, abs=5e-5)
    assert float(pixels.std()) == pytest.approx(0.3081, abs=5e-5)
    assert together(mnist, lambda part: part.labels)[:5].tolist() == [5, 0, 4, 1, 9]
    frey = copies("frey_faces").train
    assert frey.image_shape == (28, 20)
    assert float(frey.values.max()) == pytest.approx(238 / 255, abs=1e-6)
    assert set(copies("frey-faces", binarise="threshold").train.values.unique().tolist()) == {0.0, 1.0}


def test_counts_come_with_the_total_of_all_columns(copies):
    news = copies("newsgroups20_bow").test
    assert torch.equal(news.tensors[1], news.values.sum(1, keepdim=True))
    assert news.columns[:2].tolist() == ["_eos_", "write"]
    cells = copies("pbmc_facs", labels="cell_type")
    archive = np.load(COPIES / "pbmc_facs" / "pbmc_facs.npz")
    row = cells.test[7]
    start, end = archive["test_indptr"][7:9]
    dense = np.zeros(16791)
    dense[archive["test_indices"][start:end]] = archive["test_data"][start:end]
    assert float(row.tensors[1]) == dense.sum()
    assert row.values[0].tolist() == dense[archive["hvg"]].tolist()
    assert row.columns[3] == archive["gene_symbol"][archive["hvg"][3]]
    assert len(set(together(cells, lambda part: part.labels))) == 10
    brain = copies("cortex_zeisel")
    assert together(brain, lambda part: part.tensors[1])[:2].tolist() == [[20625], [20717]]
    assert bool((brain.train.tensors[1] >= brain.train.values.sum(1, keepdim=True)).all())


def test_sequences_are_padded_behind_their_end(copies):
    data = copies("jsb_chorales")
    archive = np.load(COPIES / "jsb_chorales" / "jsb_chorales.npz")
    for part in (data.train, data.valid, data.test):
        rolls, lengths = part.tensors
        assert lengths.dtype == torch.int64
        assert lengths.tolist() == archive[f"{part.name}_len"].tolist()
        steps = torch.cat([roll[:length] for roll, length in zip(rolls, lengths, strict=True)])
        assert np.array_equal(steps, archive[f"{part.name}_x"])
        assert float(rolls.sum()) == archive[f"{part.name}_x"].sum()
    assert "lengths (229,)" in repr(data)
    with pytest.raises(DataError, match="not for sequences"):
        copies("jsb_chorales", standardise=True)


def test_missing_values_are_masked_and_columns_standardised(copies):
    birds = copies("penguins", labels="island")
    assert (together(birds, lambda part: part.tensors[1]) == 0).all(1).sum() == 2
    assert float(birds.train.values.sum(0).abs().max()) < 1e-3
    first = together(birds, lambda part: part.scaling.restore(part.values))[0]
    np.testing.assert_allclose(first, [39.1, 18.7, 181.0, 3750.0], rtol=1e-6)
    assert set(birds.train.labels) == {"Biscoe", "Dream", "Torgersen"}
    plain = copies("penguins", standardise=False)
    assert float(plain.train.values.max()) > 4000
    air = copies("air-quality-uci")
    assert together(air, lambda part: 1 - part.tensors[1]).mean() == pytest.approx(0.137, abs=5e-4)
    with pytest.raises(DataError, match="NaN"):
        copies("penguins", missing="refuse")
    with pytest.raises(UnknownNameError, match="Did you mean 'species'"):
        copies("penguins", labels="specie")


def test_larochelles_text_files_are_the_same_pictures(copies, tmp_path):
    """The bits written out in his format have the checksum that is pinned for his files, and are read back."""
    copies("mnist_static_binarized")
    archive = np.load(COPIES / "mnist_static_binarized" / "mnist_static_binarized.npz")
    originals = DATA_SETS["mnist_static_binarized"].sources[1].files
    for part, file in zip(("train", "valid", "test"), originals, strict=True):
        bits = np.unpackbits(archive[f"x_{part}"], axis=1)
        text = np.full((len(bits), 2 * 784), ord(" "), dtype=np.uint8)
        text[:, ::2], text[:, -1] = bits + ord("0"), ord("\n")
        assert hashlib.sha256(text).hexdigest() == file.sha256
        (tmp_path / file.name).write_bytes(text[:9].tobytes())
        read = readers.amat([tmp_path / file.name] * 3, None).parts[part]
        assert np.array_equal(read.reshape(9, 784), bits[:9])


def test_fashion_is_cut_to_the_same_rows_whichever_file_it_comes_from(tmp_path):
    def idx(name, array):
        head = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
        (tmp_path / name).write_bytes(gzip.compress(head + array.tobytes()))
        return tmp_path / name

    images = np.random.default_rng(0).integers(0, 256, (20003, 2, 3), dtype=np.uint8)
    labels = np.arange(20003, dtype=np.uint8)
    test = [idx("c", images[:7]), idx("d", labels[:7])]
    table = readers.fashion_originals([idx("a", images), idx("b", labels), *test], None)
    np.savez(tmp_path / "e.npz", x_train=images[:20000], y_train=labels[:20000])
    other = readers.fashion_first([tmp_path / "e.npz", *test], None)
    for part in ("train", "test"):
        assert np.array_equal(table.parts[part], other.parts[part])
        assert np.array_equal(table.labels[part], other.labels[part])
    assert np.array_equal(table.parts["test"], images[:7])


class Handler(SimpleHTTPRequestHandler):
    def log_request(self, *_):
        self.server.asked.append(self.path)

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A web server on this machine, and the requests that it was asked."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("PPLVAE_DATA", str(tmp_path / "cache"))
    (tmp_path / "public").mkdir()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=tmp_path / "public")) as server:
        server.asked, server.folder = [], tmp_path / "public"
        server.address = f"http://127.0.0.1:{server.server_port}/"
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def toy(server, monkeypatch):
    """A data set of that server; its first address is dead."""
    np.savez(server.folder / "toy.npz", x=np.arange(60, dtype=np.uint8).reshape(10, 2, 3))
    sha256 = hashlib.sha256((server.folder / "toy.npz").read_bytes()).hexdigest()
    file = File("toy.npz", sha256, (server.address + "gone/toy.npz", server.address + "toy.npz"))
    known = DataSet((Source((file,), readers.frey_faces),), "A toy.", scale=255)
    monkeypatch.setitem(DATA_SETS, "toy_set", known)
    return known


def test_downloads_once_and_verifies(server, toy, tmp_path, monkeypatch):
    data = pplvae.load_data("toy-set", valid=0, test=0)
    np.testing.assert_allclose(data.train.values, np.arange(60).reshape(10, 6) / 255)
    assert server.asked == ["/gone/toy.npz", "/toy.npz"]
    assert [path.name for path in (tmp_path / "cache" / "toy_set").iterdir()] == ["toy.npz"]
    (tmp_path / "cache" / "toy_set" / "toy.npz").chmod(0o444)
    (tmp_path / "cache" / "toy_set").chmod(0o555)  # read-only, as a shared folder is
    monkeypatch.setitem(sys.modules, "pooch", None)  # what lies in the cache needs no downloader
    assert torch.equal(pplvae.load_data("toy_set", valid=0, test=0).train.values, data.train.values)
    assert len(server.asked) == 2
    (tmp_path / "cache" / "toy_set").chmod(0o755)


def test_other_bytes_are_refused(server, toy, tmp_path):
    (server.folder / "toy.npz").write_bytes(b"something else")
    with pytest.raises(DataError, match=r"(?s)could not be downloaded.*/gone/toy.npz .*404.*ValueError.*hash"):
        pplvae.load_data("toy_set")
    assert list((tmp_path / "cache" / "toy_set").iterdir()) == []
    cached = tmp_path / "cache" / "toy_set" / "toy.npz"
    cached.write_bytes(b"something else")
    with pytest.raises(DataError, match=rf"{cached}.*is damaged, or another version.*Delete it"):
        pplvae.load_data("toy_set")


def test_a_download_that_breaks_off_leaves_nothing(server, toy, tmp_path, monkeypatch):
    whole = (server.folder / "toy.npz").read_bytes()

    def half(handler):
        handler.send_response(200)
        handler.send_header("Content-Length", str(len(whole)))
        handler.end_headers()
        handler.wfile.write(whole[: len(whole) // 2])
        handler.close_connection = True

    with monkeypatch.context() as broken:
        broken.setattr(Handler, "do_GET", half)
        with pytest.raises(DataError, match=r"(?s)could not be downloaded.*toy\.npz.*put a copy at"):
            pplvae.load_data("toy_set")
        assert list((tmp_path / "cache" / "toy_set").iterdir()) == []
    assert len(pplvae.load_data("toy_set", valid=0, test=0).train) == 10


def test_addresses_are_of_https_and_every_file_has_a_checksum():
    files = [file for known in DATA_SETS.values() for source in known.sources for file in source.files]
    assert {url.partition("//")[0] for file in files for url in file.urls} == {"https:"}
    assert all(len(bytes.fromhex(file.sha256)) == 32 for file in files)


def test_offline_says_what_was_tried_and_where_a_copy_goes(tmp_path, monkeypatch):
    def offline(*_, **__):
        raise OSError("no route to host")

    monkeypatch.setenv("PPLVAE_DATA", str(tmp_path))
    monkeypatch.setattr(pooch, "retrieve", offline)
    first = tmp_path / "mnist" / "train-images-idx3-ubyte.gz"
    with pytest.raises(DataError, match=rf"ossci-datasets.*no route.*cvdf-datasets.*put a copy at '{first}'"):
        pplvae.load_data("mnist")
    with pytest.raises(DataError, match=r"larocheh.*binarized_mnist_train\.amat"):
        pplvae.load_data("mnist_static_binarized")
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=rf"pip install 'pplvae\[data\]'.*put a copy at '{first}'"):
        pplvae.load_data("mnist")


@pytest.mark.parametrize("name", [name for name, known in DATA_SETS.items() if name not in ("digits", "mnist")])
def test_what_has_no_public_address_says_where_it_is_from(name, tmp_path, monkeypatch):
    monkeypatch.setenv("PPLVAE_DATA", str(tmp_path))
    known = DATA_SETS[name]
    first = known.sources[0].files[0]
    assert first.urls == ()
    with pytest.raises(DataError) as caught:
        obtain(name, known.sources[:1], known.about)
    assert str(tmp_path / name / first.name) in str(caught.value)
    assert "PPLVAE_DATA" in str(caught.value)
    assert known.about in str(caught.value)


@pytest.mark.parametrize("name", ["frey_faces", "air_quality_uci"])
def test_rows_that_follow_one_another_are_said_to(name):
    assert "follow one another" in DATA_SETS[name].about
    assert "held-out figures are optimistic" in DATA_SETS[name].about


def test_cache_folder(monkeypatch):
    monkeypatch.setenv("PPLVAE_DATA", "~/somewhere")
    assert cache_folder() == Path.home() / "somewhere"
    monkeypatch.delenv("PPLVAE_DATA")
    assert cache_folder() == Path(pooch.os_cache("pplvae"))
    monkeypatch.setitem(sys.modules, "pooch", None)
    with pytest.raises(DataError, match=r"pip install 'pplvae\[data\]'.*PPLVAE_DATA"):
        cache_folder()
    assert len(pplvae.load_data("digits").train) == 1258  # bundled
