"""Every exception class, and the words put around a stranger's: what was expected, what came, what to do next."""

import difflib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

PLATE_HINT = 'wrap the sites of the rows in `with pyro.plate("data", len(v)):`, in the model and in the guide'
_PROBE_ROWS = 5  # `inspection` tries programs on so many rows at most


class PplvaeError(Exception):
    """Base of all exceptions that pplvae raises on purpose."""


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
        return str(self.args[0])


class CaptureError(PplvaeError):
    """A function cannot be kept as a graph of torch operations; the plain path is taken."""


class PplvaeWarning(UserWarning):
    """Something worth knowing that does not stop the work."""


@contextmanager
def in_users_words(what: str, tensors: Sequence[Any]) -> Iterator[None]:
    """Say which program failed, on rows of which shape, when a user's program raises."""
    try:
        yield
    except PplvaeError:
        raise
    except Exception as error:
        shapes = ", ".join(str((len(t), *t.shape[1:])) for t in tensors)
        hint = ""
        if len(tensors[0]) <= _PROBE_ROWS:
            hint = f" (Programs are tried on 3 and {_PROBE_ROWS} rows first: sizes must come from the rows passed in.)"
        if "Shape mismatch inside plate" in str(error):
            hint = " The plate's size must be the number of rows that are passed in: " + PLATE_HINT + "."
        raise ProgramError(
            f"The {what} raised {type(error).__name__} on rows of shape {shapes}: {error}{hint}"
        ) from error
