"""The store against a model in memory: whatever happens to its files, one is read as it was written or refused."""

import os
import shutil
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pplvae.errors import StoreError
from pplvae.store import open_datasets, read_json, read_tensors, write_datasets, write_json, write_tensors

NAMES, KINDS = st.sampled_from(["a", "b", "c"]), st.sampled_from(["tensors", "datasets", "json"])
NUMBERS = st.lists(st.floats(allow_nan=False, width=32), max_size=4)
LOST = "lost"  # what a file holds that was damaged or is of another kind


def written(kind, path, numbers):
    if kind == "tensors":
        return write_tensors(path, {"x": torch.tensor(numbers, dtype=torch.float64)}, {"note": str(numbers)})
    if kind == "datasets":
        return write_datasets(path, "history", {"history": xr.Dataset({"x": ("row", np.array(numbers, float))})})
    return write_json(path, {"x": numbers})


def read(kind, path):
    if kind == "tensors":
        tensors, content = read_tensors(path)
        assert content == {"note": str(tensors["x"].tolist())}
        return tensors["x"].tolist()
    if kind == "datasets":
        return open_datasets(path, "history")["history"]["x"].values.tolist()
    return read_json(path)["x"]


class Store(RuleBasedStateMachine):
    """Files by name: (kind, numbers), or `LOST`."""

    @initialize()
    def begin(self):
        self.folder, self.known = Path(tempfile.mkdtemp()), {}

    def teardown(self):
        shutil.rmtree(self.folder)

    @rule(name=NAMES, kind=KINDS, numbers=NUMBERS)
    def write(self, name, kind, numbers):
        written(kind, self.folder / name, numbers)
        self.known[name] = kind, numbers

    @rule(name=NAMES, kind=KINDS, numbers=NUMBERS)
    def write_and_fail(self, name, kind, numbers):
        """At the last moment: the file stays what it was."""
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(os, "replace", lambda *_: (_ for _ in ()).throw(OSError("no space left")))
            with pytest.raises(StoreError, match="cannot be written"):
                written(kind, self.folder / name, numbers)

    @rule(name=NAMES)
    def delete(self, name):
        (self.folder / name).unlink(missing_ok=True)
        self.known.pop(name, None)

    @rule(name=NAMES, other=NAMES)
    def rename(self, name, other):
        if name in self.known:
            (self.folder / name).rename(self.folder / other)
            self.known[other] = self.known.pop(name)

    @rule(name=NAMES, other=NAMES)
    def copy(self, name, other):
        if name in self.known and name != other:
            shutil.copy(self.folder / name, self.folder / other)
            self.known[other] = self.known[name]

    @rule(name=NAMES, at=st.integers(0, 5000), bit=st.integers(0, 7), cut=st.booleans())
    def damage(self, name, at, bit, cut):
        if self.known.get(name, LOST) == LOST or self.known[name][0] == "json":  # whose text anybody may edit
            return
        kind, _ = self.known[name]
        content = bytearray((self.folder / name).read_bytes())
        place = at % len(content)
        content[place] ^= 1 << bit
        (self.folder / name).write_bytes(content[:place] if cut else content)
        self.known[name] = LOST
        with pytest.raises(StoreError, match=r"damaged|format"):
            read(kind, self.folder / name)

    @rule(name=NAMES, kind=KINDS)
    def read_as(self, name, kind):
        is_there = name in self.known
        if is_there and self.known[name] != LOST and self.known[name][0] == kind:
            assert read(kind, self.folder / name) == self.known[name][1]
            return
        with pytest.raises(StoreError, match=r"damaged|format" if is_there else "There is no file"):
            read(kind, self.folder / name)

    @invariant()
    def nothing_else_lies_there(self):
        assert {path.name for path in self.folder.iterdir()} == set(self.known)


TestStore = Store.TestCase
TestStore.settings = settings(
    max_examples=40,
    stateful_step_count=25,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[*HealthCheck],
)


def test_a_file_is_on_the_disk_before_it_takes_its_place(tmp_path, monkeypatch):
    """So that a power cut leaves the old file or the new one."""
    done, fsync, replace = [], os.fsync, os.replace

    def noted_fsync(descriptor):
        done.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    def noted_replace(source, target):
        done.append(("replaced by", os.stat(source).st_ino))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "replace", noted_replace)
    inode = write_json(tmp_path / "a", {"x": 1}).stat().st_ino
    assert done == [inode, ("replaced by", inode)]
