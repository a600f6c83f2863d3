"""The page on models that people bring tells the truth: its code runs, its tables are those of the package."""

import importlib.util
import os
import re
from functools import cache
from pathlib import Path

import pytest
import torch

from pplvae.adapters.conventions import SCALES
from pplvae.adapters.declared import OUTPUTS
from pplvae.adapters.pythae import DENSITIES, REFUSED, UNDECLARED

TEXT = (Path(__file__).parent.parent / "docs" / "bringing_a_model.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.S)
BEGIN, PAIR, *OTHERS = BLOCKS
QUICK = {"range(50)": "range(2)", "guide, data.test)": "guide, data.test[:10])"}


def library(block):
    """The package that a block is about, if it is one that need not be there."""
    found = re.search(r"^(?:import|from) (pythae|scvi|diffusers|lightning|anndata)\b", block, re.M)
    return found.group(1) if found else None


@cache
def first_blocks():
    """What the names of the page stand for after its first two blocks."""
    names = {}
    for block in (BEGIN, PAIR):
        for long, short in QUICK.items():
            block = block.replace(long, short)
        exec(block, names)
    return names


@pytest.fixture
def begun(tmp_path_factory, monkeypatch, single_precision):
    monkeypatch.chdir(tmp_path_factory.getbasetemp())
    before = dict(os.environ)
    yield dict(first_blocks())
    for name in os.environ.keys() - before.keys():  # some of the libraries set variables
        del os.environ[name]


def test_a_torch_vae_goes_to_its_report(begun):
    assert "amortisation_gap" in str(begun["gap"])
    assert Path("gap.html").exists()
    assert all((BEGIN + PAIR).count(long) == 1 for long in QUICK)


def test_what_is_printed_is_what_stands_there(begun):
    assert repr(begun["pair"]) in TEXT


@pytest.mark.filterwarnings("ignore")  # of the libraries
@pytest.mark.parametrize("block", OTHERS, ids=lambda block: library(block) or block.splitlines()[-1][:30])
def test_code_runs(block, begun):
    package = library(block)
    if package and importlib.util.find_spec(package) is None:
        pytest.skip(f"{package} is no dependency; `pip install {package}` to try it")
    exec(block, begun)
    assert begun["gap"] is not None
    if "gap =" in block:
        assert torch.isfinite(torch.tensor(begun["gap"].rows["amortisation_gap"].values)).all()


def test_tables_name_all_that_there_is():
    for name in (*SCALES, *OUTPUTS, *(output for outputs in OUTPUTS.values() for output in outputs)):
        assert f'"{name}"' in TEXT or name == "loc", name
    models = re.search(r"\| models \|(.*?)\n\n", TEXT, re.S).group(1)
    assert set(re.findall(r"`(\w+)`", models)) == {*DENSITIES, *UNDECLARED, *REFUSED}
