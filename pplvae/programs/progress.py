"""What is shown of long work on a terminal: bars that are seen to move, and beforehand the price of what is dear."""

import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from threading import Event, Thread
from typing import Any

from tqdm.auto import tqdm

_REDRAWN = 1.0  # seconds
# As tqdm's own, but for parts of a unit, which are counted and not shown.
_FORMAT = "{l_bar}{bar}| {n:.0f}/{total_fmt} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
_DEAR = 30.0  # seconds of the whole, from which on a price is named beforehand


class _Bar(tqdm):
    """A bar that gives its lock back when it cannot be drawn; else all others would wait for it for ever."""

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> Any:
        """Draw the bar."""
        if self.disable:
            return None
        with nullcontext() if nolock else self.get_lock():
            if self.total:
                self.n = min(self.n, self.total)  # sums of parts may be more by rounding, of which tqdm warns
            self.display()
        return True


@contextmanager
def progress_bar(
    total: int, doing: str, unit: str, *, progress: bool, done: int = 0, inside: bool = False
) -> Iterator[tqdm]:
    """A bar on a terminal, nothing elsewhere or where none was asked for.

    It is drawn anew every second, so that its clock goes on while a long step of the work ends.

    Args:
        total: of what is to be done.
        doing: what the bar says.
        unit: of the total.
        progress: whether a bar is wanted.
        done: how much is done already.
        inside: another bar stands above this one, which vanishes at its end.
    """
    shown = {"total": total, "initial": done, "desc": doing, "unit": unit, "leave": not inside, "bar_format": _FORMAT}
    with _Bar(**shown, disable=None if progress else True) as bar:
        if bar.disable:
            yield bar
            return
        ended = Event()
        clock = Thread(target=_redraw, args=(bar, ended), daemon=True)
        clock.start()
        try:
            yield bar
        finally:
            ended.set()
            clock.join()


def _redraw(bar: tqdm, ended: Event) -> None:
    with suppress(OSError, ValueError):  # a terminal that is gone: who does the work will be told
        while not ended.wait(_REDRAWN):
            bar.refresh()


class Progress:
    """How far a walk over rows is.

    Args:
        shown: whether anything is.
        rows: how many there are to walk over.
    """

    def __init__(self, *, shown: bool = False, rows: int = 0) -> None:
        self._shown, self._rows, self._named = shown, rows, False

    def bar(self, total: int, doing: str, unit: str, *, inside: bool = False) -> AbstractContextManager[tqdm]:
        """A bar, see `progress_bar`."""
        return progress_bar(total, doing, unit, progress=self._shown, inside=inside)

    def price(self, doing: str, seconds: float, rows: int) -> None:
        """Say, once, what all rows will take, where that is long.

        Args:
            doing: the work.
            seconds: that some rows will take.
            rows: how many these are.
        """
        if not self._shown or self._named:
            return
        self._named = True
        each = seconds / rows
        if each * self._rows >= _DEAR:
            line = f"{doing}: about {each:.2g} s a row, {tqdm.format_interval(each * self._rows)} for {self._rows} rows"
            tqdm.write(line, file=sys.stderr)
