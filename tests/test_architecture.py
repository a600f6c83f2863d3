"""The house: imports point down, files stay small, nothing heavy happens at import."""

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest
from conftest import QUICK

import pplvae

ROOT = Path(pplvae.__file__).parent
# From the foundation up: a module imports only from rooms that stand before its own, inside its functions too, and
# within a room from files that stand before it. In rooms without a list there are no circles.
ROOMS = {
    "_version": [],
    "errors": [],
    "isolate": [],
    "ranks": ["group", "checksums"],
    "loggers": [],
    "plots": ["style", "ladder", "gaps", "groups", "diagnostics", "latents", "landscape", "images", "training"],
    "netcdf": [],
    "seal": [],
    "plain": [],
    "store": [],
    "holding": [],
    "leases": [],
    "run_folders": [],
    "data": [
        *(
            "limits",
            "mapped",
            "given",
            "digits",
            "packed",
            "arrays",
            "table",
            "scaling",
            "download",
            "readers",
            "originals",
            "split",
        ),
        *(
            "torch_sets",
            "annotated",
            "huggingface",
            "row_groups",
            "rows",
            "registry",
            "convert",
            "missing",
            "text",
            "layout",
            "beside",
            "frames",
        ),
        *("sparse", "archives", "parquet", "tree", "hdf5_child", "hdf5", "annotated_files", "stores", "files", "load"),
    ],
    "nets": [],
    "flows": [],
    "programs": [
        *(
            "shapes",
            "mixing",
            "keys",
            "noise",
            "chunking",
            "memory",
            "progress",
            "pieces",
            "widening",
            "batch",
            "local",
            "estimates",
            "transforms",
            "families",
            "factorisations",
        ),
        *("failures", "discrete", "sites", "summing", "price", "capture", "contexts", "keyed", "reading", "dependence"),
        *(
            "refusals",
            "plates",
            "points",
            "latents",
            "elements",
            "rows_apart",
            "site_checks",
            "support",
            "left_out",
            "inspection",
            "opening",
        ),
        *("selections", "simulation", "log_weights"),
    ],
    "statistics": [
        "settings",
        "findings",
        "summary",
        "means",
        "groups",
        "paired",
        "roc",
        "evidence",
        "uniformity",
        "calibration",
        "latents",
    ],
    "likelihoods": [],
    "priors": [],
    "guides": [],
    "models": [],
    "adapters": [
        *("networks", "conventions", "distributions", "quantities", "prior", "posterior", "declared", "given", "pair"),
        *("loss_terms", "round_trip", "from_torch", "pythae", "diffusers", "lightning", "scvi"),
    ],
    "objectives": [],
    "search": [
        *(
            "density",
            "curvature",
            "gaussian",
            "gaussian_form",
            "nodes",
            "refinement",
            "climb",
            "optimum",
            "shortfall",
            "judging",
        ),
        *(
            "second_order",
            "other_modes",
            "localise",
            "local_guides",
            "posterior",
            "first_order",
            "further",
            "known_latents",
            "own_gaussian",
            "own_guides",
            "kinds",
            "missed",
        ),
        "richer_families",
    ],
    "scoring": ["tables", "kept", "together", "scores", "precision", "chunks", "gaps"],
    "training": [
        *("adam", "weights", "preparation", "breakdown", "replays", "shares", "narrow", "gradients", "update", "steps"),
        *("parts", "feed", "passing", "validation", "checkpoint", "together"),
        *("history", "looks", "loop", "outcome", "fitting"),
    ],
    "checking": [
        *("codes", "finding", "places", "pair", "doors", "plates", "parameters", "objectives", "source", "latents"),
        *("numbers", "rows", "sites", "result", "check", "graph"),
    ],
    "report": [],
    "results": ["arviz", "observations", "base", "comparison", "groups", "paired", "outliers"],
    "evidence": ["annealing", "gaussian_space", "paths", "proposal", "log_evidence", "bracket", "posterior_means"],
    "diagnostics": ["per_row", "surgery", "calibration", "joint", "latent_use", "landscape", "gradient_noise"],
    "comparison": ["columns", "ladder", "reconstruction", "compare", "retraining", "advice", "attribution"],
    "drafting": ["values", "observed", "latent", "lines", "draft"],
    "commands": [
        *("words", "keywords", "options", "saying", "declaring", "spec", "fits", "programs", "asked", "code", "tables"),
        *(
            "verdict",
            "folders",
            "export",
            "runs",
            "listing",
            "checked",
            "drafted",
            "trial",
            "verification",
            "verbs",
            "app",
            "manual",
            "fitting",
            "writing",
            "measuring",
        ),
    ],
    "cli": [],
    "__main__": [],
}
ORDER = list(ROOMS)
FILES = sorted(ROOT.rglob("*.py"))
WITHOUT_MODELS = ("programs", "training", "checking", "search", "scoring", "evidence")
# Imported late because they are heavy, or because few need them; nothing is imported late to hide a circle.
MOST_LATE_IMPORTS = 3


def parts_of(dotted):
    """Room and file of a module of ours."""
    return [*dotted.split(".")[1:], ""][:2]


def imported(path):
    """Dotted names of what a file imports of ours, and whether a function does it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "pplvae":
            for alias in node.names:
                inner = ROOT.joinpath(*node.module.split(".")[1:], alias.name)
                is_module = inner.is_dir() or inner.with_suffix(".py").exists()
                yield f"{node.module}.{alias.name}" if is_module else node.module, node.col_offset > 0
        elif isinstance(node, ast.Import):
            yield from ((alias.name, node.col_offset > 0) for alias in node.names if alias.name.startswith("pplvae."))


def place(room, file):
    files = ROOMS[room]
    return ORDER.index(room), files.index(file) if file in files else -1


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_point_down(path):
    relative = path.relative_to(ROOT).with_suffix("")
    if len(relative.parts) == 1 and relative.name == "__init__":
        return
    own = place(relative.parts[0], relative.parts[1] if len(relative.parts) > 1 else "")
    upward = [name for name, _ in imported(path) if place(*parts_of(name)) > own]
    if relative.name == "__init__":  # of a room: it may show what the room holds
        upward = [name for name in upward if parts_of(name)[0] != relative.parts[0]]
    assert upward == []


def test_every_file_has_its_place():
    for room, files in ROOMS.items():
        if files:
            assert sorted(files) == sorted(p.stem for p in (ROOT / room).glob("*.py") if p.stem != "__init__"), room


def test_no_file_imports_itself_by_a_detour():
    """Of rooms without a list, too."""
    below = {p: [ROOT.joinpath(*n.split(".")[1:]).with_suffix(".py") for n, _ in imported(p)] for p in FILES}
    TopologicalSorter(below).prepare()  # raises CycleError


def test_few_imports_are_made_late():
    late = {(p.name, name) for p in FILES for name, is_late in imported(p) if is_late and p != ROOT / "__init__.py"}
    assert len(late) <= MOST_LATE_IMPORTS, late


@pytest.mark.parametrize("room", WITHOUT_MODELS)
def test_what_serves_any_program_knows_no_models(room):
    for path in (ROOT / room).glob("*.py"):
        rooms = {parts_of(name)[0] for name, _ in imported(path)}
        assert rooms & {"models", "guides", "nets", "likelihoods", "priors"} == set(), path.name


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_files_stay_small(path):
    assert len(path.read_text().splitlines()) <= 330


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_classes_stay_small(path):
    classes = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.ClassDef)]
    assert [node.name for node in classes if node.end_lineno - node.lineno >= 200] == []


def in_a_new_process(code):
    subprocess.run([sys.executable, "-c", code], check=True)


def test_public_names_exist():
    assert all(hasattr(pplvae, name) for name in pplvae.__all__)
    assert set(pplvae.__all__) <= set(dir(pplvae))


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
    *("xarray", "zarr", "zuko"),
}


def test_what_is_heavy_is_imported_when_it_is_used():
    """One after the other in one process: what a line imports is still there after the next."""
    in_a_new_process(f"""
import sys
import pyro, torch
before = set(sys.modules)

def look(what, heavy):
    found = heavy & (set(sys.modules) - before)
    assert not found, (what, found)

def left(*words):
    sys.argv[1:] = words
    try:
        pplvae.cli.main()
    except SystemExit as leaving:
        assert leaving.code == (0 if "--help" in sys.argv else 2)
    look(words, {HEAVY})

import pplvae
look("pplvae", {HEAVY | {"typer"}})
pplvae.models.VAE, pplvae.priors, pplvae.objectives, pplvae.data.Rows
look("rooms", {HEAVY | {"typer"}})
import pplvae.cli
left("--help")
left("fti")
left("fit", "--help")
left("fit", "--model", "vea")
left("fit", "--prior", "gausian")
""")


def test_importing_leaves_the_process_alone():
    code = """
import sys, torch, warnings
warnings.simplefilter("error")
import pyro
from torch.distributions import Distribution
before = (torch.random.get_rng_state().tolist(), torch.get_default_dtype(), Distribution._validate_args)
import pplvae.training.fitting, pplvae
assert pplvae.fit is pplvae.training.fitting.fit and pplvae.data.Rows
from pplvae import *
assert fit.__name__ == "fit" and local.__name__ == "local" and models.VAE
import pplvae.commands.runs
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
