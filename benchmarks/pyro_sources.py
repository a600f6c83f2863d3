"""Programs out of a checkout of Pyro, as they stand there: modules of `examples/`, cells of its notebooks."""

import ast
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

# They draw and download, which nothing here does: the examples import them before they say what they are for.
_STOOD_IN = ("corner", "observations", "torchvision", "visdom", "wordcloud")


def module(folder: Path, name: str) -> ModuleType:
    """A module of a folder of examples, which finds its neighbours there.

    Raises:
        FileNotFoundError: there is no such file.
    """
    if not (folder / f"{name}.py").exists():
        raise FileNotFoundError(f"{folder / name}.py is not there: `--pyro` wants the root of a checkout of Pyro.")
    before = set(sys.modules)
    sys.path.insert(0, str(folder))
    try:
        with _stand_ins():
            return importlib.import_module(name)
    finally:
        sys.path.remove(str(folder))
        # Folders have modules of the same names: `utils`, `modules`.
        for other in set(sys.modules) - before:
            if str(getattr(sys.modules[other], "__file__", None) or "").startswith(str(folder)):
                del sys.modules[other]


def notebook(path: Path, names: Sequence[str], occurrence: int = 0, given: Any = None) -> SimpleNamespace:
    """What some cells of a notebook define.

    Args:
        path: of the notebook.
        names: classes and functions; the cells that define them run as far as that, in this order, after all imports.
        given: what the cells expect of others that do not run, by name.
        occurrence: which of several cells that define the last name is taken.
    """
    cells = ["".join(cell["source"]) for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    trees = [ast.parse(cell) for cell in cells]
    imports: list[ast.stmt] = [
        node for tree in trees for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    found: dict[str, Any] = {"__name__": path.stem, "smoke_test": True} | (given or {})
    with _stand_ins():
        exec(compile(ast.Module(imports, []), str(path), "exec"), found)
    for name in names:
        defining = [body for tree in trees if (body := _up_to(name, tree))]
        chosen = defining[occurrence if name == names[-1] else 0]
        exec(compile(ast.Module(chosen, []), str(path), "exec"), found)
    return SimpleNamespace(**found)


def _up_to(name: str, tree: ast.Module) -> list[ast.stmt]:
    """The statements of a cell up to the definition of a name: what follows trains, draws, or asks for a GPU."""
    for k, node in enumerate(tree.body):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == name:
            return tree.body[: k + 1]
    return []


class _StandIn(ModuleType):
    """A package that has whatever is asked of it, and of which nothing can be used."""

    __path__: Any = ()  # the import system asks it of a package

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return type(name, (), {})


class _Finder(MetaPathFinder, Loader):
    def find_spec(self, fullname: str, _path: Any = None, _target: Any = None) -> ModuleSpec | None:
        return ModuleSpec(fullname, self, is_package=True) if fullname.split(".")[0] in _STOOD_IN else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        return _StandIn(spec.name)

    def exec_module(self, module: ModuleType) -> None:
        pass


@contextmanager
def _stand_ins() -> Iterator[None]:
    """Packages that are not installed, for the time of an import."""
    finder, before = _Finder(), set(sys.modules)
    sys.meta_path.append(finder)  # last: what is installed is found first
    try:
        yield
    finally:
        sys.meta_path.remove(finder)
        for name in set(sys.modules) - before:
            if isinstance(sys.modules[name], _StandIn):
                del sys.modules[name]
