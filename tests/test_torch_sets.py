"""Data sets and loaders of torch: each row once, in the data set's own order, whatever a loader does to batches."""

import numpy as np
import pytest
import torch
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

import pplvae
from pplvae.data import as_rows, torch_sets
from pplvae.errors import DataError

X = torch.arange(21, dtype=torch.float64).reshape(7, 3)
TOTAL = X.sum(1, keepdim=True)


class Items(Dataset):
    """A data set that makes an item of each row."""

    def __init__(self, item=lambda i: X[i], length=7):
        self.item, self.length = item, length

    def __len__(self):
        return self.length

    def __getitem__(self, i):
        if not 0 <= i < self.length:
            raise IndexError(i)
        return self.item(i)


class Stream(IterableDataset):
    """A stream of items."""

    def __init__(self, items):
        self.items = items

    def __iter__(self):
        return iter(self.items)


def ragged(items):
    lengths = torch.tensor([len(item) for item in items])
    return torch.nn.utils.rnn.pad_sequence(items, batch_first=True), lengths


WHOLE = {
    "tensors": Items(),
    "arrays": Items(lambda i: X[i].numpy()),
    "lists": ConcatDataset([Subset(Items(), [0, 1, 2]), Subset(Items(), [3, 4, 5, 6])]),
    "dict of one": Items(lambda i: {"v": X[i]}),
    "stream": Stream(list(X)),
    "loader": DataLoader(Items(), batch_size=3),
    "shuffling loader that drops rows": DataLoader(Items(), batch_size=3, shuffle=True, drop_last=True),
    "loader of tensors": DataLoader(TensorDataset(X), batch_size=2, shuffle=True),
    "batch sampler": DataLoader(Items(), batch_sampler=BatchSampler(RandomSampler(Items()), 2, drop_last=True)),
    "loader of a stream": DataLoader(Stream(list(X)), batch_size=2, drop_last=True),
    "batches of a stream": DataLoader(Stream([X[:4], X[4:]]), batch_size=None),
    "batches of a data set": DataLoader(Items(lambda i: X[3 * i : 3 * i + 3], 3), batch_size=None, shuffle=True),
    "collated": DataLoader(Items(lambda i: f"{i}"), collate_fn=lambda items: X[[int(item) for item in items]]),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_every_row_once_in_order(kind):
    rows = as_rows(WHOLE[kind])
    assert len(rows.tensors) == 1
    assert torch.equal(rows.values, X)
    assert rows.ids.tolist() == list(range(7))
    assert rows.labels is None


PARTS = {
    "pairs": Items(lambda i: (X[i], TOTAL[i])),
    "dicts": Items(lambda i: {"v": X[i], "total": TOTAL[i]}),
    "loader of pairs": DataLoader(TensorDataset(X, TOTAL), batch_size=2, shuffle=True),
    "loader of dicts": DataLoader(Items(lambda i: {"v": X[i], "total": TOTAL[i]}), batch_size=2),
}


@pytest.mark.parametrize("kind", PARTS)
def test_several_tensors_are_passed_on_together(kind):
    rows = as_rows(PARTS[kind])
    assert len(rows.tensors) == 2
    assert torch.equal(rows.tensors[1], TOTAL)


@pytest.mark.parametrize("as_label", [int, str, np.int64], ids=["number", "text", "NumPy's number"])
def test_a_class_beside_a_picture_is_its_label(as_label):
    for item in (lambda i: (X[i], as_label(i % 2)), lambda i: {"image": X[i], "label": as_label(i % 2)}):
        rows = as_rows(Items(item))
        assert len(rows.tensors) == 1
        assert [str(label) for label in rows.labels] == ["0", "1", "0", "1", "0", "1", "0"]


def test_a_part_of_a_data_set_keeps_its_positions():
    labelled = Items(lambda i: (X[i], i))
    for given in (
        Subset(Subset(labelled, [6, 4, 2]), [0, 2]),
        DataLoader(Subset(labelled, [6, 2]), shuffle=True),
    ):
        rows = as_rows(given)
        assert rows.ids.tolist() == rows.labels.tolist() == [6, 2]
        assert torch.equal(rows.values, X[[6, 2]])
    for dataset in (labelled, TensorDataset(X)):
        some = as_rows(DataLoader(dataset, batch_size=2, sampler=SubsetRandomSampler([5, 1, 3])))
        assert some.ids.tolist() == [1, 3, 5]
        assert torch.equal(some.values, X[[1, 3, 5]])


def test_a_collate_function_pads_all_rows_to_one_length():
    rows = as_rows(DataLoader(Items(lambda i: torch.ones(i + 1)), batch_size=2, collate_fn=ragged))
    assert rows.values.shape == (7, 7)
    assert rows.values.sum(1).tolist() == rows.tensors[1].tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_a_random_data_set_is_read_once_and_draws_from_nobody():
    noisy = Items(lambda i: X[i] + torch.randn(3) + np.random.normal())
    torch.manual_seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    as_rows(noisy)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]


class WithoutLength(Dataset):
    """A data set of nobody knows how many rows."""

    def __getitem__(self, i):
        return X[i]


REFUSED = {
    "drawn by weights": (DataLoader(Items(), sampler=WeightedRandomSampler([1.0] * 7, 7)), "WeightedRandomSampler may"),
    "with replacement": (DataLoader(Items(), sampler=RandomSampler(Items(), replacement=True)), r"`loader\.dataset`"),
    "some at random": (DataLoader(Items(), sampler=RandomSampler(Items(), num_samples=3)), "or never"),
    "batches of one's own": (DataLoader(Items(), batch_sampler=[[0, 1], [1, 2]]), r"whose list may take a row several"),
    "no length": (WithoutLength(), "WithoutLength without a length"),
    "no rows": (Stream([]), "has no rows"),
    "several lengths": (Items(lambda i: torch.ones(i + 1)), "cannot be put together as rows"),
    "objects": (Items(lambda i: object()), r"ToTensor\(\).*The first is object"),
    "text among tensors": (Items(lambda i: {"v": X[i], "name": "x"}), r"Entry 'name' .*no tensor, got a list"),
    "labels alone": (Items(lambda i: {"label": 1, "y": 2}), r"2 labels and 0 tensors.*'label': int"),
    "NaN": (Items(lambda i: X[i] / 0), "rows 0, 1, .*counted from 0. hold NaN"),
}


@pytest.mark.parametrize("kind", REFUSED)
def test_refused_with_its_cure(kind):
    given, words = REFUSED[kind]
    with pytest.raises(DataError, match=words):
        as_rows(given)


def test_a_stream_without_an_end_is_given_up(monkeypatch):
    monkeypatch.setattr(torch_sets, "memory_of_machine", lambda: 2**20)
    with pytest.raises(DataError, match=r"a Stream that has given \d+ items without an end.*islice"):
        as_rows(Stream(iter(lambda: X[0], None)))


def test_a_loader_is_measured_as_its_tensor_is():
    model = pplvae.models.GaussianVAE(visible=3, latent=1)
    loader = DataLoader(Items(), batch_size=2, shuffle=True, collate_fn=default_collate)
    found = [pplvae.log_weights(model.model, model.guide, rows, particles=4, seed=0) for rows in (X, loader)]
    assert torch.equal(*found)
