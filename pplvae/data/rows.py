"""Rows in: what every public function accepts as `rows`, checked once at the door."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence
from torch.utils.data import DataLoader, Dataset

from pplvae.data.annotated import from_anndata, is_annotated
from pplvae.data.arrays import Labelled, labelled
from pplvae.data.given import Given, is_a, is_named
from pplvae.data.huggingface import from_huggingface, is_huggingface
from pplvae.data.row_groups import from_parquet, is_open_parquet
from pplvae.data.scaling import Scaling
from pplvae.data.torch_sets import from_torch
from pplvae.errors import DataError, ShapeError

# Keeps the pixels' random numbers apart from the latent noise, which `fit` seeds with (seed, epoch).
_BINARISATION = 1
_AT_ONCE = 2048  # rows that are looked at together


@dataclass(frozen=True)
class Rows:
    """Datapoints: one or more tensors with the same leading dimension, and what is known about each row.

    Attributes:
        tensors: passed on positionally to the model and the guide.
        ids: one per row, kept through every split and result.
        name: which rows these are: "train", "valid", "test", or "rows" where nobody said.
        labels: one per row, or None.
        image_shape: (height, width) where a row of the first tensor is a picture, else None.
        binarisation: "none", "threshold", "fixed" or "stochastic"; see `load_data`.
        intensities: grey values in [0, 1] behind a stochastic binarisation, else None.
        columns: names of the columns of the first tensor, or None.
        scaling: what standardised the first tensor, and maps it back to its units, else None.
        roles: what the tensors after the first one are, where that is known: "observed", "total", "lengths".
    """

    tensors: tuple[Tensor, ...]
    ids: np.ndarray
    name: str = "rows"
    labels: np.ndarray | None = None
    image_shape: tuple[int, int] | None = None
    binarisation: str = "none"
    intensities: Tensor | None = field(default=None, repr=False)
    columns: np.ndarray | None = None
    scaling: Scaling | None = None
    roles: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.tensors[0])

    def __repr__(self) -> str:
        names = ["", *self.roles] if self.roles else [""] * len(self.tensors)
        shapes = ", ".join(f"{n} {tuple(t.shape)}".strip() for n, t in zip(names, self.tensors, strict=True))
        image = f", images {self.image_shape[0]}×{self.image_shape[1]}" if self.image_shape else ""
        labels = ", labelled" if self.labels is not None else ""
        columns = f", {len(self.columns)} named columns" if self.columns is not None else ""
        scaled = ", standardised" if self.scaling is not None else ""
        return f"Rows({self.name!r}: {shapes}, binarisation {self.binarisation}{image}{scaled}{columns}{labels})"

    def __getitem__(self, index: Any) -> "Rows":
        """Some of the rows, by slice, positions or mask; what is known about them goes with them."""
        if isinstance(index, Tensor):
            index = index.cpu().numpy()
        positions = np.atleast_1d(np.arange(len(self))[index])
        where = torch.from_numpy(positions)
        return replace(
            self,
            tensors=tuple(t[where.to(t.device)] for t in self.tensors),
            ids=self.ids[positions],
            labels=None if self.labels is None else self.labels[positions],
            intensities=None if self.intensities is None else self.intensities[where.to(self.intensities.device)],
        )

    @property
    def values(self) -> Tensor:
        """The first tensor: v itself."""
        return self.tensors[0]

    def coordinates(self) -> dict[str, Any]:
        """Coordinates of a table over dimension "row": ids, name of the part, labels where there are any."""
        found = {"row": self.ids, "part": ("row", np.full(len(self), self.name))}
        return found if self.labels is None else found | {"label": ("row", self.labels)}

    def to(self, *args: Any, **kwargs: Any) -> "Rows":
        """The rows on another device, or with another floating dtype (integer tensors keep theirs)."""

        def move(t: Tensor) -> Tensor:
            return t.to(*args, **kwargs) if t.is_floating_point() else t.to(torch.empty(0).to(*args, **kwargs).device)

        grey = None if self.intensities is None else move(self.intensities)
        scaling = None if self.scaling is None else self.scaling.to(*args, **kwargs)
        return replace(self, tensors=tuple(move(t) for t in self.tensors), intensities=grey, scaling=scaling)

    def redrawn(self, seed: int, epoch: int) -> "Rows":
        """With stochastic binarisation, the rows as epoch number `epoch` sees them; else the rows themselves."""
        if self.intensities is None:
            return self
        words = np.random.SeedSequence([abs(seed), epoch, _BINARISATION]).generate_state(1)
        generator = torch.Generator().manual_seed(int(words[0]))
        draws = torch.rand(self.intensities.shape, generator=generator).to(self.intensities)
        return replace(self, tensors=((draws < self.intensities).to(self.intensities), *self.tensors[1:]))


@dataclass(frozen=True)
class Data:
    """A data set in its three parts, as `load_data` gives it.

    Attributes:
        train: rows to train on.
        valid: rows for early stopping.
        test: rows held out.
        name: of the data set, or its file.
        about: whose it is, if it is known by name.
        read_as: how its file was read, where that is not plain.
    """

    train: Rows
    valid: Rows
    test: Rows
    name: str
    about: str = ""
    read_as: str = ""

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(part)} {part.name}" for part in (self.train, self.valid, self.test))
        read_as = f"; {self.read_as}" if self.read_as else ""
        return f"Data({self.name!r}: {sizes}; {self.train!r}{read_as})"


def as_rows(rows: Any, *, argument: str = "rows", name: str | None = None) -> Rows:
    """What a user passes as rows, checked.

    Floating-point arrays become tensors of torch's default dtype, and sparse ones dense; tensors keep device and dtype
    (half precision becomes the default one). Of a frame, index and names of the columns become `ids` and `columns`.

    Args:
        rows: `Rows`; a tensor, an array, a pandas, polars or xarray table, a SciPy sparse matrix; a `Dataset` or
            `DataLoader` of torch; an AnnData object, a `Dataset` of Hugging Face; or a
            tuple of tensors and the like with the same number of rows.
        argument: the caller's name for it, used in messages.
        name: of the split, where `rows` does not carry one.

    Raises:
        DataError: no rows, not numeric, masked, NaN or infinite values (which rows).
        ShapeError: no row dimension, or different numbers of rows.
    """
    if isinstance(rows, Rows):
        if len(rows) == 0:
            raise DataError(f"`{argument}` has no rows (part {rows.name!r} of a data set).")
        for tensor in rows.tensors:
            _check_finite(tensor, argument)
        return rows if name is None else replace(rows, name=name)
    if isinstance(rows, Data):
        raise DataError(
            f"`{argument}` is a whole data set; choose a part of it: `data.train`, `data.valid`, `data.test`."
        )
    given = _given(rows, argument)
    parts = given.parts
    if not parts:
        raise DataError(f"`{argument}` is an empty tuple; pass at least one tensor of rows.")
    names = [f"{argument}[{i}]" if len(parts) > 1 else argument for i in range(len(parts))]
    found = [labelled(part, its_name) for part, its_name in zip(parts, names, strict=True)]
    for each, its_name in zip(found, names, strict=True):
        _check_finite(each.tensor, its_name)
    lengths = [len(each.tensor) for each in found]
    if len(set(lengths)) > 1:
        raise ShapeError(
            f"All tensors of `{argument}` must have the same number of rows, got {', '.join(map(str, lengths))}."
        )
    if found[0].tensor.numel() == 0:
        lacks = "rows" if lengths[0] == 0 else "columns"
        raise DataError(f"`{argument}` has no {lacks}: its shape is {tuple(found[0].tensor.shape)}.")
    ids = _common_ids(found, argument) if given.ids is None else given.ids
    columns = found[0].columns if given.columns is None else given.columns
    return Rows(tuple(each.tensor for each in found), ids, name or "rows", given.labels, columns=columns)


def _given(rows: Any, argument: str) -> Given:
    """The parts that an object consists of; what is neither a data set nor a tuple is one part by itself."""
    if is_huggingface(rows):
        return from_huggingface(rows, argument)
    if is_annotated(rows):
        return from_anndata(rows, argument)
    if is_open_parquet(rows):
        return from_parquet(rows, argument)
    if isinstance(rows, Dataset | DataLoader):
        return from_torch(rows, argument)
    if is_a(rows, "xarray", "Dataset"):
        return _of_variables(rows, argument)
    if is_named(rows):
        raise DataError(
            f"`{argument}` is a mapping ({few(map(str, rows))}), but one set of rows is expected. Pass one of its "
            "entries, or a tuple of those that are tensors of the same rows."
        )
    return Given(rows if isinstance(rows, tuple) and not isinstance(rows, PackedSequence) else (rows,))


def _of_variables(dataset: Any, argument: str) -> Given:
    """The variables of an xarray dataset: a table if each is a column, else a tensor each, of the same first axis."""
    variables = list(dataset.data_vars.values())
    first = {variable.dims[:1] for variable in variables}
    if len(first) != 1 or first == {()}:
        found = ", ".join(f"{name!r} {variable.dims}" for name, variable in dataset.data_vars.items())
        raise ShapeError(
            f"The variables of `{argument}` must have one first dimension, that of the rows; got {found or 'none'}. "
            "Choose some, `dataset[['v', 'w']]`, and turn them: `dataset.transpose('row', ...)`."
        )
    is_table = all(variable.ndim == 1 for variable in variables)
    return Given((dataset.to_pandas(),) if is_table else tuple(variables))


def _common_ids(found: Sequence[Labelled], argument: str) -> np.ndarray:
    """The index that the parts have, which must be one; counted from 0 where none has any."""
    indexed = [(i, part.ids) for i, part in enumerate(found) if part.ids is not None]
    if not indexed:
        return np.arange(len(found[0].tensor))
    (first, ids), *others = indexed
    for i, theirs in others:
        if not np.array_equal(ids, theirs):
            raise ShapeError(
                f"`{argument}[{first}]` and `{argument}[{i}]` have different indexes, so their rows may not belong "
                "together. Align them: `second.loc[first.index]`."
            )
    return ids


def as_parts(rows: Any) -> dict[str, Rows]:
    """Named sets of rows: a data set's train and test part, a mapping's items, or the rows alone."""
    if isinstance(rows, Data):
        return {"train": rows.train, "test": rows.test}
    if is_named(rows):
        if not rows:
            raise DataError("`rows` is an empty mapping; expected {name: rows}, such as {'train': ..., 'test': ...}.")
        return {str(name): as_rows(part, argument=f"rows[{name!r}]", name=str(name)) for name, part in rows.items()}
    single = as_rows(rows)
    return {single.name: single}


def few(items: Iterable[Any], most: int = 5) -> str:
    """The first few of many numbers or names, for a message."""
    found = [repr(str(item)) if isinstance(item, str | np.datetime64) else str(int(item)) for item in items]
    return ", ".join(found[:most]) + (f", ... ({len(found)} in all)" if len(found) > most else "")


def _check_finite(tensor: Tensor, argument: str) -> None:
    if len(tensor) == 0 or not tensor.is_floating_point():
        return
    # Some rows at a time: a flag for each number of all rows would take a quarter of their memory.
    finite = torch.cat([some.isfinite().reshape(len(some), -1).all(1) for some in tensor.split(_AT_ONCE)])
    bad = torch.nonzero(~finite).flatten()
    if len(bad):
        raise DataError(
            f"`{argument}` must be finite, but rows {few(bad)} (counted from 0) hold NaN or infinite values. Where NaN "
            "stands for a missing value, pass `pplvae.with_mask(v)`: the pair `(values, observed)`, for programs "
            '`model(v, observed)` (`load_data(..., missing="mask")` gives such rows). Else drop or impute them.'
        )
