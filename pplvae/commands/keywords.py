"""Keywords of a Python function, as its source has them: name, kind, default, and the words of its docstring.

The source is read and not the function, since help and a refused typo should not wait the seconds that importing
`compare` takes, with torch.func, scipy and xarray behind it. A table that is made when the package is built would be a
second truth; parsing the five files takes some hundredths of a second.
"""

import ast
import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parent.parent
_LONGEST = 200  # letters of what is said of an option, unless its first sentence alone is longer


@dataclass(frozen=True)
class Keyword:
    """A keyword with a default.

    Attributes:
        name: in Python.
        kind: its annotation, as it is written.
        default: its value.
        words: what the docstring says of it, first sentences.
    """

    name: str
    kind: str
    default: Any
    words: str


@cache
def keywords_of(home: str, function: str) -> dict[str, Keyword]:
    """The keywords of a function that have a default which is written out, by name.

    Args:
        home: its module, such as "comparison.compare".
        function: its name, such as "compare", or "PairedRuns.worse".
    """
    node = _definition(ast.parse(_ROOT.joinpath(*home.split(".")).with_suffix(".py").read_text("utf-8")), function)
    words, given = ast.get_docstring(node) or "", node.args
    last = given.args[len(given.args) - len(given.defaults) :]
    pairs = [*zip(last, given.defaults, strict=True), *zip(given.kwonlyargs, given.kw_defaults, strict=True)]
    return {
        argument.arg: Keyword(argument.arg, ast.unparse(argument.annotation), value, _said_of(argument.arg, words))
        for argument, default in pairs
        if argument.annotation is not None and (value := _written_out(default)) is not ...
    }


def _definition(tree: ast.AST, function: str) -> ast.FunctionDef:
    for name in function.split("."):
        inside = ast.iter_child_nodes(tree)
        tree = next(node for node in inside if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name)
    assert isinstance(tree, ast.FunctionDef)
    return tree


def _written_out(default: ast.expr | None) -> Any:
    """A default's value; `...` where there is none, or one that only running the module would tell."""
    try:
        return ... if default is None else ast.literal_eval(default)
    except ValueError:
        return ...


def _said_of(name: str, docstring: str) -> str:
    """The first sentences of an argument's entry, as many as are short together."""
    found = re.search(rf"^    {name}: (.*\n(?:        .*\n)*)", docstring + "\n", re.M)
    first, *others = sentences_of(" ".join(found[1].split()) if found else "")
    for sentence in others:
        if len(first) + len(sentence) >= _LONGEST:
            break
        first = f"{first} {sentence}"
    return first


def sentences_of(text: str) -> list[str]:
    """A text, sentence by sentence."""
    return re.split(r"(?<=\.) (?=[A-Z])", text)
