"""Where in the user's files the statements of a program stand, and which findings a comment there asks to leave out."""

import ast
import inspect
import linecache
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor, nn

from pplvae import errors
from pplvae.isolate import before_each_module, root_modules
from pplvae.programs.failures import is_of_user, line_of_user

# Programs of ours that a user may ask about.
_SHIPPED = tuple(str(Path(errors.__file__).parent / room) for room in ("models", "guides", "priors", "nets"))
_IGNORED = re.compile(r"#.*\bpplvae:\s*ignore\[([\w\s,]+)\]")


class Place(NamedTuple):
    """A line of a file, from 1; none of a program that cannot be seen."""

    file: str = ""
    line: int = 0


class Declared(NamedTuple):
    """A parameter, as a program declares it and as the param store has it."""

    program: str
    name: str
    given: Tensor
    held: Tensor


class Permuted(NamedTuple):
    """A plate that draws which of its members it holds."""

    program: str
    name: str
    size: int


@dataclass
class Seen:
    """What has been seen of two programs as they ran.

    Attributes:
        places: of statements, by program and by the name of a site, plate or parameter; of the program itself by "".
        declared: parameters, by program and name, as they were last declared.
        networks: the tensors that are declared under each name.
        permuted: plates that permute their members.
        modules: those whose place has been noted, by id.
    """

    places: dict[tuple[str, str], Place] = field(default_factory=dict)
    declared: dict[tuple[str, str], Declared] = field(default_factory=dict)
    networks: dict[str, set[int]] = field(default_factory=dict)
    permuted: dict[str, Permuted] = field(default_factory=dict)
    modules: set[int] = field(default_factory=set)

    def place_of(self, program: str, name: str, error: BaseException | None = None) -> Place:
        """The line of a statement; where there is none, the line that failed, or that of the program.

        Args:
            program: "model" or "guide"; empty for either.
            name: of a site, plate or parameters.
            error: that the program raised.
        """
        for some in [program] if program else ["model", "guide"]:
            if name and (some, name) in self.places:
                return self.places[some, name]
        failed = line_of_user(error) if error is not None else None
        if failed is not None:
            return Place(failed.filename, failed.lineno or 0)
        return self.places.get((program or "model", ""), Place())


class Placed:
    """A program under a handler that notes where its statements stand.

    Args:
        func: the program.
        what: "model" or "guide".
        seen: is told.
    """

    def __init__(self, func: Callable[..., Any], what: str, seen: Seen) -> None:
        self.func, self._what, self._seen = func, what, seen
        seen.places.setdefault((what, ""), _definition(func))

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program."""
        recorder = _Recorder(self._what, self._seen)
        with recorder, before_each_module(recorder.note_module):
            return self.func(*args, **kwargs)


class _Recorder(Messenger):
    def __init__(self, what: str, seen: Seen) -> None:
        super().__init__()
        self._what, self._seen = what, seen

    def _pyro_sample(self, msg: Any) -> None:
        self._note(msg["name"])
        plate = msg["fn"]
        if site_is_subsample(msg) and msg["value"] is None and plate.subsample_size not in (None, plate.size):
            self._seen.permuted.setdefault(msg["name"], Permuted(self._what, msg["name"], plate.size))

    def _pyro_param(self, msg: Any) -> None:
        self._note(msg["name"])

    def _pyro_post_param(self, msg: Any) -> None:
        given = msg["args"][1] if len(msg["args"]) > 1 else None  # after the name
        if not isinstance(given, Tensor) or not isinstance(msg["value"], Tensor):
            return
        name = msg["name"]
        self._seen.declared[self._what, name] = Declared(self._what, name, given, msg["value"])
        if isinstance(given, nn.Parameter):
            self._seen.networks.setdefault(name, set()).add(id(given))

    def note_module(self, module: nn.Module, _args: Any) -> None:
        """Note where a network with weights of its own is called; it goes by what it looks like."""
        if id(module) not in self._seen.modules and module._parameters:
            self._seen.modules.add(id(module))
            self._note(repr(module))

    def _note(self, name: str) -> None:
        if (self._what, name) not in self._seen.places:
            place = _line_being_run()
            if place is not None:
                self._seen.places[self._what, name] = place


def _line_being_run() -> Place | None:
    """The innermost line of the program that is neither a library's nor Pyro's."""
    frame, in_library = sys._getframe(1), False
    while frame is not None and not (in_library and frame.f_code.co_filename == __file__):  # where it was called
        file = frame.f_code.co_filename
        in_library = in_library or "site-packages" in file  # Pyro or torch, which have called the handler
        if in_library and _is_program(file):
            return Place(file, frame.f_lineno)
        frame = frame.f_back
    return None


def _definition(program: Callable[..., Any]) -> Place:
    """The line of the `def` of a program."""
    inner: Any = program
    while hasattr(inner, "func"):
        inner = inner.func
    inner = inspect.unwrap(inner)
    roots = root_modules(inner)
    if roots and roots[0] is inner:
        inner = type(inner).forward
    code = getattr(getattr(inner, "__func__", inner), "__code__", None)
    if code is None or not _is_program(code.co_filename):
        return Place()
    return Place(code.co_filename, code.co_firstlineno)


def _is_program(file: str) -> bool:
    return is_of_user(file) or file.startswith(_SHIPPED)


def ignored_at(place: Place) -> frozenset[str]:
    """Codes that a comment on a statement asks to leave out: `# pplvae: ignore[PV220, PV221]`."""
    if not place.file:
        return frozenset()
    first, last = _statement(place.file, place.line)
    codes = [
        code
        for line in lines_of(place.file)[first - 1 : last]
        for found in _IGNORED.findall(line)
        for code in found.split(",")
    ]
    return frozenset(code.strip() for code in codes)


def lines_of(file: str) -> list[str]:
    """The lines of a file, or of a notebook's cell, as they are now."""
    linecache.checkcache(file)
    return linecache.getlines(file)


def _statement(file: str, line: int) -> tuple[int, int]:
    """First and last line of the statement that a line belongs to; of one with a body, those of its head."""
    spans = [span for span in _statements(file) if span[0] <= line <= span[1]]
    return min(spans, key=lambda span: span[1] - span[0], default=(line, line))


def _statements(file: str) -> list[tuple[int, int]]:
    try:
        tree = ast.parse("".join(lines_of(file)))
    except SyntaxError:  # a cell of a notebook with a magic command
        return []
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            first = min([node.lineno, *(one.lineno for one in getattr(node, "decorator_list", []))])
            last = max(first, body[0].lineno - 1) if isinstance(body, list) else (node.end_lineno or node.lineno)
            found.append((first, last))
    return found
