"""How a command says things: tables on a terminal, text in a pipe, one JSON object with `--json`, nothing if quiet.

The answer goes to standard output, problems to standard error. With `--json` standard output holds the object alone.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from rich.console import Console, RenderableType
from rich.markup import escape

from pplvae._version import __version__
from pplvae.errors import printable
from pplvae.ranks.group import of_torchrun


class Voice:
    """Says what a command does and finds.

    Args:
        json: print one object at the end; all else goes to standard error.
        quiet: say nothing but warnings, and why a command failed. So do all ranks of a job but the first.

    Attributes:
        answered: whether the object has been printed.
    """

    def __init__(self, *, json: bool = False, quiet: bool = False) -> None:
        self._rank, _ = of_torchrun()
        self.json, self.quiet, self.answered = json and not self._rank, quiet or self._rank > 0, False

    def line(self, text: str) -> None:
        """What is being done, or what has been written where."""
        if not self.quiet:
            _console(stderr=self.json).print(printable(text), markup=False)

    def result(self, text: str, tables: Callable[[], Iterable[RenderableType]]) -> None:
        """What was found.

        Args:
            text: for a pipe.
            tables: makes the same for a terminal.
        """
        console = _console()
        if self.quiet or self.json:
            return
        shown = list(tables()) if console.is_terminal else []
        if not shown or any(_width(console, one) > console.width for one in shown):
            console.print(printable(text), markup=False)
            return
        for one in shown:
            console.print(one, soft_wrap=False)

    def problem(self, message: str, colour: str = "red") -> None:
        """What is wrong, in one line on standard error."""
        who = f"pplvae (rank {self._rank}):" if self._rank else "pplvae:"
        _console(stderr=True).print(f"[bold {colour}]{who}[/bold {colour}] {escape(printable(message))}")

    def answer(self, command: str, status: int, found: Mapping[str, Any]) -> None:
        """Print the object, if there is to be one.

        Args:
            command: its name.
            status: with which it exits.
            found: what there is to tell; numbers that are not finite become null.
        """
        if self.json and not self.answered:
            self.answered = True
            content = {"pplvae": __version__, "command": command, "status": status, **found}
            print(json.dumps(as_json(content), indent=2, allow_nan=False))


def as_json(value: Any) -> Any:
    """A value as JSON can hold it; of numbers that are not finite, null."""
    if isinstance(value, Mapping):
        return {str(name): as_json(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_json(one) for one in value]
    if hasattr(value, "item"):  # a number of NumPy
        value = value.item()
    if isinstance(value, float):
        return value if abs(value) < float("inf") else None
    return value if isinstance(value, bool | int | str | None) else str(value)


def _console(*, stderr: bool = False) -> Console:
    # Made when something is said: NO_COLOR and where the output goes are then those of the command.
    return Console(stderr=stderr, highlight=False, soft_wrap=True)


def _width(console: Console, shown: RenderableType) -> int:
    """The least that something needs, which rich would cut down to the terminal's own."""
    return console.measure(shown, options=console.options.update(max_width=10_000)).minimum
