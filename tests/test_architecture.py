"""The house: imports point down, files stay small, nothing heavy happens at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pplvae

ROOT = Path(pplvae.__file__).parent
# From the foundation up: a module imports only from rooms that stand before its own.
ROOMS = [
    "_version",
    "errors",
    "isolate",
    "data",
    "capture",
    "local",
    "flows",
    "noise",
    "families",
    "discrete",
    "chunking",
    "batch",
    "rows",
    "latents",
    "elements",
    "nets",
    "likelihoods",
    "priors",
    "guides",
    "models",
    "objectives",
    "support",
    "site_checks",
    "inspection",
    "simulation",
    "scoring",
    "weights",
    "store",
    "preparation",
    "adam",
    "steps",
    "training",
    "fitting",
    "comparison",
    "attribution",
    "diagnostics",
    "plots",
    "report",
    "spec",
    "runs",
    "cli",
    "__main__",
]
FILES = sorted(ROOT.rglob("*.py"))


def room(dotted):
    parts = dotted.split(".")
    return parts[1] if len(parts) > 1 else None


def imported_rooms(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pplvae":
            names = [node.module] if node.module != "pplvae" else [f"pplvae.{alias.name}" for alias in node.names]
            yield from ((room(name), node.col_offset) for name in names)
        elif isinstance(node, ast.Import):
            yield from ((room(alias.name), node.col_offset) for alias in node.names if alias.name.startswith("pplvae."))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    relative = path.relative_to(ROOT)
    if str(relative) == "__init__.py":
        return
    own = ROOMS.index(relative.parts[0].removesuffix(".py"))
    # An import inside a function is an upward call on purpose (`Comparison.report`), made when it is needed.
    upward = [name for name, column in imported_rooms(path) if column == 0 and ROOMS.index(name) > own]
    assert upward == []


def test_fit_and_comparison_know_no_models():
    for path in [ROOT / "fitting.py", ROOT / "training.py", ROOT / "rows.py", *(ROOT / "comparison").glob("*.py")]:
        assert {name for name, _ in imported_rooms(path)} & {
            "models",
            "guides",
            "nets",
            "likelihoods",
            "priors",
        } == set()


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 330


def test_public_names_exist():
    assert all(hasattr(pplvae, name) for name in pplvae.__all__)


def test_importing_leaves_the_process_alone():
    code = """
import sys, torch, warnings
warnings.simplefilter("error")
import pyro
from torch.distributions import Distribution
before = (torch.random.get_rng_state().tolist(), torch.get_default_dtype(), Distribution._validate_args)
import pplvae
after = (torch.random.get_rng_state().tolist(), torch.get_default_dtype(), Distribution._validate_args)
assert before == after
assert not {"arviz", "sklearn", "matplotlib.pyplot", "zuko"} & set(sys.modules), set(sys.modules)
assert not list(pyro.get_param_store().keys())
"""
    subprocess.run([sys.executable, "-c", code], check=True)
