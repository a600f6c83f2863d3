"""Readers of the named data sets: from files whose checksums are known to arrays, copying no more than is kept."""

import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pplvae.data.table import Table
from pplvae.isolate import generators_kept

FASHION_ROWS = 20_000  # of the training part, whichever file it is read from
_PARTS = ("train", "valid", "test")
_OMNIGLOT = {"character": "y", "drawer": "drawer", None: "y"}


def digits(_files: Sequence[Path], _labels: str | None) -> Table:
    """The digits of scikit-learn, in [0, 1]."""
    with generators_kept():  # the first import of scikit-learn draws from `random`
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
    return Table({"all": bunch.images / 16.0}, {"all": bunch.target})


def idx(files: Sequence[Path], _labels: str | None) -> Table:
    """The four files of MNIST and of its likes: train images and labels, test images and labels."""
    train, train_labels, test, test_labels = (_idx(path) for path in files)
    return Table({"train": train, "test": test}, {"train": train_labels, "test": test_labels})


def fashion_originals(files: Sequence[Path], labels: str | None) -> Table:
    """The original files, cut to the rows that `fashion_first` has."""
    whole = idx(files, labels)
    for arrays in (whole.parts, whole.labels):
        arrays["train"] = arrays["train"][:FASHION_ROWS]
    return whole


def fashion_first(files: Sequence[Path], _labels: str | None) -> Table:
    """An archive of the first training rows, and the two original test files."""
    train = _arrays(files[0])
    test, test_labels = (_idx(path) for path in files[1:])
    return Table({"train": train["x_train"], "test": test}, {"train": train["y_train"], "test": test_labels})


def packed_bits(files: Sequence[Path], _labels: str | None) -> Table:
    """Pictures of 28×28 bits, eight to a byte."""
    arrays = _arrays(files[0])
    return Table({part: np.unpackbits(arrays[f"x_{part}"], axis=1).reshape(-1, 28, 28) for part in _PARTS})


def amat(files: Sequence[Path], _labels: str | None) -> Table:
    """Text files of train, valid and test part: a picture of 28×28 a line, as digits 0 and 1 with blanks between."""
    pictures = ((np.fromfile(path, np.uint8)[::2] - ord("0")).reshape(-1, 28, 28) for path in files)
    return Table(dict(zip(_PARTS, pictures, strict=True)))


def omniglot(files: Sequence[Path], labels: str | None) -> Table:
    """Characters, labelled by character or by drawer."""
    arrays, key = _arrays(files[0]), _OMNIGLOT[labels]
    parts = ("train", "test")
    return Table({part: arrays[f"x_{part}"] for part in parts}, {part: arrays[f"{key}_{part}"] for part in parts})


def frey_faces(files: Sequence[Path], _labels: str | None) -> Table:
    """Video frames, in their order."""
    return Table({"all": _arrays(files[0])["x"]})


def silhouettes(files: Sequence[Path], _labels: str | None) -> Table:
    """Outlines, labelled by the name of their class (the file numbers classes from 1)."""
    arrays = _arrays(files[0])
    labels = {part: arrays["class_names"][arrays[f"y_{part}"] - 1] for part in _PARTS}
    return Table({part: arrays[f"x_{part}"] for part in _PARTS}, labels)


def pbmc_facs(files: Sequence[Path], labels: str | None) -> Table:
    """Counts of the 2000 variable genes; the total is that of all genes."""
    arrays, key = _arrays(files[0]), labels or "subpop"
    genes = arrays["hvg"]
    counts = {
        part: _sparse(arrays, prefix, int(arrays["shape"][1])) for part, prefix in (("train", ""), ("test", "test_"))
    }
    return Table(
        {part: matrix[:, genes].toarray() for part, matrix in counts.items()},
        {"train": arrays[key], "test": arrays[f"test_{key}"]},
        {"total": {part: _row_sums(matrix) for part, matrix in counts.items()}},
        arrays["gene_symbol"][genes],
    )


def cortex_zeisel(files: Sequence[Path], _labels: str | None) -> Table:
    """Counts of 1000 genes; the total is the given library size, of all genes."""
    arrays = _arrays(files[0])
    total = arrays["library_size"][:, None].astype(np.float64)
    return Table({"all": arrays["x"]}, {"all": arrays["cell_type"]}, {"total": {"all": total}}, arrays["gene"])


def newsgroups(files: Sequence[Path], _labels: str | None) -> Table:
    """Counts of words; the total is the length of the document."""
    arrays = _arrays(files[0])
    counts = {part: _sparse(arrays, f"{part}_", len(arrays["vocab"])) for part in ("train", "test")}
    totals = {part: _row_sums(matrix) for part, matrix in counts.items()}
    return Table({part: matrix.toarray() for part, matrix in counts.items()}, {}, {"total": totals}, arrays["vocab"])


def chorales(files: Sequence[Path], _labels: str | None) -> Table:
    """Piano rolls (time, key), padded with zeros to the longest of all parts; key k is MIDI note 21 + k."""
    arrays = _arrays(files[0])
    lengths = {part: arrays[f"{part}_len"].astype(np.int64) for part in _PARTS}
    longest = max(int(steps.max()) for steps in lengths.values())
    padded = {part: _padded(arrays[f"{part}_x"], lengths[part], longest) for part in _PARTS}
    notes = np.array([f"MIDI {21 + key}" for key in range(88)])
    return Table(padded, {}, {"lengths": lengths}, notes, sequences=True)


def air_quality(files: Sequence[Path], _labels: str | None) -> Table:
    """Hours in their order, NaN where a sensor gave nothing."""
    arrays = _arrays(files[0])
    return Table({"all": arrays["x"]}, columns=arrays["columns"])


def penguins(files: Sequence[Path], labels: str | None) -> Table:
    """Four measurements, NaN where nobody measured."""
    arrays = _arrays(files[0])
    return Table({"all": arrays["x"]}, {"all": arrays[labels or "species"]}, columns=arrays["columns"])


def _arrays(path: Path) -> Mapping[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as archive:
        return {name: archive[name] for name in archive.files}


def _idx(path: Path) -> np.ndarray:
    """An array of bytes: two zeros, its type (8), the number of axes, their sizes, the content (LeCun's format)."""
    with gzip.open(path) as file:
        content = file.read()
    axes = content[3]
    shape = np.frombuffer(content, ">u4", count=axes, offset=4)
    return np.frombuffer(content, np.uint8, offset=4 + 4 * axes).reshape(shape)


def _sparse(arrays: Mapping[str, np.ndarray], prefix: str, columns: int) -> Any:
    from scipy import sparse  # imported late: SciPy takes a while

    data, indices, indptr = (arrays[prefix + name] for name in ("data", "indices", "indptr"))
    return sparse.csr_array((data, indices.astype(np.int32), indptr), shape=(len(indptr) - 1, columns))


def _row_sums(matrix: Any) -> np.ndarray:
    return np.asarray(matrix.sum(axis=1, dtype=np.float64)).reshape(-1, 1)


def _padded(steps: np.ndarray, lengths: np.ndarray, longest: int) -> np.ndarray:
    rolls = np.zeros((len(lengths), longest, steps.shape[1]), dtype=steps.dtype)
    rolls[np.arange(longest) < lengths[:, None]] = steps
    return rolls
