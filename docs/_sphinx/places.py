"""Where in the code something stands: `pplvae/training/loop.py:train`, and a line of it by what that line says."""

import ast
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]


class PlaceError(LookupError):
    """There is no such file, no such name in it, or no such line (or more than one) in what it names."""


@dataclass(frozen=True)
class Place:
    """A place in a file of this project.

    Args:
        path: of the file, from the project's root.
        name: of a function or class, with dots for what is inside a class; empty for the whole file.
        first: number of its first line, from 1.
        last: number of its last line.
    """

    path: str
    name: str
    first: int
    last: int

    @property
    def lines(self) -> list[str]:
        """The lines themselves."""
        return (ROOT / self.path).read_text(encoding="utf-8").splitlines()[self.first - 1 : self.last]

    def line(self, says: str) -> "Place":
        """The statement in here whose text begins so."""
        found = [k for k, text in enumerate(self.lines) if text.strip().startswith(says)]
        if len(found) != 1:
            raise PlaceError(f"{self.path}:{self.name} has {len(found)} lines that begin with {says!r}, not one.")
        number = self.first + found[0]
        tree = ast.parse((ROOT / self.path).read_text(encoding="utf-8"))
        ends = [node.end_lineno for node in ast.walk(tree) if isinstance(node, ast.stmt) and node.lineno == number]
        return Place(self.path, self.name, number, (ends or [number])[-1] or number)


def place(text: str) -> Place:
    """The place of `path:name`, or of a whole `path`."""
    path, _, name = text.partition(":")
    file = ROOT / path
    if not file.is_file():
        raise PlaceError(f"{path} is no file of this project.")
    source = file.read_text(encoding="utf-8")
    if not name:
        return Place(path, "", 1, source.count("\n") + 1)
    node: ast.AST = ast.parse(source)
    for part in name.split("."):
        node = _inside(node, part, text)
    assert isinstance(node, ast.stmt)
    return Place(path, name, node.lineno, node.end_lineno or node.lineno)


def _inside(node: ast.AST, name: str, text: str) -> ast.AST:
    for child in ast.iter_child_nodes(node):
        if getattr(child, "name", None) == name:
            return child
        targets = getattr(child, "targets", [getattr(child, "target", None)])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return child
    raise PlaceError(f"{text}: there is no {name!r}.")
