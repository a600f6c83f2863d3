"""Data sets and loaders of torch, which give rows one by one or in batches: read once, each row once, in order."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    default_collate,
)

from pplvae.data.given import Given
from pplvae.data.limits import memory_of_machine
from pplvae.errors import DataError
from pplvae.isolate import generators_kept

_LABELS = ("label", "labels", "y")
_OVERHEAD = 1024  # bytes that an item takes beside its numbers


def from_torch(rows: Any, argument: str) -> Given:
    """The rows of a `Dataset` or a `DataLoader`; what it does at random (augmentation) is done once.

    A loader's rows are those of its data set, in the data set's own order, whatever it shuffles or drops, so that a row
    keeps its id. Its `collate_fn` is applied, to all rows together.

    Args:
        rows: the data set or loader.
        argument: the caller's name for it.

    Raises:
        DataError: no end, no length, a sampler that takes rows several times, or items that are no numbers.
    """
    if isinstance(rows, TensorDataset):
        return Given(rows.tensors)
    if isinstance(rows, Subset) and isinstance(rows.dataset, TensorDataset | Subset):
        whole = from_torch(rows.dataset, argument)
        index = _ids_of(rows)
        place = np.asarray(rows.indices, dtype=np.int64)
        return _taken(whole, place, index)
    with generators_kept():
        return _of_loader(rows, argument) if isinstance(rows, DataLoader) else _of_dataset(rows, argument)


def _taken(whole: Given, place: np.ndarray, ids: np.ndarray) -> Given:
    """Some rows of what has been read."""
    where = torch.from_numpy(place)
    labels = None if whole.labels is None else whole.labels[place]
    return Given(tuple(part[where.to(part.device)] for part in whole.parts), ids, labels)


def _of_dataset(dataset: Dataset[Any], argument: str) -> Given:
    if isinstance(dataset, IterableDataset):
        return _of_items(_to_the_end(dataset, argument), argument)
    items = _items(dataset, range(_length(dataset, argument)))
    return _of_items(items, argument, ids=_ids_of(dataset))


def _of_loader(loader: DataLoader[Any], argument: str) -> Given:
    dataset: Any = loader.dataset
    if isinstance(dataset, IterableDataset):
        items, ids = _to_the_end(dataset, argument), None
    else:
        index = _rows_of_sampler(loader, argument)
        ids = _ids_of(dataset)[index]
        if loader.collate_fn is default_collate and isinstance(dataset, TensorDataset | Subset):
            return _taken(from_torch(dataset, argument), index, ids)
        items = _items(dataset, index)
    if loader.batch_sampler is None:  # items are batches already
        return _of_batches([loader.collate_fn(item) for item in items], argument)
    return _of_items(items, argument, loader.collate_fn, ids)


def _rows_of_sampler(loader: DataLoader[Any], argument: str) -> np.ndarray:
    """Places of the rows that a loader goes through, in the order of its data set."""
    batches: Any = loader.batch_sampler
    sampler: Any = loader.sampler if batches is None else batches.sampler if type(batches) is BatchSampler else batches
    length = _length(loader.dataset, argument)
    if type(sampler) is SubsetRandomSampler:
        return np.sort(np.asarray(sampler.indices, dtype=np.int64))
    once = type(sampler) is SequentialSampler or (type(sampler) is RandomSampler and not sampler.replacement)
    if once and len(sampler) == length:
        return np.arange(length)
    raise DataError(
        f"`{argument}` is a DataLoader whose {type(sampler).__name__} may take a row several times or never, but each "
        "row is measured once. Pass its data set, `loader.dataset`, or a `Subset` of it."
    )


def _ids_of(dataset: Any) -> np.ndarray:
    """Positions in the data set that everything is a part of."""
    if isinstance(dataset, Subset):
        return _ids_of(dataset.dataset)[np.asarray(dataset.indices, dtype=np.int64)]
    return np.arange(len(dataset))


def _length(dataset: Any, argument: str) -> int:
    try:
        return len(dataset)
    except (TypeError, NotImplementedError) as error:
        raise DataError(
            f"`{argument}` is a {type(dataset).__name__} without a length, so nobody knows where its rows end. Give it "
            f"`__len__`, or pass a tensor: `torch.stack(list_of_rows)`."
        ) from error


def _items(dataset: Any, index: np.ndarray | range) -> list[Any]:
    return [dataset[int(i)] for i in index]


def _to_the_end(stream: Iterable[Any], argument: str) -> list[Any]:
    """All items of a stream, as long as they fit into half of the machine's memory."""
    found, size, most = [], 0, memory_of_machine() // 2
    for item in stream:
        found.append(item)
        size += _OVERHEAD + _bytes_of(item)
        if size > most:
            raise DataError(
                f"`{argument}` is a {type(stream).__name__} that has given {len(found)} items without an end, and half "
                f"of the machine's memory ({most / 2**30:.0f} GiB) is full. Pass some of them: "
                "`list(itertools.islice(stream, count))`, stacked."
            )
    return found


def _bytes_of(item: Any) -> int:
    if isinstance(item, Mapping):
        return sum(map(_bytes_of, item.values()))
    if isinstance(item, tuple | list):
        return sum(map(_bytes_of, item))
    return int(getattr(item, "nbytes", 0))


def _of_items(items: list[Any], argument: str, collate: Any = default_collate, ids: np.ndarray | None = None) -> Given:
    """Rows of items, one item a row."""
    if not items:
        raise DataError(f"`{argument}` has no rows.")
    try:
        batch = collate(items)
    except Exception as error:  # what a stranger's function raises, or torch's own, of any kind of item
        raise DataError(
            f"The items of `{argument}` cannot be put together as rows: {error}. Each must be a tensor, a tuple or a "
            f"dict of tensors of one shape (of pictures: `transform=torchvision.transforms.ToTensor()`). The first is "
            f"{_described(items[0])}."
        ) from error
    return _of_batch(batch, items[0], argument, ids)


def _of_batches(batches: list[Any], argument: str) -> Given:
    if not batches:
        raise DataError(f"`{argument}` has no rows.")
    found = [_of_batch(batch, batch, argument, None) for batch in batches]
    try:
        parts = tuple(torch.cat(some) for some in zip(*(each.parts for each in found), strict=True))
    except (ValueError, RuntimeError) as error:
        raise DataError(f"The batches of `{argument}` cannot be joined: {error}.") from error
    labels = None if any(each.labels is None for each in found) else np.concatenate([each.labels for each in found])  # pyright: ignore[reportCallIssue, reportArgumentType]
    return Given(parts, None, labels)


def _of_batch(batch: Any, item: Any, argument: str, ids: np.ndarray | None) -> Given:
    """Tensors and labels of rows that have been put together.

    Args:
        batch: a tensor, or several by place or by name.
        item: the first of those that were put together, which tells labels from numbers.
        argument: the caller's name for the data set.
        ids: of the rows.
    """
    if isinstance(batch, Mapping):
        entries = dict(batch)
        is_label = {name: name in _LABELS and len(entries) > 1 for name in entries}
    elif isinstance(batch, tuple | list) and not all(isinstance(entry, str) for entry in batch):
        entries = dict(enumerate(batch))
        alike = isinstance(item, Sequence) and len(item) == len(batch)
        is_label = {i: i > 0 and alike and isinstance(item[i], int | str | np.integer) for i in entries}
    else:
        entries, is_label = {0: batch}, {0: False}
    labels = [np.asarray(entries[name]) for name in entries if is_label[name]]
    parts = tuple(_tensor(entry, name, argument) for name, entry in entries.items() if not is_label[name])
    if len(labels) > 1 or not parts:
        raise DataError(
            f"The items of `{argument}` have {len(labels)} labels and {len(parts)} tensors; expected one label at most "
            f"and a tensor at least. The first is {_described(item)}."
        )
    return Given(parts, ids, labels[0] if labels else None)


def _tensor(entry: Any, name: Any, argument: str) -> Tensor:
    if isinstance(entry, Tensor):
        return entry
    if isinstance(entry, np.ndarray) and entry.dtype.kind in "biuf":
        return torch.from_numpy(entry)
    raise DataError(
        f"Entry {name!r} of the items of `{argument}` is no tensor, got a {type(entry).__name__}. Leave it out, or "
        "make it numbers: a `collate_fn` of the loader, or `__getitem__` of the data set."
    )


def _described(item: Any) -> str:
    if isinstance(item, Mapping):
        return "a dict of " + ", ".join(f"{name!r}: {_described(entry)}" for name, entry in item.items())
    if isinstance(item, tuple | list):
        return f"a {type(item).__name__} of ({', '.join(map(_described, item))})"
    shape = getattr(item, "shape", None)
    return f"{type(item).__name__}" + (f" of shape {tuple(shape)}" if shape is not None else "")
