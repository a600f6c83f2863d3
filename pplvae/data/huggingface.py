"""Data sets of Hugging Face: columns of numbers are a table, columns of arrays tensors, classes labels."""

from typing import Any

import numpy as np

from pplvae.data.given import Given, is_a
from pplvae.errors import DataError, ShapeError

_INDEX = "__index_level_0__"  # what `Dataset.from_pandas` calls an index
_ARRAYS = ("List", "LargeList", "Sequence", "Array2D", "Array3D", "Array4D", "Array5D")
_NUMBERS = ("int", "uint", "float", "bool", "double")
_PICTURES = "numbers, `dataset.map(lambda row: {'v': numpy.asarray(row['image']) / 255})`"


def is_huggingface(given: Any) -> bool:
    """Whether something is a data set of Hugging Face, in memory or a stream."""
    stream = is_a(given, "datasets.iterable_dataset", "IterableDataset")
    return stream or is_a(given, "datasets.arrow_dataset", "Dataset")


def from_huggingface(given: Any, argument: str) -> Given:
    """The rows of a data set.

    Columns of numbers alone are a table that keeps their names. Where there are columns of arrays, each column is a
    tensor of its own, in the order of the columns. A `ClassLabel` gives the labels, by name; the index that
    `from_pandas` keeps gives the ids.

    Raises:
        DataError: a stream, or a column of pictures, text or the like.
        ShapeError: arrays of several shapes in one column.
    """
    if not hasattr(given, "with_format") or is_a(given, "datasets.iterable_dataset", "IterableDataset"):
        raise DataError(
            f"`{argument}` is a stream of Hugging Face, whose rows nobody has counted. Take some: "
            "`datasets.Dataset.from_list(list(stream.take(count)))`."
        )
    kinds = {name: _kind_of(feature) for name, feature in given.features.items() if name != _INDEX}
    odd = {name: given.features[name] for name, kind in kinds.items() if kind == "other"}
    if odd:
        name, feature = next(iter(odd.items()))
        raise DataError(
            f"Column {name!r} of `{argument}` holds no numbers, but {type(feature).__name__} "
            f"{getattr(feature, 'dtype', '')}".rstrip()
            + f". Leave it out, `dataset.remove_columns({list(odd)})`; of pictures make {_PICTURES}."
        )
    labels = [name for name, kind in kinds.items() if kind == "labels"]
    features = [name for name, kind in kinds.items() if kind != "labels"]
    if len(labels) > 1 or not features:
        raise DataError(
            f"`{argument}` has {len(labels)} columns of classes and {len(features)} of numbers; expected one of "
            "classes at most, and one of numbers at least. Take one out: `dataset.remove_columns(...)`."
        )
    ids = _ids_of(given, argument) if _INDEX in given.features else None
    classes = _names_of(given, labels[0]) if labels else None
    if all(kinds[name] == "number" for name in features):
        return Given((given.select_columns(features).with_format(None).to_pandas(),), ids, classes)
    return Given(tuple(_array(given, name, argument) for name in features), ids, classes)


def _kind_of(feature: Any) -> str:
    name = type(feature).__name__
    if name == "ClassLabel":
        return "labels"
    if name in _ARRAYS:
        inner = getattr(feature, "feature", feature)
        return "array" if name.startswith("Array") or _kind_of(inner) in ("number", "array") else "other"
    return "number" if name == "Value" and str(feature.dtype).startswith(_NUMBERS) else "other"


def _array(given: Any, name: str, argument: str) -> np.ndarray:
    numbers = given.select_columns([name]).with_format("numpy")[:][name]
    if numbers.dtype == object:
        raise ShapeError(
            f"The arrays in column {name!r} of `{argument}` differ in shape, or are missing. Pad them to one shape, "
            "and keep their lengths in a column of their own."
        )
    return numbers


def _names_of(given: Any, name: str) -> np.ndarray:
    feature = given.features[name]
    numbers = given.select_columns([name]).with_format(None)[:][name]
    return np.array(["" if number in (None, -1) else feature.int2str(int(number)) for number in numbers])


def _ids_of(given: Any, argument: str) -> np.ndarray:
    ids = np.array(given.select_columns([_INDEX]).with_format(None)[:][_INDEX])
    if len(set(ids.tolist())) < len(ids):
        raise DataError(
            f"The index of `{argument}` names rows of results, but repeats itself: "
            f"`dataset.remove_columns({_INDEX!r})`."
        )
    return ids
