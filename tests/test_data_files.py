"""Files as people have them: each layout gives the table that was written, or a refusal that names the true cause."""

import bz2
import gzip
import lzma

import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import pplvae
from pplvae.errors import DataError, PplvaeWarning, UnknownNameError

FRAME = pd.DataFrame(np.random.default_rng(0).normal(size=(20, 3)).round(3), columns=["a", "b", "c"])
LABELS = np.arange(20) % 3
TEXT = FRAME.to_csv(index=False)
EUROPE = {"sep": ";", "decimal": ","}


def load(path, content, **options):
    """All rows of a file of this content, in their order, and how it was read."""
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    data = pplvae.load_data(path, test=0.0, valid=0.0, **options)
    return data.train, data.read_as


def numbers(frame, separator):
    return "\n".join(separator.join(map(str, row)) for row in frame.to_numpy())


TEXTS = {
    "semicolons": ("x.csv", FRAME.to_csv(index=False, sep=";"), "semicolons"),
    "decimal commas": ("x.csv", FRAME.to_csv(index=False, **EUROPE), "semicolons, decimal commas"),
    "no header": ("x.csv", FRAME.to_csv(index=False, header=False, **EUROPE), "semicolons, decimal commas"),
    "spreadsheet's first line": ("x.csv", "sep=;\n" + FRAME.to_csv(index=False, **EUROPE), "decimal commas"),
    "quoted": (
        "x.csv",
        "a,b,c\n" + FRAME.to_csv(index=False, header=False, decimal=",", quoting=2).replace(".", ","),
        "",
    ),
    "tabs": ("x.tsv", FRAME.to_csv(index=False, sep="\t"), "tabs"),
    "bars": ("x.csv", FRAME.to_csv(index=False, sep="|"), "bars"),
    "blanks": ("x.txt", numbers(FRAME, "   "), "blanks"),
    "names in a comment": ("x.txt", "# a b c\n" + numbers(FRAME, " "), "blanks"),
    "comments": ("x.csv", "# made by hand\n\n" + TEXT, ""),
    "names of rows": ("x.txt", "a b c\n" + numbers(FRAME.reset_index(), " ").replace(".0 ", " "), "the index"),
    "commas at the end": ("x.csv", "a,b,c\n" + numbers(FRAME, ",").replace("\n", ",\n") + ",\n", ""),
    "gzip": ("x.csv.gz", gzip.compress(TEXT.encode()), "gzip"),
    "gzip in disguise": ("x.csv", gzip.compress(TEXT.encode()), "gzip"),
    "bzip2": ("x.csv.bz2", bz2.compress(TEXT.encode()), "bzip2"),
    "xz": ("x.txt.xz", lzma.compress(TEXT.encode()), "xz"),
    "latin-1": ("x.csv", TEXT.replace("c", "größe", 1).encode("latin-1"), "latin-1"),
    "utf-16": ("x.csv", TEXT.encode("utf-16"), ""),
    "old Macintosh": ("x.csv", TEXT.replace("\n", "\r"), ""),
    "index": ("x.csv", FRAME.to_csv(), "the index"),
    "index saved again": (
        "x.csv",
        FRAME.set_axis(["Unnamed: 0", "b", "c"], axis=1).assign(d=FRAME.a).to_csv(),
        "the index",
    ),
    "header of numbers": ("x.csv", FRAME.set_axis(range(3), axis=1).to_csv(index=False), ""),
    "header of numbers and index": ("x.csv", FRAME.set_axis(range(3), axis=1).to_csv(), "the index"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts(kind, tmp_path):
    file, content, said = TEXTS[kind]
    rows, read_as = load(tmp_path / file, content)
    want = FRAME[["b", "c", "a"]] if kind == "index saved again" else FRAME
    np.testing.assert_allclose(rows.values, want, atol=1e-12)
    assert said in read_as
    assert (rows.columns is None) == (kind in ("no header", "blanks"))


def test_thousands_and_decimals(tmp_path):
    assert load(tmp_path / "x.csv", "a;b\n1.500,25;2,5\n3,5;4,5\n")[0].values.tolist() == [[1500.25, 2.5], [3.5, 4.5]]
    assert load(tmp_path / "x.csv", 'a,b\n"1,500",2\n"3,250",4\n')[0].values.tolist() == [[1500, 2], [3250, 4]]
    for text in ('a,b\n"1,234,567.5",2.5\n"2,345.25","1,000"\n', "a\tb\n1,234,567.5\t2.5\n2,345.25\t1,000\n"):
        assert load(tmp_path / "x.csv", text)[0].values.tolist() == [[1234567.5, 2.5], [2345.25, 1000]]


@pytest.mark.parametrize("first", ["0,1,2,3", "1,2,3,4"])
def test_a_count_of_columns_is_a_header_and_can_be_said_not_to_be(first, tmp_path):
    whole = first + "\n5,3,1,0\n0,2,2,7\n"
    rows, _ = load(tmp_path / "x.csv", whole)
    assert rows.values.tolist() == [[5, 3, 1, 0], [0, 2, 2, 7]]
    assert rows.columns.tolist() == first.split(",")
    assert len(load(tmp_path / "x.csv", whole, header=False)[0]) == 3
    short = "0,1\n1,0\n1,1\n"
    with pytest.raises(DataError, match=r"first line of 'x\.csv', 0,1, may be a header.*`header=True`"):
        load(tmp_path / "x.csv", short)
    assert len(load(tmp_path / "x.csv", short, header=False)[0]) == 3
    assert load(tmp_path / "x.csv", short, header=True)[0].columns.tolist() == ["0", "1"]


def test_columns_without_names_are_called_by_their_numbers(tmp_path):
    text = FRAME.assign(label=LABELS)[["label", "a", "b", "c"]].to_csv(index=False, header=False)
    rows, _ = load(tmp_path / "x.csv", text, labels="0")
    assert rows.labels.tolist() == LABELS.tolist()
    np.testing.assert_array_equal(rows.values, FRAME)
    with pytest.raises(
        UnknownNameError, match=r"label column of 'x\.csv' \(it has no header.*'class'.*Known: 0, 1, 2, 3"
    ):
        load(tmp_path / "x.csv", text, labels="class")


@pytest.mark.parametrize("marker", ["?", "*", "n.d.", "-", ".", "missing"])
def test_marks_of_missing_values(marker, tmp_path):
    text = TEXT.replace(f"{FRAME.b[4]}", marker)
    rows, read_as = load(tmp_path / "x.csv", text, missing="mask")
    assert np.argwhere(rows.tensors[1].numpy() == 0).tolist() == [[4, 1]]
    assert repr(marker) in read_as
    with pytest.raises(DataError, match=r"Rows 4 .*for missing values.*missing=\"mask\""):
        load(tmp_path / "x.csv", text)
    labelled, _ = load(tmp_path / "x.csv", FRAME.assign(label=[marker, "b"] * 10).to_csv(index=False))
    assert labelled.labels.tolist() == [marker, "b"] * 10  # as a label it is one


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a,b\n1,2\n2,oops\n3,4\n4,5\n", r"'oops' in column 'b', row 1 .*among numbers.*leave the field empty"),
        ("a;b\n1.5;2,5\n3.5;4,5\n", r"in column '.', row 0 .*another decimal mark"),
        ("a,b\nx,1\ny,2\n", r"'x' in column 'a', row 0.*`labels='a'`.*`ids='a'`"),
        ("a\n1,5\n2,7\n", r"line 2 has 2 .*apart by commas.*decimal comma needs another separator"),
        (b"PK\x03\x04sheet", "a zip archive.*Unpack it"),
        (gzip.compress(TEXT.encode())[:60], "Restore it from a copy"),
    ],
    ids=["unknown mark", "two decimal marks", "text", "decimal comma alone", "zip", "half a gzip"],
)
def test_the_true_cause_is_named(text, words, tmp_path):
    with pytest.raises(DataError, match=words):
        load(tmp_path / "x.csv", text)


def save(frame, path):
    frame.to_parquet(path) if path.suffix == ".parquet" else frame.to_csv(path, index=not path.stem.endswith("plain"))


@pytest.mark.parametrize("name", ["id", "Id", "row_id", "index", "customer_id", "PassengerId", "uuid"])
@pytest.mark.parametrize("ending", ["csv", "parquet"])
def test_an_id_is_no_feature(name, ending, tmp_path):
    if ending == "parquet":
        pytest.importorskip("pyarrow")
    ids = [f"x{i}" for i in range(20)] if name == "uuid" else list(range(1000, 1020))
    path = tmp_path / f"plain.{ending}"
    save(FRAME.assign(**{name: ids}), path)
    data = pplvae.load_data(path, seed=0)
    assert data.test.columns.tolist() == ["a", "b", "c"]
    assert f"ids from column {name!r}" in repr(data)
    where = [ids.index(i) for i in data.test.ids]
    np.testing.assert_array_equal(data.test.values, FRAME.to_numpy()[where])


def test_what_is_an_id_can_be_said(tmp_path):
    path = tmp_path / "x.csv"
    named = FRAME.assign(who=[f"w{i}" for i in range(20)]).to_csv(index=False)
    assert load(path, named, ids="who")[0].ids[3] == "w3"
    with pytest.raises(UnknownNameError, match=r"id column of 'x\.csv' 'whom'. Did you mean 'who'"):
        load(path, named, ids="whom")
    with pytest.raises(DataError, match=r"'label' of 'x\.csv' repeats values"):
        load(path, FRAME.assign(label=LABELS).to_csv(index=False), ids="label", labels="a")
    counted = FRAME.assign(id=range(20)).to_csv(index=False)
    assert load(path, counted, ids="")[0].values.shape == (20, 4)
    measured = FRAME.assign(ID=FRAME.a * 2).to_csv(index=False)  # an inner diameter
    assert load(path, measured)[0].columns.tolist() == ["a", "b", "c", "ID"]
    with pytest.raises(DataError, match=r"'id' of 'x\.csv' repeats values.*`ids=\"\"`"):
        load(path, FRAME.assign(id=LABELS).to_csv(index=False))
    with pytest.warns(PplvaeWarning, match="'patient' of 'x.csv' counts the rows.*`ids='patient'`"):
        load(path, FRAME.rename_axis("patient").to_csv())


def test_the_index_of_a_frame_names_its_rows(tmp_path):
    names = [f"patient {i}" for i in range(20)]
    for ending in ("csv", "parquet"):
        if ending == "parquet":
            pytest.importorskip("pyarrow")
        path = tmp_path / f"x.{ending}"
        save(FRAME.set_axis(names).assign(label=LABELS), path)
        rows = pplvae.load_data(path, test=0.0, valid=0.0).train
        assert rows.ids.tolist() == names
        assert rows.columns.tolist() == ["a", "b", "c"]
    save(FRAME.set_axis(pd.MultiIndex.from_product([["u", "v"], range(10)])), tmp_path / "x.csv")
    assert pplvae.load_data(tmp_path / "x.csv", test=0.0, valid=0.0).train.ids[11] == "v / 1"
    text = FRAME.set_axis(names).to_csv().replace(f",{FRAME.b[3]},", ",,")
    with pytest.raises(DataError, match="Rows 'patient 3' hold NaN"):
        load(tmp_path / "x.csv", text)


@pytest.mark.parametrize("name", ["x_val", "x_validation", "x_dev", "X_Val"])
def test_parts_of_an_npz_under_their_usual_names(name, tmp_path):
    train, valid, test = (np.full((n, 3), float(n)) for n in (20, 7, 5))
    arrays = {
        "x_train": train,
        "x_test": test,
        name: valid,
        "y_train": np.arange(20),
        name.replace("x", "y", 1): range(7),
    }
    if name == "X_Val":
        arrays = {key.replace("x_", "X_"): value for key, value in arrays.items() if not key.startswith(("y", "X_Val"))}
        arrays |= {"X_Val": valid, "Y_Val": range(7)}
    np.savez(tmp_path / "x.npz", **arrays)
    data = pplvae.load_data(tmp_path / "x.npz")
    assert [len(data.train), len(data.valid), len(data.test)] == [20, 7, 5]
    assert data.valid.values.unique().tolist() == [7]
    assert data.valid.labels.tolist() == list(range(7))


def test_parts_of_an_npz_under_bare_names(tmp_path):
    np.savez(
        tmp_path / "x.npz", train=np.ones((20, 3)), val=np.zeros((7, 3)), test=np.full((5, 3), 2.0), y_test=range(5)
    )
    data = pplvae.load_data(tmp_path / "x.npz")
    assert [part.values.unique().tolist() for part in (data.train, data.valid, data.test)] == [[1], [0], [2]]
    assert data.test.labels.tolist() == list(range(5))


def test_what_an_npz_holds_besides(tmp_path):
    path, x = tmp_path / "x.npz", np.ones((20, 3))
    np.savez(path, x_train=x, x_val=x, x_valid=x)
    with pytest.raises(DataError, match="'x_val' and 'x_valid', which are both its valid part"):
        pplvae.load_data(path)
    np.savez(path, x_train=x, x_holdout=x)
    with pytest.raises(DataError, match=r"'x_holdout' beside 'x_train'.*`x_valid`"):
        pplvae.load_data(path)
    np.savez(path, x_train=x, names=np.arange(3))
    assert "without 'names'" in repr(pplvae.load_data(path))
    sparse.save_npz(path, sparse.csr_array(np.diag([1.0, 2.0, 3.0])))
    rows = pplvae.load_data(path, test=0.0, valid=0.0).train
    assert rows.values.tolist() == np.diag([1.0, 2.0, 3.0]).tolist()


def test_a_structured_array_has_names(tmp_path):
    kinds = [("id", "i4"), ("a", ">f8"), ("b", "<f4")]
    np.save(tmp_path / "x.npy", np.array([(i + 5, i / 2, i / 4) for i in range(6)], dtype=kinds))
    rows = pplvae.load_data(tmp_path / "x.npy", test=0.0, valid=0.0).train
    assert rows.columns.tolist() == ["a", "b"]
    assert rows.ids.tolist() == list(range(5, 11))
    assert rows.values[:, 0].tolist() == [i / 2 for i in range(6)]


def patched(content, *places, value):
    """Two bytes of a zip's first header and of its directory, replaced."""
    found = bytearray(content)
    for place in places:
        found[place : place + 2] = value.to_bytes(2, "little")
    return bytes(found)


def damaged(kind, path):
    np.savez_compressed(path, x=np.random.default_rng(0).normal(size=(40, 6)))
    archive = path.read_bytes()
    directory = archive.index(b"PK\x01\x02")
    np.save(path.with_suffix(".one.npy"), np.ones((40, 6)))
    array = path.with_suffix(".one.npy").read_bytes()
    return {
        "stream": archive[:60] + bytes(40) + archive[100:],
        "compression": patched(archive, 8, directory + 10, value=97),
        "encryption": patched(archive, 6, directory + 8, value=1),
        "header": array.replace(b"}", b" ", 1),
        "deep header": b"\x93NUMPY\x01\x00\x28\x23" + (b"{'shape': (" + b"-" * 8970 + b"1,)}\n").rjust(9000),
        "archive": archive,
        "size": array.replace(b"(40, 6), }          ", b"(1000000000000, 6), }", 1)[: len(array)],
    }[kind]


@pytest.mark.parametrize(
    ("kind", "ending"),
    [
        *[("stream", "npz"), ("compression", "npz"), ("encryption", "npz")],
        *[("header", "npy"), ("deep header", "npy"), ("archive", "npy"), ("size", "npy")],
    ],
)
def test_a_damaged_array_is_refused_by_name(kind, ending, tmp_path):
    path = tmp_path / f"bad.{ending}"
    path.write_bytes(damaged(kind, tmp_path / "whole.npz"))
    with pytest.raises(DataError, match=rf"bad\.{ending}"):
        pplvae.load_data(path)


def test_pickles_and_single_numbers(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}]), allow_pickle=True)
    with pytest.raises(DataError, match="Python objects, which are never loaded") as refused:
        pplvae.load_data(tmp_path / "x.npy")
    assert "allow_pickle=" not in str(refused.value)
    np.save(tmp_path / "x.npy", np.float64(1.0))
    with pytest.raises(DataError, match=r"x\.npy' must form an array .* a single number"):
        pplvae.load_data(tmp_path / "x.npy")


def test_names_of_a_file_cannot_move_the_cursor_in_python_either(tmp_path):
    with pytest.raises(UnknownNameError, match=r"Known: \\x1b\[2Ja, b") as refused:
        load(tmp_path / "x.csv", "\x1b[2Ja,b\n1,2\n3,4\n", labels="c")
    assert str(refused.value).isprintable()


def test_columns_of_names_become_codes(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("age,sex,region,code\n30, male,north,7\n41,female,south,3\n25,,north,3\n61,male,west,7\n")
    data = pplvae.load_data(path, classes="sex, region,code", missing="mask", valid=0, test=0)
    values, observed = data.train.tensors
    assert values.tolist() == [[30, 1, 0, 1], [41, 0, 1, 0], [25, 0, 0, 0], [61, 1, 2, 1]]
    assert (observed == 0).nonzero().tolist() == [[2, 1]]
    assert "classes of 'sex': 0 = female, 1 = male" in data.read_as
    assert "classes of 'region': 0 = north, 1 = south, 2 = west" in data.read_as
    assert "classes of 'code': 0 = 3, 1 = 7" in data.read_as
    with pytest.raises(DataError, match=r"`classes='sex'`"):
        pplvae.load_data(path)
    with pytest.raises(UnknownNameError, match=r"column of classes .*'sexes'.*Did you mean 'sex'"):
        pplvae.load_data(path, classes="sexes")
    with pytest.raises(DataError, match="`classes` names columns of a table"):
        pplvae.load_data("digits", classes="sex")


def test_too_many_names_are_no_classes(tmp_path):
    path = tmp_path / "people.csv"
    path.write_text("age,town\n" + "".join(f"{i % 50},town {i}\n" for i in range(101)))
    with pytest.raises(DataError, match="101 different values, too many"):
        pplvae.load_data(path, classes="town")
