"""Pieces of work in a folder that several processes share: each is at one of them, for as long as it lives.

A lease is a file that only one process can make. Its holder gives signs of life; a lease whose holder gives none is
free again, and so is one that has been held much longer than such a piece takes: a slow process does not hold the rest.
What two processes have worked on is the same to the bit, so that it does no harm if a lease is taken too early.
"""

import os
import secrets
import socket
import time
from contextlib import suppress
from pathlib import Path
from threading import Event, Thread
from types import TracebackType

_SILENT = 30.0  # seconds without a sign of life, after which a process counts as gone
_SIGNS = 6  # in that time
_SLOW = 4  # times as long as this process has needed for a piece at most


class Leases:
    """The leases of one process, in a block.

    Args:
        folder: on a file system that all processes see.
        silent: seconds without a sign of life after which a process counts as gone.
    """

    def __init__(self, folder: Path, silent: float = _SILENT) -> None:
        self._folder, self._silent = folder, silent
        self._token = f"{socket.gethostname()}-{os.getpid()}-{secrets.token_hex(4)}"
        self._longest, self._began = 0.0, 0.0
        self._ended = Event()
        self._signs = Thread(target=self._give_signs, daemon=True)

    def __enter__(self) -> "Leases":
        self._folder.mkdir(parents=True, exist_ok=True)
        self._now()
        self._signs.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        self._ended.set()
        self._signs.join()
        with suppress(OSError):  # the folder may be gone
            self._alive(self._token).unlink(missing_ok=True)

    def take(self, name: str) -> bool:
        """Take a piece, unless another process is at it."""
        path, held_by = self._folder / name, self._holder(name)
        if held_by is not None and not (self._is_gone(name, held_by) and self._put_aside(path, held_by)):
            return False
        try:
            with path.open("x") as file:  # of several processes that find it free, one can
                file.write(self._token)
        except FileExistsError:
            return False
        self._began = time.monotonic()
        return True

    def is_free(self, name: str) -> bool:
        """Whether nobody is at a piece, or nobody who will end it soon."""
        held_by = self._holder(name)
        return held_by is None or self._is_gone(name, held_by)

    def _holder(self, name: str) -> str | None:
        try:
            return (self._folder / name).read_text()  # empty while it is being written
        except FileNotFoundError:
            return None

    def _is_gone(self, name: str, token: str) -> bool:
        """Whether the holder of a lease gives no sign of life, or holds it far too long."""
        now = self._now()
        try:
            held_since = (self._folder / name).stat().st_mtime
            last_sign = self._alive(token).stat().st_mtime if token else held_since
        except FileNotFoundError:
            return True
        if now - last_sign >= self._silent:
            return True
        return self._longest > 0 and now - held_since > max(self._silent, _SLOW * self._longest)

    def _put_aside(self, path: Path, token: str) -> bool:
        """Take away the lease of a holder that is gone, unless another process was quicker and holds it now."""
        aside = path.with_name(f".{path.name}.{self._token}")
        try:
            os.rename(path, aside)
        except FileNotFoundError:
            return False
        was_gone = aside.read_text() == token
        if not was_gone:
            with suppress(FileExistsError):
                os.link(aside, path)
        aside.unlink()
        return was_gone

    def end(self, name: str) -> None:
        """Give a piece back that is done, or given up."""
        self._longest = max(self._longest, time.monotonic() - self._began)
        with suppress(OSError):
            (self._folder / name).unlink(missing_ok=True)

    def _alive(self, token: str) -> Path:
        return self._folder / f"alive-{token}"

    def _now(self) -> float:
        """The time by the clock of the file system, which all processes share."""
        path = self._alive(self._token)
        path.write_text("")
        return path.stat().st_mtime

    def _give_signs(self) -> None:
        while not self._ended.wait(self._silent / _SIGNS):
            with suppress(OSError):
                self._now()
