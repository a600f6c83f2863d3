"""Rows as people hold them in memory: each kind gives the rows of the plain array, or is refused with its cure."""

from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import xarray as xr
from scipy import sparse
from torch.nn.utils.rnn import pack_padded_sequence
from torch.utils.data import Subset, TensorDataset

import pplvae
from pplvae.data import as_rows, few
from pplvae.errors import DataError, ShapeError

try:
    import polars  # here, since it changes the environment once
except ImportError:
    polars = None

X = np.random.default_rng(0).integers(-9, 9, size=(6, 3)).astype(np.float64)  # exact in every dtype below
NAMES, INDEX = ["a", "b", "c"], [f"patient {i}" for i in range(6)]
FRAME = pd.DataFrame(X, columns=NAMES, index=INDEX)

SAME_VALUES = {
    "big-endian": X.astype(">f8"),
    "big-endian integers": X.astype(">i2"),
    "long doubles": X.astype(np.longdouble),
    "half precision": X.astype(np.float16),
    "read-only": np.broadcast_to(X, X.shape),
    "nothing masked": np.ma.array(X, mask=False),
    "sparse matrix": sparse.csr_matrix(X),
    "sparse array": sparse.coo_array(X),
    "sparse tensor": torch.tensor(X).to_sparse(),
    "sparse rows": lambda: torch.tensor(X).to_sparse_csr(),
    "bfloat16": torch.tensor(X).bfloat16(),
    "parameter": torch.nn.Parameter(torch.tensor(X)),
    "structured": np.array([tuple(row) for row in X], dtype=[("a", ">f8"), ("b", "<f4"), ("c", "i4")]),
    "objects": pd.DataFrame(X, dtype=object),
    "sparse frame": pd.DataFrame.sparse.from_spmatrix(sparse.csr_matrix(X)),
    "nullable": pd.DataFrame(X).astype("Int64"),
    "labelled": xr.DataArray(X, dims=["row", "column"], coords={"column": NAMES}),
    "labelled, several variables": xr.Dataset({name: ("row", X[:, i]) for i, name in enumerate(NAMES)}),
    "labelled, one variable": xr.Dataset({"v": (("row", "column"), X)}),
    "sparse matrix by keys": sparse.dok_array(X),
    "turned round": X[::-1, ::-1].copy()[::-1, ::-1],
    "by columns": np.asfortranarray(X),
    "array of objects": X.astype(object),
    "whole numbers as objects": X.astype(int).astype(object),
    "decimals": pd.DataFrame([[Decimal(int(x)) for x in row] for row in X]),
    "lists": X.tolist(),
    "data set": TensorDataset(torch.tensor(X)),
}


@pytest.mark.filterwarnings("ignore:Sparse CSR tensor support")
@pytest.mark.parametrize("kind", SAME_VALUES)
def test_every_kind_gives_the_rows_of_the_array(kind):
    given = SAME_VALUES[kind]
    rows = as_rows(given() if callable(given) else given)
    assert len(rows.tensors) == 1
    assert rows.values.layout is torch.strided
    assert not rows.values.requires_grad
    if kind not in ("big-endian integers", "nullable", "whole numbers as objects"):
        assert rows.values.dtype is torch.float64
    np.testing.assert_array_equal(rows.values.double(), X)


@pytest.mark.parametrize(("given", "wider"), [("uint16", "int32"), ("uint32", "int64"), ("uint64", "int64")])
def test_integers_that_torch_cannot_compute_with_are_widened(given, wider):
    rows = as_rows(np.array([[1], [2]], dtype=given))
    assert rows.values.dtype is getattr(torch, wider)
    assert rows.values.tolist() == [[1], [2]]
    assert as_rows(torch.tensor([[7]], dtype=getattr(torch, given))).values.tolist() == [[7]]


def test_a_frame_keeps_its_names_and_index():
    rows = as_rows(FRAME)
    assert rows.columns.tolist() == NAMES
    assert rows.ids.tolist() == INDEX
    assert as_rows(pd.DataFrame(X)).columns is None
    assert as_rows(pd.DataFrame(X, index=[5, 3, 9, 2, 8, 0])).ids.tolist() == [5, 3, 9, 2, 8, 0]
    levels = pd.MultiIndex.from_product([["u", "v"], [0, 1, 2]])
    assert as_rows(FRAME.set_axis(levels)).ids.tolist()[:2] == ["u / 0", "u / 1"]
    assert as_rows(pd.Series([1.0, 2.0], index=["u", "v"])).ids.tolist() == ["u", "v"]


def test_an_xarray_keeps_the_names_of_its_rows_whatever_its_shape():
    pictures = xr.DataArray(X.reshape(3, 2, 3), dims=["day", "y", "x"], coords={"day": ["mon", "tue", "wed"]})
    assert as_rows(pictures).ids.tolist() == ["mon", "tue", "wed"]
    assert as_rows(pictures).values.shape == (3, 2, 3)
    both = as_rows(xr.Dataset({"v": pictures, "total": ("day", [1, 2, 3])}))
    assert both.tensors[1].tolist() == [1, 2, 3]
    assert both.ids.tolist() == ["mon", "tue", "wed"]
    table = xr.Dataset({"a": ("day", [1.0, 2.0]), "b": ("day", [3.0, 4.0])}, coords={"day": ["mon", "tue"]})
    assert (as_rows(table).ids.tolist(), as_rows(table).columns.tolist()) == (["mon", "tue"], ["a", "b"])


def test_truth_values_are_numbers_whatever_holds_them():
    for given in (pd.DataFrame(X > 0), pd.DataFrame(X > 0, dtype="boolean"), X > 0, sparse.csr_array(X > 0)):
        np.testing.assert_array_equal(as_rows(given).values, X > 0)
    pytest.importorskip("pyarrow")
    np.testing.assert_array_equal(as_rows(pd.DataFrame(X > 0).astype("bool[pyarrow]")).values, X > 0)


@pytest.mark.skipif(polars is None, reason="polars is not installed")
def test_frames_of_polars():
    frame = polars.DataFrame(X, schema=NAMES)
    np.testing.assert_array_equal(as_rows(frame).values, X)
    assert as_rows(frame).columns.tolist() == NAMES
    with pytest.raises(DataError, match=r"Call its `\.collect\(\)` first"):
        as_rows(frame.lazy())
    with pytest.raises(DataError, match=r"column 'd' does not.*cs\.numeric"):
        as_rows(frame.with_columns(d=polars.lit("x")))


def test_tensors_of_a_frame_belong_to_one_index():
    both = as_rows((FRAME, pd.Series(range(6), index=INDEX)))
    assert both.ids.tolist() == INDEX
    assert as_rows((FRAME, X)).ids.tolist() == INDEX
    with pytest.raises(ShapeError, match=r"different indexes.*second\.loc\[first\.index\]"):
        as_rows((FRAME, FRAME[::-1]))


def test_a_subset_of_a_data_set_knows_which_rows_it_has():
    whole = TensorDataset(torch.tensor(X), torch.arange(6))
    rows = as_rows(Subset(Subset(whole, [5, 4, 2]), [0, 2]))
    assert rows.ids.tolist() == rows.tensors[1].tolist() == [5, 2]
    np.testing.assert_array_equal(rows.values, X[[5, 2]])


def test_what_is_masked_is_never_data():
    masked = np.ma.array(np.where(X > 0, -9999.0, X), mask=X > 0)
    values, observed = pplvae.with_mask(masked)
    assert torch.equal(values, torch.tensor(np.where(X > 0, 0.0, X)))
    assert torch.equal(observed, torch.tensor(X <= 0).double())
    values, observed = pplvae.with_mask(np.ma.array([[1, 2]], mask=[[True, False]]))
    assert (values.tolist(), observed.tolist()) == ([[0, 2]], [[0, 1]])
    for rows in (masked, (X, masked)):
        with pytest.raises(DataError, match=r"a mask.*`pplvae\.with_mask\(v\)`"):
            as_rows(rows)
    values, observed = pplvae.with_mask(pd.DataFrame({"a": [1, None]}, dtype="Int64"))
    assert (values.tolist(), observed.tolist()) == ([[1], [0]], [[1], [0]])


PACKED = pack_padded_sequence(torch.zeros(2, 3, 1), torch.tensor([3, 2]), batch_first=True)
REFUSED = {
    "several arrays in a list": ([X, X], r"list of arrays.*numpy\.stack.*a tuple"),
    "lists of several lengths": ([[1, 2], [3]], "differ in length"),
    "packed": (PACKED, r"`rows` is a PackedSequence.*pad_packed_sequence"),
    "packed beside others": ((X, PACKED), r"`rows\[1\]` is a PackedSequence"),
    "mapping": ({"x": X}, r"is a mapping \('x'\)"),
    "number alone, of xarray": (xr.DataArray(1.0), "got a single number"),
    "rows of nothing": (FRAME[[]], "has no columns"),
    "arrays in a column": (FRAME.assign(d=list(X)), r"'d' does not.*`numpy\.stack\(frame\['d'\]\)`"),
    "variables of several rows": (xr.Dataset({"v": ("a", [1.0]), "w": ("b", [1.0])}), "must have one first dimension"),
    "path object": (Path("rows.csv"), r"pplvae\.load_data\('rows\.csv'\)"),
    "path": ("rows.csv", r"pplvae\.load_data\('rows\.csv'\)"),
    "generator": ((row for row in X), "got a generator"),
    "complex": (torch.ones(2, 2) * 1j, "real numbers"),
    "text column": (FRAME.assign(b="x"), "column 'b' does not"),
    "dates": (FRAME.assign(c=pd.Timestamp("2020-01-01")), "column 'c' does not"),
    "index that repeats itself": (pd.concat([FRAME, FRAME]), r"'patient 0' stands in it more.*reset_index"),
    "field of several numbers": (np.zeros(4, dtype=[("a", "f8", (2,))]), r"field 'a'.*array\['a'\]"),
    "too large": (sparse.coo_array(([1.0], ([0], [0])), shape=(10**7, 10**7)), "would not fit into memory"),
    "too large integers": (np.array([[2**63 + 5]], dtype=np.uint64), r"above 2\^63"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_its_cure(kind):
    rows, words = REFUSED[kind]
    with pytest.raises(DataError, match=words):
        as_rows(rows)


def test_messages_name_rows_by_number_or_by_name():
    assert few(np.arange(3)) == "0, 1, 2"
    assert few(np.array(["p 1", "p 2"]), most=1) == "'p 1', ... (2 in all)"
    assert few(pd.date_range("2020-01-01", periods=1, unit="ns").to_numpy()) == "'2020-01-01T00:00:00.000000000'"
