"""Every exception class, and the words put around a stranger's: what was expected, what came, what to do next."""

import difflib
import re
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PLATE_HINT = 'wrap the sites of the rows in `with pyro.plate("data", len(v)):`, in the model and in the guide'
_LARGE = 30.0
_TENSOR = re.compile(r"tensor\(\[.*?\](, [a-z_]+=[^()]*(\(.*?\))?)*\)", re.DOTALL)
_CONSTRAINT = re.compile(  # torch's words for a parameter that a distribution cannot have
    r"Expected parameter (\w+) .*? of distribution (\w+)\(.*\) to satisfy the constraint (.+?), but found (.*)",
    re.DOTALL,
)
_VALUE = re.compile(r"[-+]?\b(?:nan|inf|\d[\d.]*(?:e[-+]?\d+)?)\b\.?")
_PROBE_ROWS = 5  # `inspection` tries programs on so many rows at most


class PplvaeError(Exception):
    """Base of all exceptions that pplvae raises on purpose."""

    def __str__(self) -> str:
        return printable(super().__str__())


class DataError(PplvaeError, ValueError):
    """The rows cannot be used: missing, damaged, not finite, or outside the support of a likelihood."""


class ShapeError(DataError):
    """The rows have the wrong shape for the program, or do not agree with each other."""


class ProgramError(PplvaeError, ValueError):
    """The model and the guide cannot be compared row by row: plates, sites, shapes or supports do not fit."""


class RowwiseError(ProgramError):
    """The pair may be fitted, but its rows have no gap of their own: no data plate, or nothing that can vary in it."""


class StoreError(PplvaeError, OSError):
    """A run folder or a result file is missing, damaged, from another version, or cannot be written."""


class UnknownNameError(PplvaeError, KeyError):
    """A name (of an objective, a model, a data set, ...) that pplvae does not know."""

    def __init__(self, kind: str, name: object, known: Iterable[str]) -> None:
        known = sorted(known)
        close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        super().__init__(f"Unknown {kind} {name!r}.{hint} Known: {', '.join(known)}.")

    def __str__(self) -> str:
        # KeyError would show the repr of its argument, quotes and all.
        return printable(str(self.args[0]))


class CaptureError(PplvaeError):
    """A function cannot be kept as a graph of torch operations; the plain path is taken."""


class PplvaeWarning(UserWarning):
    """Something worth knowing that does not stop the work."""

    def __str__(self) -> str:
        return printable(super().__str__())


def printable(text: str) -> str:
    """A text whose names from outside, of columns or files, cannot move a terminal's cursor; its lines stay apart."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)


@contextmanager
def in_users_words(what: str, tensors: Sequence[Any]) -> Iterator[None]:
    """Say which program failed, on rows of which shape, when a user's program raises."""
    try:
        yield
    except PplvaeError:
        raise
    except Exception as error:
        shapes = ", ".join(str((len(t), *t.shape[1:])) for t in tensors)
        said = _in_short(error)
        raise ProgramError(
            f"The {what} raised {type(error).__name__} on rows of shape {shapes}: {said}{_hint(said, tensors)}"
        ) from error


def size_hint(v: Any) -> str:
    """What to do about rows whose values are large, in a sentence; nothing if they are not."""
    if not v.is_floating_point() or not v.numel() or not float(v.abs().max()) > _LARGE:
        return ""
    return (
        f" The rows hold values from {float(v.min()):.6g} to {float(v.max()):.6g}, and networks break down at large "
        "ones. Give all columns one size: `load_data(..., standardise=True)`."
    )


def _hint(said: str, tensors: Sequence[Any]) -> str:
    if "Shape mismatch inside plate" in said:
        return " The plate's size must be the number of rows that are passed in: " + PLATE_HINT + "."
    if "must satisfy" in said and size_hint(tensors[0]):
        return size_hint(tensors[0])
    if len(tensors[0]) <= _PROBE_ROWS:
        return f" (Programs are tried on 3 and {_PROBE_ROWS} rows first: sizes must come from the rows passed in.)"
    return ""


def _in_short(error: Exception) -> str:
    """What an exception says, without whole tensors; where it comes from, if it says nothing."""
    said = str(error).strip()
    found = _CONSTRAINT.match(said)
    if found:
        name, family, constraint, values = found.groups()
        return f"the {name} of a {family} must satisfy {constraint}, got {_some_values(values)}."
    if said:
        return _TENSOR.sub(lambda tensor: _some_values(tensor[0]), said)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"`{last.line}` in line {last.lineno} of {last.filename}."


def _some_values(tensor: str, most: int = 4) -> str:
    """A few different values of a tensor that has been printed."""
    values = list(dict.fromkeys(value.rstrip(".") for value in _VALUE.findall(tensor)))
    return ", ".join(values[:most]) + (", ..." if len(values) > most else "")
