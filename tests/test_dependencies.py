"""What the package imports is what it says that it needs, and the other way round."""

import ast
import configparser
import re
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

import pplvae

PACKAGE = Path(pplvae.__file__).parent
SETUP = PACKAGE.parent / "setup.cfg"
# xarray writes .nc files by h5netcdf, which writes by h5py, and folders of chunks by zarr.
USED_THROUGH_ANOTHER = {"h5netcdf", "h5py", "zarr", "pyarrow"}  # pandas reads .parquet by pyarrow


def normal(name):
    return re.sub("[-_.]+", "-", name).lower()


def declared(text):
    """Names without versions and without the extras that are named inside others."""
    lines = [line.strip() for line in text.splitlines()]
    return {normal(re.split(r"[^\w.-]", line)[0]) for line in lines if line and not line.startswith("%")}


def imported(tree):
    """The first word of every import, also of those in functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module.split(".")[0]


@pytest.fixture(scope="module")
def needed():
    """Distributions by the names that are imported; a package that is not installed goes by its own name."""
    words = {word for path in PACKAGE.rglob("*.py") for word in imported(ast.parse(path.read_text()))}
    owners = packages_distributions()
    words -= {*sys.stdlib_module_names, "pplvae"}
    return {word: {normal(owner) for owner in owners.get(word, [word])} for word in words}


@pytest.fixture(scope="module")
def setup():
    if not SETUP.exists():
        pytest.skip("installed without its sources")
    parser = configparser.ConfigParser(interpolation=None)
    parser.read(SETUP)
    return parser


def test_every_import_is_declared(needed, setup):
    extras = [declared(setup["options.extras_require"][name]) for name in ("data", "draw", "flows", "mlflow")]
    known = declared(setup["options"]["install_requires"]).union(*extras)
    assert {word for word, owners in needed.items() if not owners & known} == set()


def test_every_dependency_is_used(needed, setup):
    known = declared(setup["options"]["install_requires"]) - USED_THROUGH_ANOTHER
    assert known - set().union(*needed.values()) == set()


def test_what_is_used_through_another_is_declared(setup):
    known = declared(setup["options"]["install_requires"]) | declared(setup["options.extras_require"]["data"])
    assert known >= USED_THROUGH_ANOTHER
