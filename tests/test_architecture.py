"""The house: imports point down, files stay small, nothing heavy happens at import."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import QUICK

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
    "dependence",
    "latents",
    "elements",
    "nets",
    "likelihoods",
    "priors",
    "guides",
    "models",
    "objectives",
    "site_checks",
    "support",
    "inspection",
    "simulation",
    "scoring",
    "weights",
    "store",
    "preparation",
    "adam",
    "steps",
    "breakdown",
    "training",
    "fitting",
    "comparison",
    "retraining",
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


def in_a_new_process(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist():
    assert all(hasattr(pplvae, name) for name in pplvae.__all__)
    assert set(pplvae.__all__) <= set(dir(pplvae))
    in_a_new_process("from pplvae import *; assert fit.__name__ == 'fit' and local.__name__ == 'local' and models.VAE")
    in_a_new_process("import pplvae.fitting, pplvae; assert pplvae.fit is pplvae.fitting.fit and pplvae.data.Rows")


def test_names_imported_late_are_those_that_type_checkers_see():
    tree = ast.parse((ROOT / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {node.module: {alias.name for alias in node.names} for node in block.body}
    packages = seen.pop("pplvae")
    assert seen == {f"pplvae.{home}": set(names) for home, names in pplvae._HOMES.items()}
    assert packages <= set(pplvae._PACKAGES)
    assert packages | {"local", "__version__"} | set().union(*seen.values()) == set(pplvae.__all__)


@pytest.mark.parametrize(
    ("content", "error", "words"),
    [
        ("import no_such_package", ModuleNotFoundError, "no_such_package"),
        ("import math; math.no_such_function", ImportError, "no_such_function"),
    ],
)
def test_an_error_in_a_module_that_is_imported_late_is_seen(content, error, words, tmp_path, monkeypatch):
    (tmp_path / "broken.py").write_text(content)
    monkeypatch.setattr(pplvae, "__path__", [*pplvae.__path__, str(tmp_path)])
    monkeypatch.setitem(pplvae._HOMES, "broken", ("Broken",))
    with pytest.raises(error, match=words):
        from pplvae import Broken  # noqa: F401
    with pytest.raises(error, match=words):
        hasattr(pplvae, "Broken")


def test_a_name_that_is_not_there():
    with pytest.raises(AttributeError, match="no attribute 'comparee'"):
        pplvae.comparee  # noqa: B018


HEAVY = {
    *("arviz", "arviz_stats", "h5netcdf", "h5py", "jinja2", "matplotlib", "pandas", "pooch", "pyarrow", "sklearn"),
    *("scipy.sparse", "scipy.stats", "torch._dynamo", "torch._inductor", "torch.fx.experimental.proxy_tensor"),
    *("xarray", "zuko"),
}


@pytest.mark.parametrize(
    "code",
    [
        "import pplvae",
        "import pplvae; pplvae.models.VAE, pplvae.priors, pplvae.objectives, pplvae.data.Rows",
        "import pplvae.cli; sys.argv[1:] = ['--help']; left(pplvae.cli.main)",
        "import pplvae.cli; sys.argv[1:] = ['fti']; left(pplvae.cli.main)",
        "import pplvae.cli; sys.argv[1:] = ['fit', '--help']; left(pplvae.cli.main)",
        "import pplvae.cli; sys.argv[1:] = ['fit', '--model', 'vea']; left(pplvae.cli.main)",
        "import pplvae.cli; sys.argv[1:] = ['fit', '--prior', 'gausian']; left(pplvae.cli.main)",
    ],
)
def test_what_is_heavy_is_imported_when_it_is_used(code):
    heavy = HEAVY if "cli" in code else HEAVY | {"typer"}
    in_a_new_process(f"""
import sys
import pyro, torch
before = set(sys.modules)
def left(main):
    try:
        main()
    except SystemExit as leaving:
        assert leaving.code == (0 if "--help" in sys.argv else 2)
{code}
found = {heavy} & (set(sys.modules) - before)
assert not found, found
""")


def test_importing_leaves_the_process_alone():
    code = """
import sys, torch, warnings
warnings.simplefilter("error")
import pyro
from torch.distributions import Distribution
before = (torch.random.get_rng_state().tolist(), torch.get_default_dtype(), Distribution._validate_args)
from pplvae import *
import pplvae.runs
after = (torch.random.get_rng_state().tolist(), torch.get_default_dtype(), Distribution._validate_args)
assert before == after
assert not {"arviz", "sklearn", "matplotlib.pyplot", "zuko"} & set(sys.modules), set(sys.modules)
assert not list(pyro.get_param_store().keys())
"""
    in_a_new_process(code)


def test_what_is_called_quick_is_there():
    for name in QUICK:
        file, _, test = name.partition("::")
        assert f"def {test or 'test_'}" in (Path(__file__).parent / file).read_text(), name
