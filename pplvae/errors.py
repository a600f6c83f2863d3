"""Every exception class: each says what was expected, what came, and what to do next."""

import difflib
from collections.abc import Iterable

PLATE_HINT = 'wrap the sites of the rows in `with pyro.plate("data", len(v)):`, in the model and in the guide'


class _Coded:
    """What can be wrong with a program has a code, and a place in it: `check` makes findings of both.

    Args:
        text: the message.
        code: of a finding, such as "PV220" (`docs/findings`); empty for all that is not about programs.
        at: which program, and which of its sites, plates or parameters; empty where it is about neither or no one.
        instead: what to write.
    """

    def __init__(self, *text: object, code: str = "", at: tuple[str, str] = ("", ""), instead: str = "") -> None:
        super().__init__(*text)
        self.code, self.at, self.instead = code, at, instead

    def __str__(self) -> str:
        return printable(super().__str__())


class PplvaeError(_Coded, Exception):
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


class RanksError(PplvaeError, RuntimeError):
    """The processes of a job have come apart, have lost each other, or were given different things.

    Args:
        text: the message.
        elsewhere: whether another rank says the same in its own words.
    """

    def __init__(self, text: str, *, elsewhere: bool = False) -> None:
        super().__init__(text)
        self.elsewhere = elsewhere


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


class PplvaeWarning(_Coded, UserWarning):
    """Something worth knowing that does not stop the work."""


def printable(text: str) -> str:
    """A text whose names from outside, of columns or files, cannot move a terminal's cursor; its lines stay apart."""
    return "".join(letter if letter.isprintable() or letter == "\n" else ascii(letter)[1:-1] for letter in text)
