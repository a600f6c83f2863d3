"""`load_data`: a named data set or a file, split, with ids, labels and a declared binarisation."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import torch

from pplvae.data.files import Table, read_file
from pplvae.data.rows import Data, Rows, few
from pplvae.errors import DataError, UnknownNameError
from pplvae.isolate import generators_kept

_BINARISE = ("none", "threshold", "fixed", "stochastic")


def load_data(
    source: str | Path,
    *,
    seed: int = 0,
    valid: float = 0.1,
    test: float = 0.2,
    binarise: str | None = None,
    labels: str | None = None,
    scale: float = 1.0,
    image_shape: tuple[int, int] | None = None,
) -> Data:
    """Load rows and split them.

    Args:
        source: "digits" (1797 grey pictures of 8×8, bundled with scikit-learn), or a path to a .npy, .npz, .csv or
            .parquet file. An .npz may name its parts: x_train, x_valid, x_test (labels y_train, ...).
        seed: of the split and of the binarisation.
        valid: share of the rows for early stopping.
        test: share of the rows held out.
        binarise: "none" leaves the values; "threshold" gives 1 where a value is at least 0.5; "fixed" draws each
            pixel once, with its value as probability; "stochastic" draws anew in every epoch of `fit` (and once for
            everything else). By default "threshold" for the digits and "none" for files. `repr(data)` says which.
        labels: name of the label column or array; by default label, labels or y where there is one.
        scale: values are divided by it (255 for bytes), before binarisation.
        image_shape: (height, width) of a row that is a picture; known for the digits and for arrays (row, height,
            width).

    Returns:
        The data set: `.train`, `.valid`, `.test`. Values have torch's default dtype.

    Raises:
        DataError: the file cannot be used, or its values cannot be binarised.
        UnknownNameError: an unknown source, label column or binarisation.

    >>> load_data("digits", seed=0).test
    Rows('test': (359, 64), binarisation threshold, images 8×8, labelled)
    """
    if binarise is not None and binarise not in _BINARISE:
        raise UnknownNameError("binarisation", binarise, _BINARISE)
    if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise DataError(
            f"`valid` and `test` are shares of the rows that leave some to train on, got {valid} and {test}."
        )
    if str(source) == "digits":
        table, image_shape = _digits(), (8, 8)
        binarise = binarise or "threshold"
    else:
        table = read_file(Path(source), labels)
    parts = _split(table, np.random.default_rng([seed, 0]), valid, test)
    made = {
        name: _rows(name, *part, image_shape, scale, binarise or "none", np.random.default_rng([seed, 1 + i]))
        for i, (name, part) in enumerate(parts.items())
    }
    return Data(made["train"], made["valid"], made["test"], name=str(source))


def _digits() -> Table:
    with generators_kept():  # the first import of scikit-learn draws from `random`
        from sklearn.datasets import load_digits

        bunch: Any = load_digits()
    return Table({"all": bunch.data / 16.0}, {"all": bunch.target})


_Part = tuple[np.ndarray, np.ndarray, np.ndarray | None]


def _split(table: Table, rng: np.random.Generator, valid: float, test: float) -> dict[str, _Part]:
    """Values, ids and labels of each part: a file's own parts, and what it lacks taken from its train part."""
    given: dict[str, _Part] = {}
    start = 0
    for name, values in table.parts.items():
        given[name] = (values, start + np.arange(len(values)), table.labels.get(name))
        start += len(values)
    values, ids, labels = given.get("all", given.get("train", (np.empty(0), np.empty(0), None)))
    if labels is not None and len(labels) != len(values):
        raise DataError(f"There are {len(values)} rows but {len(labels)} labels; each row needs one.")
    order = rng.permutation(len(values))
    shares = {"valid": valid, "test": test}
    parts = {name: given[name] for name in shares if name in given}
    for name, share in shares.items():
        if name not in parts:
            count = round(share * len(values))
            taken, order = np.sort(order[:count]), order[count:]
            parts[name] = (values[taken], ids[taken], None if labels is None else labels[taken])
    rest = np.sort(order)
    if len(rest) == 0:
        raise DataError(f"{len(values)} rows are too few to split: no row is left to train on.")
    return {"train": (values[rest], ids[rest], None if labels is None else labels[rest]), **parts}


def _rows(
    name: str,
    values: np.ndarray,
    ids: np.ndarray,
    labels: np.ndarray | None,
    image_shape: tuple[int, int] | None,
    scale: float,
    binarise: str,
    rng: np.random.Generator,
) -> Rows:
    if values.dtype.kind not in "biuf":
        raise DataError(f"The rows must be numbers, got an array of dtype {values.dtype}.")
    if values.ndim == 3:
        image_shape = (values.shape[1], values.shape[2])
    if values.ndim == 0:
        raise DataError("The rows must form an array (row, column), got a single number.")
    flat = values.reshape(len(values), math.prod(values.shape[1:])).astype(np.float64) / scale
    bad = np.flatnonzero(~np.isfinite(flat).all(1))
    if len(bad):
        raise DataError(
            f"Rows {few(ids[bad])} of the file (counted from 0) hold NaN or infinite values: drop or impute."
        )
    if image_shape is not None and image_shape[0] * image_shape[1] != flat.shape[1]:
        raise DataError(f"`image_shape` {image_shape} does not fit rows of {flat.shape[1]} values.")
    if binarise != "none" and len(flat) and (flat.min() < 0 or flat.max() > 1):
        raise DataError(
            f"Binarisation takes values in [0, 1], but these run from {flat.min():g} to {flat.max():g}: pass "
            f"`scale={flat.max():g}` (255 for bytes)."
        )
    binary = {"threshold": lambda: flat >= 0.5}.get(binarise, lambda: rng.random(flat.shape) < flat)
    dtype = torch.get_default_dtype()
    return Rows(
        (torch.as_tensor(flat if binarise == "none" else binary(), dtype=dtype),),
        ids,
        name,
        labels,
        image_shape,
        binarise,
        torch.as_tensor(flat, dtype=dtype) if binarise == "stochastic" else None,
    )
