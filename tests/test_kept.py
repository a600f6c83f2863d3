"""Rows that are written to a folder as they are measured: an interrupted call goes on, and only with what it began."""

import itertools
import os
import threading
from contextlib import contextmanager
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bad_guide, random_linear
from workflow import shorten_attribution

import pplvae
from pplvae.data import Rows
from pplvae.errors import PplvaeWarning, StoreError
from pplvae.scoring import chunks

BRIEF = {"max_steps": 3, "chunk_size": 4}
CALLS = {
    "amortisation_gap": BRIEF | {"particles": 20},
    "compare": BRIEF | {"particles": 20, "simulated": 4, "families": ["full_covariance"]},
    "log_evidence": BRIEF | {"particles": 20},
    "evidence_bracket": BRIEF | {"annealing": pplvae.Annealing(particles=4, temperatures=3, schedule="linear")},
    "posterior_means": BRIEF | {"particles": 30},
    "calibrate": {"particles": 9, "chunk_size": 4},
    "attribute": {"particles": 20, "max_steps": 3, "epochs": 1, "worth": 5.0, "hidden": (4,)},
}
PARTS = ("amortisation_gap", "compare", "log_evidence", "evidence_bracket", "posterior_means")
ROWS = 10


@pytest.fixture(autouse=True)
def short_attribution(monkeypatch):
    shorten_attribution(monkeypatch)


def pair(seed=9):
    model, v = random_linear(9, rows=ROWS)
    return model.model, bad_guide(model, seed)[0], v


def called(name, store=None, **options):
    model, guide, v = pair()
    if name == "attribute":
        trained, _ = random_linear(9, rows=1)
        return pplvae.attribute(trained.model, trained.guide, v[:6], v[6:], store=store, **CALLS[name] | options)
    rows = {"train": v[:6], "test": v[6:]} if name in PARTS else v
    return getattr(pplvae, name)(model, guide, rows, store=store, **CALLS[name] | options)


def gap(store, rows=None, of_guide=9, **options):
    model, guide, v = pair(of_guide)
    return pplvae.amortisation_gap(model, guide, v if rows is None else rows, store=store, **GAP | options)


GAP = CALLS["amortisation_gap"]


@pytest.fixture
def interrupt(monkeypatch):
    """Press Ctrl-C as a file, or a folder, is about to come to its place for so-many-th time."""

    @contextmanager
    def interrupt(at):
        places = itertools.count(1)

        def stop(real, *args):
            if threading.current_thread() is threading.main_thread() and next(places) == at:
                raise KeyboardInterrupt
            return real(*args)

        with monkeypatch.context() as patch:
            for name in ("replace", "rename"):
                patch.setattr(os, name, partial(stop, getattr(os, name)))
            yield

    return interrupt


@pytest.mark.parametrize("name", CALLS)
def test_an_interrupted_call_goes_on_to_the_same_bits(name, interrupt, tmp_path):
    whole = called(name)
    with interrupt(30 if name == "attribute" else 7), pytest.raises(KeyboardInterrupt):
        called(name, tmp_path)
    assert list(tmp_path.rglob("0000000000"))
    assert called(name, tmp_path) == whole


def test_what_is_there_is_not_measured_again(tmp_path, monkeypatch):
    whole = gap(tmp_path)
    monkeypatch.setattr(chunks, "_measured", pytest.fail)
    assert gap(tmp_path) == whole


def test_rows_that_are_found_do_not_choose_the_search_anew(tmp_path):
    """A guide whose lambda is no Gaussian's: why it is searched otherwise is said of rows that were there, too."""
    model, _, v = pair()
    whole = pplvae.amortisation_gap(model, skewed, v, store=tmp_path, **GAP)
    assert "not that of one Gaussian" in whole.rows.attrs["first_order_because"]
    assert pplvae.amortisation_gap(model, skewed, v, store=tmp_path, **GAP) == whole


def skewed(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Laplace(v[:, :LATENT].tanh(), 0.5).to_event(1))


LATENT = random_linear(9, rows=1)[0].latent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"seed": 1}, "seed was 0 and is 1"),
        ({"chunk_size": 5}, "chunk_size was 4 and is 5"),
        ({"rows": torch.zeros(3, 5)}, "the rows were others"),
    ],
)
def test_another_call_is_refused(options, words, tmp_path):
    gap(tmp_path)
    if "rows" in options:
        options = {"rows": pair()[2] + 1}
    with pytest.raises(StoreError, match=rf"asked for otherwise.*{words}.*remove that folder"):
        gap(tmp_path, **options)
    with pytest.raises(StoreError, match="kind was 'comparison' and is 'evidence'"):
        pplvae.log_evidence(*pair(), store=tmp_path, **CALLS["log_evidence"])


def test_other_parameters_are_refused(tmp_path):
    gap(tmp_path)
    with pytest.raises(StoreError, match="measured with other programs, or other parameters"):
        gap(tmp_path, of_guide=10)


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "mine.txt").touch()
    with pytest.raises(StoreError, match="holds other things than measured rows"):
        gap(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def flip(chunk):
    file = next(path for path in sorted(chunk.rglob("0*")) if path.is_file())
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def swap(chunk):
    other = chunk.with_name("0000000004")
    chunk.rename(chunk.with_name("aside"))
    other.rename(chunk)
    chunk.with_name("aside").rename(other)


def lose(chunk):
    (chunk / "elbo_local" / ".zarray").unlink()


@pytest.mark.parametrize("damage", [flip, swap, lose])
@pytest.mark.filterwarnings("always::pplvae.errors.PplvaeWarning")
def test_chunks_that_are_damaged_or_not_in_their_place_are_measured_again(damage, tmp_path):
    whole = gap(tmp_path)
    damage(tmp_path / "part-0" / "0000000000")
    with pytest.warns(PplvaeWarning, match=r"000000000[04]' is damaged: its rows are measured again"):
        assert gap(tmp_path) == whole
    assert gap(tmp_path) == whole


def test_ids_and_labels_are_those_of_the_rows_as_they_are(tmp_path):
    """Also such as no file could hold."""
    v = pair()[2]
    gap(tmp_path, Rows((v,), np.arange(ROWS), "held"))
    labels = np.array(["a\0b", *"cdefghijk"])
    found = gap(tmp_path, Rows((v,), np.arange(ROWS) + 5, "held", labels=labels))
    assert found.rows["label"].values.tolist() == labels.tolist()
    assert found.rows["row"].values.tolist() == list(range(5, 5 + ROWS))


def test_what_a_dead_process_was_writing_is_swept(tmp_path):
    gap(tmp_path)
    of_nobody, of_somebody = (tmp_path / "part-0" / f".0000000004.pplvae-{n}-abc" for n in (2**22 + 1, os.getppid()))
    for folder in (of_nobody, of_somebody):
        folder.mkdir()
        (folder / "0.0").touch()
    gap(tmp_path)
    assert (of_nobody.exists(), of_somebody.exists()) == (False, True)


def test_a_folder_that_goes_away_is_noticed(tmp_path, monkeypatch):
    """Nor does one appear in its place, to hold the rest."""
    store = tmp_path / "store"
    measured = chunks._measured

    def renamed(*args):
        if store.exists():
            store.rename(tmp_path / "elsewhere")
        return measured(*args)

    monkeypatch.setattr(chunks, "_measured", renamed)
    with pytest.raises(StoreError, match=r"store' was removed or renamed while it was written to"):
        gap(store)
    assert not store.exists()


def test_another_process_is_kept_out(tmp_path):
    """Another thread stands for it: it holds a lock of its own."""
    seen = []

    def inside(v):
        if not seen:
            seen.append(None)
            thread = threading.Thread(target=refused)
            thread.start()
            thread.join()
        model(v)

    def refused():
        try:
            with chunks.keeping(tmp_path, {"chunk_size": 4}, {"rows": pplvae.data.as_rows(v)}):
                seen[0] = "nothing"
        except StoreError as error:
            seen[0] = str(error)

    model, guide, v = pair()
    pplvae.amortisation_gap(inside, guide, v, store=tmp_path, **GAP)
    assert f"is being written to by process {os.getpid()} on " in seen[0]
