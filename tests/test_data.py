"""Rows in: files, splits, binarisation, and every kind of bad input."""

import warnings

import numpy as np
import pandas as pd
import pytest
import torch
from workflow import check_command

import pplvae
from pplvae.data import as_parts, as_rows
from pplvae.errors import DataError, ShapeError, UnknownNameError
from pplvae.isolate import isolated, reseed


def test_digits():
    data = pplvae.load_data("digits", seed=0)
    assert [len(part) for part in (data.train, data.valid, data.test)] == [1258, 180, 359]
    assert data.train.values.shape[1] == 64
    assert data.train.image_shape == (8, 8)
    assert sorted(np.concatenate([data.train.ids, data.valid.ids, data.test.ids])) == list(range(1797))
    assert set(data.train.values.unique().tolist()) == {0.0, 1.0}
    assert "threshold" in repr(data)
    from sklearn.datasets import load_digits

    bunch = load_digits()
    row = data.test[7]
    assert torch.equal(row.values[0], torch.as_tensor(bunch.data[row.ids[0]] >= 8).to(row.values))
    assert row.labels[0] == bunch.target[row.ids[0]]


def test_seed_decides_the_split():
    first, again, other = (pplvae.load_data("digits", seed=seed) for seed in (0, 0, 1))
    assert torch.equal(first.train.values, again.train.values)
    assert not np.array_equal(first.test.ids, other.test.ids)


def test_binarisation_is_named():
    plain = pplvae.load_data("digits", binarise="none").train.values
    assert 0 < float(plain[(plain > 0) & (plain < 1)].numel())
    fixed = pplvae.load_data("digits", binarise="fixed").train
    assert set(fixed.values.unique().tolist()) == {0.0, 1.0}
    assert torch.equal(fixed.values, pplvae.load_data("digits", binarise="fixed").train.values)
    assert torch.equal(fixed.redrawn(0, 1).values, fixed.values)
    # a fixed draw has the grey values as its mean
    error = (fixed.values.mean(0) - plain.mean(0)).abs().max()
    assert float(error) < 5 * 0.5 / len(plain) ** 0.5
    with pytest.raises(UnknownNameError, match="Did you mean 'stochastic'"):
        pplvae.load_data("digits", binarise="stochastik")


def test_pixels_are_drawn_apart_from_latent_noise():
    grey = torch.full((100, 50), 0.5)
    rows = pplvae.Rows((grey,), np.arange(100), binarisation="stochastic", intensities=grey)
    with isolated(0):
        reseed(3, 2)
        noise = torch.rand(grey.shape)
    agreement = (rows.redrawn(3, 2).values == (noise < 0.5)).double().mean()
    assert abs(float(agreement) - 0.5) < 5 * 0.5 / grey.numel() ** 0.5
    assert torch.equal(rows.redrawn(-3, 2).values, rows.redrawn(3, 2).values)


@pytest.fixture
def table():
    return np.random.default_rng(0).normal(size=(40, 3)), np.arange(40) % 4


@pytest.mark.parametrize("kind", ["npy", "npz", "csv", "csv without header", "parquet"])
def test_files(kind, table, tmp_path):
    rows, labels = table
    path = tmp_path / f"data.{kind.split()[0]}"
    labelled = kind != "npy" and "without" not in kind
    frame = pd.DataFrame(rows, columns=["a", "b", "c"])
    if kind == "npy":
        np.save(path, rows)
    elif kind == "npz":
        np.savez(path, x=rows, y=labels)
    elif kind == "csv":
        frame.assign(label=labels).to_csv(path, index=False)
    elif kind == "parquet":
        pytest.importorskip("pyarrow")
        frame.assign(label=labels).to_parquet(path)
    else:
        frame.to_csv(path, index=False, header=False)
    data = pplvae.load_data(path, test=0.25, valid=0)
    assert (len(data.train), len(data.valid), len(data.test)) == (30, 0, 10)
    np.testing.assert_allclose(data.test.values, rows[data.test.ids], rtol=1e-12)
    if labelled:
        assert data.test.labels.tolist() == labels[data.test.ids].tolist()
    else:
        assert data.test.labels is None


def test_npz_with_its_own_parts_and_images(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 4, 5)).astype(np.uint8)
    np.savez(tmp_path / "x.npz", x_train=images, x_test=images[:6], y_train=np.arange(20), y_test=np.arange(6))
    data = pplvae.load_data(tmp_path / "x.npz", scale=255, binarise="threshold")
    assert (len(data.train), len(data.valid), len(data.test)) == (18, 2, 6)
    assert data.train.image_shape == (4, 5)
    assert data.test.labels.tolist() == list(range(6))
    assert torch.equal(data.test.values, torch.as_tensor(images[:6].reshape(6, -1) >= 127.5).to(data.test.values))
    with pytest.raises(DataError, match=r"from 0 to 255.*scale"):
        pplvae.load_data(tmp_path / "x.npz", binarise="threshold")


def test_npz_with_its_own_parts_is_checked(tmp_path):
    rows, labels = np.ones((10, 3)), np.arange(10)
    np.savez(tmp_path / "a.npz", x_train=rows, y_train=labels)
    assert pplvae.load_data(tmp_path / "a.npz", labels="y").train.labels is not None
    with pytest.raises(UnknownNameError, match=r"Unknown labels of 'a\.npz' 'nonsense'.*Known: y"):
        pplvae.load_data(tmp_path / "a.npz", labels="nonsense")
    np.savez(tmp_path / "b.npz", x_train=rows, x_test=rows)
    with pytest.raises(UnknownNameError, match="it has no labels"):
        pplvae.load_data(tmp_path / "b.npz", labels="y")
    np.savez(tmp_path / "c.npz", x_train=rows, x_test=rows[:, :2])
    with pytest.raises(DataError, match="same number of columns, but x_train has 3, x_test has 2"):
        pplvae.load_data(tmp_path / "c.npz")


@pytest.mark.parametrize("missing", ["NA", "null", "N/A", "nan", ""])
def test_a_first_line_with_a_missing_value_is_a_row(missing, tmp_path):
    (tmp_path / "a.csv").write_text(f"{missing}, 2\n3,4\n5,6\n")
    rows = pplvae.load_data(tmp_path / "a.csv", missing="mask", valid=0, test=0).train
    assert rows.values.tolist() == [[0, 2], [3, 4], [5, 6]]
    assert rows.tensors[1].tolist() == [[0, 1], [1, 1], [1, 1]]
    assert rows.columns is None


@pytest.mark.parametrize("names", ["NA,K", "NA", "1,K"])  # sodium, potassium
def test_a_first_line_of_names_is_a_header(names, tmp_path):
    (tmp_path / "a.csv").write_text(f"{names}\n" + "\n".join([names.replace("NA", "1").replace("K", "2")] * 3))
    rows = pplvae.load_data(tmp_path / "a.csv", valid=0, test=0).train
    assert len(rows) == 3
    assert rows.columns.tolist() == names.split(",")


class Mine:
    """Something a pickle would bring to life."""

    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


def write(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else path.write_text(content)


def truncated(path):
    np.save(path, np.ones((100, 3)))
    path.write_bytes(path.read_bytes()[:400])


def half_zip(path):
    np.savez(path, x=np.ones((100, 3)))
    path.write_bytes(path.read_bytes()[:300])


BAD_FILES = {
    "missing": ("a.npy", lambda p: None, DataError, "no file"),
    "empty": ("a.npy", lambda p: write(p, b""), DataError, "is empty"),
    "folder": ("a.npy", lambda p: p.mkdir(), DataError, "is a folder"),
    "truncated": ("a.npy", truncated, DataError, "breaks off"),
    "half a zip": ("a.npz", half_zip, DataError, "breaks off"),
    "pickle": ("a.npy", lambda p: np.save(p, np.array([Mine()]), allow_pickle=True), DataError, "never loaded"),
    "pickle in npz": ("a.npz", lambda p: np.savez(p, x=np.array([Mine()])), DataError, "never loaded"),
    "nameless arrays": (
        "a.npz",
        lambda p: np.savez(p, a=np.ones(3), b=np.ones(3)),
        DataError,
        "which one are the rows",
    ),
    "text array": ("a.npy", lambda p: np.save(p, np.array(["a", "b"])), DataError, "must be numbers"),
    "text column": (
        "a.csv",
        lambda p: write(p, "a,b\n1,x\n2,y\n"),
        DataError,
        "'x' in column 'b', row 0 .*must be numbers.*`labels='b'`",
    ),
    "ragged": ("a.csv", lambda p: write(p, "a,b\n1,2\n3\n4,5,6\n"), DataError, r"line 3 has 1.*lines 3, 4"),
    "no rows": ("a.csv", lambda p: write(p, "a,b\n"), DataError, "nothing to fit|0 rows"),
    "hole": ("a.csv", lambda p: write(p, "a,b\n1,2\n3,\n4,5\n6,7\n"), DataError, "Rows 1 .*NaN"),
    "not text": ("a.csv", lambda p: write(p, b"\x89PNG\r\n\x1a\n\x00"), DataError, "not a text file"),
    "unknown ending": ("a.xls", lambda p: write(p, "x"), DataError, r"kind that is not read.*Save the sheet as \.csv"),
    "unknown ending of nothing": ("a.xls", lambda p: None, UnknownNameError, "Unknown data set or kind of file"),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_bad_files(case, tmp_path):
    name, make, error, text = BAD_FILES[case]
    make(tmp_path / name)
    with pytest.raises(error, match=text):
        pplvae.load_data(tmp_path / name)


def test_bad_options(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.ones((4, 2)), y=np.ones(3))
    with pytest.raises(DataError, match="4 rows but 3 labels"):
        pplvae.load_data(tmp_path / "a.npz")
    with pytest.raises(UnknownNameError, match="Unknown labels of"):
        pplvae.load_data(tmp_path / "a.npz", labels="z")
    with pytest.raises(DataError, match="shares of the rows"):
        pplvae.load_data("digits", valid=0.6, test=0.5)
    np.save(tmp_path / "b.npy", np.ones((10, 6)))
    with pytest.raises(DataError, match="image_shape"):
        pplvae.load_data(tmp_path / "b.npy", image_shape=(2, 2))
    with pytest.raises(DataError, match="`seed` must be 0 or more"):
        pplvae.load_data("digits", seed=-1)
    with pytest.raises(DataError, match="`scale` divides the values"):
        pplvae.load_data("digits", scale=0.0)
    with pytest.raises(UnknownNameError, match="Did you mean 'digits'"):
        pplvae.load_data("digit")


@pytest.mark.parametrize(
    ("rows", "error", "text"),
    [
        (np.zeros((0, 3)), DataError, "no rows"),
        (np.array([["a"]]), DataError, "must hold numbers"),
        (np.array([[1.0], [np.nan], [np.inf]]), DataError, "rows 1, 2 "),
        (torch.tensor(3.0), ShapeError, "single number"),
        ((torch.zeros(3, 2), torch.zeros(4)), ShapeError, "same number of rows, got 3, 4"),
        ((), DataError, "empty tuple"),
        ("digits", DataError, "must hold numbers"),
    ],
    ids=str,
)
def test_bad_rows(rows, error, text):
    with pytest.raises(error, match=text):
        as_rows(rows)


def test_arrays_become_default_dtype_and_tensors_keep_theirs():
    assert as_rows(np.ones((2, 2), dtype=np.float32)).values.dtype == torch.float64
    assert as_rows(torch.ones(2, 2, dtype=torch.float32)).values.dtype == torch.float32
    assert as_rows((np.ones((2, 2)), np.array([0, 1]))).tensors[1].dtype == torch.int64


@pytest.mark.usefixtures("single_precision")
@pytest.mark.parametrize(
    ("low", "high"),
    [
        (1e6, 1e6 + 1e-3),
        (0, 1),
        (-1e-9, 1e-9),
        (1.6e9, 1.7e9),
        (5, 5),
        (-(2.0**40) - 900, -(2.0**40)),
        (1e7, 1e7 + 900),
    ],
)
def test_columns_that_single_precision_would_merge_are_named(low, high, tmp_path):
    """Held against the numbers that float32 has between both ends, counted one by one."""
    there, ends = 0, np.float32([low, high])
    while ends[0] < ends[1] and there < 1000:
        there, ends[0] = there + 1, np.nextafter(ends[0], ends[1])
    merged = low < high and there < 999
    frame = pd.DataFrame({"plain": np.linspace(0, 1, 20), "column": np.linspace(low, high, 20)})
    frame.loc[3, "column"] = np.nan
    frame.to_csv(tmp_path / "rows.csv", index=False)
    for measure in (lambda: as_rows(frame.dropna()), lambda: pplvae.load_data(tmp_path / "rows.csv", missing="mask")):
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            measure()
        assert [str(one.message).count("'column'") for one in said] == [1] * merged
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pplvae.load_data(tmp_path / "rows.csv", missing="mask", standardise=True)


def test_parts():
    data = pplvae.load_data("digits")
    assert list(as_parts(data)) == ["train", "test"]
    assert list(as_parts({"a": np.ones((2, 1))})) == ["a"]
    assert list(as_parts(data.valid)) == ["valid"]
    with pytest.raises(DataError, match="empty mapping"):
        as_parts({})


def test_subsets_keep_ids_and_labels():
    some = pplvae.load_data("digits").train[torch.tensor([5, 2])]
    assert some.ids.tolist() == pplvae.load_data("digits").train.ids[[5, 2]].tolist()
    assert len(some.labels) == len(some) == 2
    assert some.to(torch.float32).values.dtype == torch.float32


NAN = float("nan")


def test_with_mask_is_exact():
    v = torch.tensor([[1.0, NAN, 0.0], [NAN, NAN, NAN], [-2.0, 3.0, 4.0]], dtype=torch.float32)
    values, observed = pplvae.with_mask(v)
    assert torch.equal(values, torch.tensor([[1.0, 0, 0], [0, 0, 0], [-2, 3, 4]], dtype=torch.float32))
    assert torch.equal(observed, torch.tensor([[1.0, 0, 1], [0, 0, 0], [1, 1, 1]], dtype=torch.float32))
    assert v.isnan().sum() == 4  # the caller's tensor is as it was
    values, observed = pplvae.with_mask(np.array([3, 4]))
    assert values.dtype == observed.dtype == torch.float64
    assert observed.tolist() == [1, 1]
    with pytest.raises(DataError, match=r"Rows 1 of `v` .*infinite"):
        pplvae.with_mask([[1.0, NAN], [float("inf"), 2.0]])
    with pytest.raises(ShapeError, match="single number"):
        pplvae.with_mask(1.0)


def test_nan_is_refused_and_the_way_out_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,\n4,5\n6,7\n")
    with pytest.raises(DataError, match=r'missing="mask".*with_mask'):
        pplvae.load_data(tmp_path / "a.csv")
    holed = torch.tensor([[1.0, NAN]])
    with pytest.raises(DataError, match=r'with_mask.*missing="mask"'):
        as_rows(holed)
    with pytest.raises(DataError, match="rows 0 "):  # rows that somebody made by hand
        as_rows(pplvae.Rows((holed,), np.arange(1)))
    assert len(as_rows(pplvae.with_mask(holed)).tensors) == 2
    (tmp_path / "a.csv").write_text("a,b\n1,2\n3,inf\n4,\n6,7\n")
    with pytest.raises(DataError, match=r"Rows 1 .*infinite"):
        pplvae.load_data(tmp_path / "a.csv", missing="mask")
    with pytest.raises(UnknownNameError, match="Did you mean 'mask'"):
        pplvae.load_data("digits", missing="masked")


@pytest.fixture
def holed(tmp_path):
    """A table of the path, and its values: a constant column, one that nobody observed, and holes."""
    rng = np.random.default_rng(1)
    values = rng.normal(1e4, 3.0, size=(50, 5))
    values[:, 3], values[:, 4] = 0.1, NAN
    values[:, :3][rng.random((50, 3)) < 0.3] = NAN
    path = tmp_path / "holed.csv"
    pd.DataFrame(values, columns=list("abcde")).assign(label=np.arange(50)).to_csv(path, index=False)
    return path, values


def test_missing_values_of_a_file_become_a_mask(holed):
    path, values = holed
    data = pplvae.load_data(path, missing="mask", binarise=None)
    for part in (data.train, data.valid, data.test):
        want = values[part.ids]
        assert torch.equal(part.values, torch.as_tensor(np.where(np.isnan(want), 0, want)))
        assert torch.equal(part.tensors[1], torch.as_tensor(~np.isnan(want)).double())
        assert part.labels.tolist() == part.ids.tolist()
        assert part.columns.tolist() == list("abcde")
    assert "observed (35, 5)" in repr(data.train)
    assert "5 named columns" in repr(data.train[:3])
    assert len(data.train[:3].tensors) == 2


def test_standardised_by_the_observed_values_of_the_training_part(holed):
    path, values = holed
    data = pplvae.load_data(path, missing="mask", standardise=True)
    train = values[data.train.ids][:, :3]
    for part in (data.train, data.valid, data.test):
        want = (values[part.ids][:, :3] - np.nanmean(train, 0)) / np.nanstd(train, 0)
        seen = part.tensors[1].bool()
        np.testing.assert_allclose(part.values[:, :3], np.nan_to_num(want), atol=1e-9)
        back = part.scaling.restore(part.values)
        np.testing.assert_allclose(back[seen], values[part.ids][seen.numpy()], rtol=1e-14)
    assert float(data.train.values[:, 3:].abs().max()) < 1e-12
    assert data.train.scaling.scale[3:].tolist() == [1, 1]
    assert "standardised" in repr(data)
    assert data.train.to(torch.float32).scaling.mean.dtype == torch.float32
    with pytest.raises(DataError, match="no probabilities"):
        pplvae.load_data("digits", standardise=True)


def test_missing_pixels_are_binarised_to_nothing(tmp_path):
    grey = np.random.default_rng(0).random((30, 4))
    grey[grey < 0.3] = NAN
    np.save(tmp_path / "x.npy", grey)
    for how in ("threshold", "fixed", "stochastic"):
        rows = pplvae.load_data(tmp_path / "x.npy", missing="mask", binarise=how).train.redrawn(0, 3)
        values, observed = rows.tensors
        assert torch.equal(observed == 0, torch.as_tensor(np.isnan(grey[rows.ids])))
        assert set(values[observed == 1].tolist()) == {0.0, 1.0}
        assert not values[observed == 0].any()


def test_integers_with_missing_values_in_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    frame = pd.DataFrame({"a": pd.array([1, None, 3, 4], dtype="Int64"), "b": [1, 2, 3, 4]})
    frame.to_parquet(tmp_path / "a.parquet")
    data = pplvae.load_data(tmp_path / "a.parquet", missing="mask", valid=0, test=0)
    assert data.train.values.tolist() == [[1, 1], [0, 2], [3, 3], [4, 4]]
    assert data.train.tensors[1][:, 0].tolist() == [1, 0, 1, 1]


MASKED = """
import pyro, torch
import pyro.distributions as dist
from torch import nn

class Masked(nn.Module):
    def __init__(self, visible, latent):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(2 * visible, latent), nn.Linear(latent, visible)

    def model(self, v, observed):
        pyro.module("masked", self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(self.encoder.out_features), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(self.decoder(h), 1.0).mask(observed.bool()).to_event(1), obs=v)

    def guide(self, v, observed):
        pyro.module("masked", self)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(self.encoder(torch.cat([v, observed], -1)), 0.5).to_event(1))
"""


def test_masked_rows_go_through_the_command_line(holed, tmp_path):
    path, _ = holed
    (tmp_path / "mine.py").write_text(MASKED)
    check_command(path, tmp_path, model=f"{tmp_path / 'mine.py'}:Masked", missing="mask")
