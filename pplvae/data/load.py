"""`load_data`: a named data set or a file, split, with ids, labels and a declared binarisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplvae.data.annotated import is_annotated
from pplvae.data.digits import warn_of_lost_digits
from pplvae.data.missing import with_mask
from pplvae.data.registry import DATA_SETS, DataSet, read_named
from pplvae.data.rows import Data, Rows, few
from pplvae.data.scaling import Scaling
from pplvae.data.split import Part, split
from pplvae.data.table import Choice, Table
from pplvae.errors import DataError, UnknownNameError

_BINARISE = ("none", "threshold", "fixed", "stochastic")
_MISSING = ("refuse", "mask")
_AT_ONCE = 2048  # rows that are looked at together


def load_data(
    source: Any,
    *,
    seed: int = 0,
    valid: float = 0.1,
    test: float = 0.2,
    binarise: str | None = None,
    labels: str | None = None,
    ids: str | None = None,
    header: bool | None = None,
    scale: float = 1.0,
    image_shape: tuple[int, int] | None = None,
    missing: str | None = None,
    standardise: bool | None = None,
    layer: str | None = None,
    total: str | None = None,
    batch: str | None = None,
    classes: str | None = None,
) -> Data:
    """Load rows and split them.

    By name (hyphens or underscores): "digits" comes with scikit-learn; "mnist", "mnist_static_binarized" and
    "fashion_mnist" (the first 20000 of its 60000 training rows) are downloaded; of "omniglot", "frey_faces",
    "caltech101_silhouettes", "pbmc_facs", "cortex_zeisel", "newsgroups20_bow", "jsb_chorales", "air_quality_uci" and
    "penguins" an archive is made once from public files by `python -m pplvae.data.convert`, or a copy is put into the
    cache folder; the message says how and where. The cache folder is `$PPLVAE_DATA`, else the user's own; checksums
    are verified each time. `data.about` says whose a data set is.

    Grey pictures are scaled to [0, 1]. Rows of counts are `(v, total)`, total of shape (row, 1): the library size over
    all genes, or the words of a document. The chorales are `(v, lengths)`: v of shape (row, time, 88), padded with
    zeros, and int64 lengths. Names of genes, words and columns are in `rows.columns`.

    Args:
        source: a name, or a path to a .npy, .npz, .parquet, .h5ad, .zarr or text file (.csv, .tsv, .txt; also
            .csv.gz); or an AnnData object. An .npz may name its parts: x_train, x_valid (or x_val, x_dev), x_test
            (labels y_train, ...). Of a text, separator, decimal mark, header, encoding and marks of missing values are
            found; `data.read_as` says what is not plain.
        seed: of the split and of the binarisation.
        valid: share of the rows for early stopping, where the data set has no such part.
        test: share of the rows held out, where the data set has no such part.
        binarise: "none" leaves the values; "threshold" gives 1 where a value is at least 0.5; "fixed" draws each
            pixel once, with its value as probability; "stochastic" draws anew in every epoch of `fit` (and once for
            everything else). By default "threshold" for the digits and "none" otherwise. `repr(data)` says which.
        labels: name of the label column or array of a file, by default label, labels or y where there is one; or a kind
            of label of a named data set ("cell_type" of pbmc_facs, "island" of penguins, ...).
        ids: name of the column that says which row is which; by default the index that pandas writes, or a column of
            integers or text that is called id, row_id, index, customer_id, ...; "" for none. It is no feature.
        header: whether the first line of a text holds names; by default this is found out.
        scale: values are divided by it (255 for bytes), before binarisation.
        image_shape: (height, width) of a row that is a picture; known for the named ones and for arrays (row, height,
            width).
        missing: what to do where values are missing (NaN, empty fields): "refuse", or "mask", whose rows are
            `(values, observed)` for programs `model(v, observed)`, as `with_mask` gives them. By default "mask" for
            air_quality_uci and penguins, and "refuse" otherwise.
        standardise: give each column mean 0 and standard deviation 1 over the observed values of the training part;
            `rows.scaling.restore` leads back. By default only for air_quality_uci and penguins.
        layer: which matrix of AnnData: the name of a layer, or of an entry of `obsm`, or "raw"; by default X.
        total: name of the column of totals (library sizes); of AnnData, of `obs`. Rows are then `(v, total)`.
        batch: name of the column of batches, likewise. Rows are then `(v, batch)`, or `(v, total, batch)`, with the
            number of each row's batch in the order of the categories.
        classes: names of columns of a table that hold names of classes ("sex,region", with commas between them). Their
            values become the codes 0, 1, ..., in the order of the names; `data.read_as` says which is which.

    Returns:
        The data set: `.train`, `.valid`, `.test`. Values have torch's default dtype.

    Raises:
        DataError: the file cannot be used, found or downloaded, has missing values, or its values cannot be binarised.
        UnknownNameError: an unknown source, label or id column, binarisation or treatment of missing values.

    >>> load_data("digits", seed=0).test
    Rows('test': (359, 64), binarisation threshold, images 8×8, labelled)
    """
    name = str(source).replace("-", "_") if isinstance(source, str | Path) else ""
    known = DATA_SETS.get(name, DataSet())
    how = _How(
        known.binarise if binarise is None else binarise,
        known.missing if missing is None else missing,
        known.standardise if standardise is None else standardise,
        known.scale * scale,
        image_shape,
    )
    _check_options(how, seed, valid, test)
    choice = Choice(labels, ids, layer, total, batch, classes)
    table = _read_named(name, choice) if name in DATA_SETS else _read_source(source, choice, header)
    if classes is not None and not any(said.startswith("classes of ") for said in table.found):
        raise DataError(f"`classes` names columns of a table, a text or a .parquet file; {str(source)!r} is none.")
    for values in table.parts.values():
        if isinstance(values, np.ndarray) and not how.standardise:
            warn_of_lost_digits(values, repr(str(source)), table.columns)
    parts = split(table, np.random.default_rng([seed, 0]), valid, test)
    numbers = {part: _numbers(rows, table, how) for part, rows in parts.items()}
    scaling = Scaling.of(numbers["train"]) if how.standardise else None
    made = {
        part: _rows(part, rows, numbers.pop(part), scaling, table, how, np.random.default_rng([seed, 1 + i]))
        for i, (part, rows) in enumerate(parts.items())
    }
    called = name if name in DATA_SETS else str(source) if isinstance(source, str | Path) else type(source).__name__
    return Data(made["train"], made["valid"], made["test"], called, known.about, ", ".join(table.found))


@dataclass(frozen=True)
class _How:
    """What `load_data` does to the values, as the caller or the data set has it."""

    binarise: str
    missing: str
    standardise: bool
    scale: float
    image_shape: tuple[int, int] | None


def _read_named(name: str, choice: Choice) -> Table:
    asked = [given for given in ("layer", "total", "batch") if getattr(choice, given) is not None]
    if asked:
        raise DataError(f"`{asked[0]}` is for tables and AnnData; {name!r} is a data set that has its own form.")
    return read_named(name, choice.labels)


def _read_source(source: Any, choice: Choice, header: bool | None) -> Table:
    from pplvae.data.files import read_annotated, read_file  # imported late: pandas takes half a second

    if is_annotated(source):
        return read_annotated(source, choice)
    if isinstance(source, str | Path):
        return read_file(Path(source), choice, header)
    raise DataError(
        f"`load_data` reads a file, a data set by name, or an AnnData object, got a {type(source).__name__}. Rows in "
        "memory are passed on as they are: `fit(model, guide, rows)`."
    )


def _check_options(how: _How, seed: int, valid: float, test: float) -> None:
    if how.binarise not in _BINARISE:
        raise UnknownNameError("binarisation", how.binarise, _BINARISE)
    if how.missing not in _MISSING:
        raise UnknownNameError("treatment of missing values", how.missing, _MISSING)
    if how.standardise and how.binarise != "none":
        raise DataError(f"Standardised values are no probabilities, so `binarise={how.binarise!r}` cannot follow.")
    if seed < 0:
        raise DataError(f"`seed` must be 0 or more, got {seed}.")
    if not how.scale > 0:
        raise DataError(f"`scale` divides the values, so it must be more than 0, got {how.scale:g}.")
    if not (0 <= valid < 1 and 0 <= test < 1 and valid + test < 1):
        raise DataError(
            f"`valid` and `test` are shares of the rows that leave some to train on, got {valid} and {test}."
        )


def _numbers(part: Part, table: Table, how: _How) -> Tensor:
    """Values of shape (row, column), or (row, time, column), divided by the scale; NaN only where it may be."""
    if table.sequences and how.standardise:
        raise DataError("`standardise` is for rows of columns, not for sequences, whose padding has no units.")
    # Means are taken in double precision, whatever the rows become.
    double = how.standardise or torch.get_default_dtype() is torch.float64
    with np.errstate(over="ignore"):  # what overflows is refused as infinite
        values = part.values(np.dtype(np.float64 if double else np.float32))
        values /= how.scale
    numbers = torch.from_numpy(values if table.sequences else values.reshape(len(values), math.prod(part.shape[1:])))
    _check_missing(numbers, table, part.ids, how.missing)
    return numbers


def _check_missing(numbers: Tensor, table: Table, ids: np.ndarray, missing: str) -> None:
    how = "" if table.ids else " (counted from 0)"
    read_as = f" (the file was read with {', '.join(table.found)})" if table.found else ""
    infinite = _any_of_row(torch.isinf, numbers)
    if infinite.any():
        raise DataError(f"Rows {few(ids[infinite])}{how} hold infinite values: correct or drop them.")
    absent = _any_of_row(torch.isnan, numbers)
    if missing == "refuse" and absent.any():
        raise DataError(
            f"Rows {few(ids[absent])}{how} hold NaN or empty fields{read_as}. Where these are missing values, load "
            'with `missing="mask"`: rows are then `(values, observed)`, for programs `model(v, observed)`. '
            "`pplvae.with_mask` does the same for arrays. Else drop or impute them."
        )


def _any_of_row(is_so: Callable[[Tensor], Tensor], numbers: Tensor) -> np.ndarray:
    """Whether something is so of any number of a row; some rows at a time, for the flags take memory."""
    return torch.cat([is_so(some).flatten(1).any(1) for some in numbers.split(_AT_ONCE)]).numpy()


def _rows(
    name: str,
    part: Part,
    numbers: Tensor,
    scaling: Scaling | None,
    table: Table,
    how: _How,
    rng: np.random.Generator,
) -> Rows:
    dtype = torch.get_default_dtype()
    image_shape = how.image_shape
    if len(part.shape) == 3 and not table.sequences:
        image_shape = part.shape[1], part.shape[2]
    if image_shape is not None and image_shape[0] * image_shape[1] != numbers.shape[1]:
        raise DataError(f"`image_shape` {image_shape} does not fit rows of {numbers.shape[1]} values.")
    values = (numbers if scaling is None else scaling.standardise(numbers)).to(dtype)
    further: dict[str, Tensor] = {}
    if how.missing == "mask":
        values, further["observed"] = with_mask(values)
    for role, extra in part.extra.items():
        further[role] = torch.as_tensor(extra, dtype=dtype if extra.dtype.kind == "f" else None)
    return Rows(
        (_binarised(values, how.binarise, rng), *further.values()),
        part.ids,
        name,
        part.labels,
        image_shape,
        how.binarise,
        values if how.binarise == "stochastic" else None,
        table.columns,
        None if scaling is None else scaling.to(dtype),
        tuple(further),
    )


def _binarised(values: Tensor, how: str, rng: np.random.Generator) -> Tensor:
    if how == "none":
        return values
    if values.numel() and (values.min() < 0 or values.max() > 1):
        raise DataError(
            f"Binarisation takes values in [0, 1], but these run from {float(values.min()):g} to "
            f"{float(values.max()):g}: pass `scale={float(values.max()):g}` (255 for bytes)."
        )
    if how == "threshold":
        return (values >= 0.5).to(values.dtype)
    return (torch.from_numpy(rng.random(tuple(values.shape))) < values).to(values.dtype)
