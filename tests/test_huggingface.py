"""Data sets of Hugging Face: each kind of column becomes what it is, or is refused with its cure."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.utils.data import DataLoader, random_split

from pplvae.data import as_parts, as_rows
from pplvae.errors import DataError, ShapeError

datasets = pytest.importorskip("datasets", reason="datasets is not installed")

X = np.arange(18.0).reshape(6, 3)
FRAME = pd.DataFrame(X, columns=["a", "b", "c"])
IMAGES = np.arange(24.0).reshape(6, 2, 2)
KINDS = datasets.ClassLabel(names=["cat", "dog"])


def test_columns_of_numbers_are_a_table():
    rows = as_rows(datasets.Dataset.from_pandas(FRAME))
    np.testing.assert_array_equal(rows.values, X)
    assert rows.columns.tolist() == ["a", "b", "c"]
    assert rows.ids.tolist() == list(range(6))
    for kind in ("numpy", "torch", "pandas"):
        np.testing.assert_array_equal(as_rows(datasets.Dataset.from_pandas(FRAME).with_format(kind)).values, X)


def test_an_index_names_the_rows_wherever_they_go():
    whole = datasets.Dataset.from_pandas(FRAME.set_axis([f"p{i}" for i in range(6)]))
    rows = as_rows(whole.shuffle(seed=1).select([0, 1, 2]))
    assert len(rows.columns) == 3
    for name, values in zip(rows.ids, rows.values, strict=True):
        np.testing.assert_array_equal(values, X[int(name[1:])])
    with pytest.raises(DataError, match="repeats itself"):
        as_rows(whole.select([0, 0]))


@pytest.mark.parametrize("feature", ["lists", "arrays"])
def test_columns_of_arrays_are_tensors_and_classes_are_labels(feature):
    kind = (
        datasets.Array2D((2, 2), "float64")
        if feature == "arrays"
        else datasets.List(datasets.List(datasets.Value("float64")))
    )
    features = datasets.Features({"image": kind, "total": datasets.Value("int64"), "what": KINDS})
    given = {"image": IMAGES.tolist(), "total": list(range(6)), "what": [0, 1, 0, None, -1, 1]}
    rows = as_rows(datasets.Dataset.from_dict(given, features=features))
    np.testing.assert_array_equal(rows.values, IMAGES)
    assert rows.tensors[1].tolist() == list(range(6))
    assert rows.labels.tolist() == ["cat", "dog", "cat", "", "", "dog"]


def test_splits_are_parts():
    both = datasets.Dataset.from_pandas(FRAME).train_test_split(test_size=2, seed=0)
    parts = as_parts(both)
    assert {name: len(part) for name, part in parts.items()} == {"train": 4, "test": 2}


def test_within_a_loader_and_a_split_of_torch():
    whole = datasets.Dataset.from_dict({"v": X.tolist()}).with_format("torch", dtype=torch.float64)
    np.testing.assert_array_equal(as_rows(DataLoader(whole, batch_size=4, shuffle=True)).values, X)
    some, _ = random_split(whole, [2, 4], generator=torch.Generator().manual_seed(0))
    rows = as_rows(some)
    np.testing.assert_array_equal(rows.values, X[rows.ids])


REFUSED = {
    "text": (
        lambda: datasets.Dataset.from_pandas(FRAME.assign(d="x")),
        r"Column 'd' .*Value (large_)?string.*remove_columns\(\['d'\]",
    ),
    "stream": (lambda: datasets.Dataset.from_pandas(FRAME).to_iterable_dataset(), r"a stream.*take\(count\)"),
    "several shapes": (lambda: datasets.Dataset.from_dict({"v": [[1.0], [1.0, 2.0]]}), "differ in shape"),
    "missing numbers": (lambda: datasets.Dataset.from_dict({"a": [1.0, None]}), r"rows 1 .*with_mask"),
    "pictures": (
        lambda: datasets.Dataset.from_dict({"image": []}, features=datasets.Features({"image": datasets.Image()})),
        r"Column 'image' .*holds no numbers, but Image.*numpy\.asarray",
    ),
    "classes alone": (
        lambda: datasets.Dataset.from_dict({"y": [0]}, features=datasets.Features({"y": KINDS})),
        "0 of numbers",
    ),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_its_cure(kind):
    made, words = REFUSED[kind]
    with pytest.raises((DataError, ShapeError), match=words):
        as_rows(made())
