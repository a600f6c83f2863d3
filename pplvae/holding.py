"""A folder that one process writes to: a lock that says who holds it."""

import json
import os
import shlex
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from filelock import FileLock, Timeout

from pplvae.errors import StoreError
from pplvae.store import sweep, unwritable, write_json

# The system frees the lock of a process that dies; what it has said of itself is then written over.
_LOCK, _HOLDER = ".lock", ".holder.json"


@contextmanager
def holding(folder: Path) -> Iterator["Held"]:
    """Keep other processes from writing to a folder, which is made if need be; sweep what a dead one was writing.

    A block inside another one of the same process, on the same folder, is part of that one. A folder that was made and
    in which nothing was written is removed at the end.

    Raises:
        StoreError: another process holds it, or it cannot be written.
    """
    made = [parent for parent in (folder, *folder.absolute().parents) if not parent.exists()]
    lock = FileLock(folder.absolute() / _LOCK, timeout=0, is_singleton=True)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise StoreError(_occupied(folder)) from None
    except OSError as error:
        raise unwritable(folder, error) from error
    outermost = lock.lock_counter == 1
    try:
        if outermost:
            sweep(folder)
            _say_who(folder)
        yield Held(folder)
    finally:
        if outermost:
            with suppress(OSError):  # the folder may be gone
                (folder / _HOLDER).unlink(missing_ok=True)
        lock.release()
        if made:
            _unmade(folder, made)


class Held:
    """A folder that this process holds.

    Args:
        folder: see `holding`.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._identity = _identity(folder)

    def check(self) -> None:
        """Refuse to go on where the folder has been removed or renamed: what is written would lie apart from the rest.

        Raises:
            StoreError: it is not there any more.
        """
        if _identity(self.folder) != self._identity:
            raise StoreError(
                f"{str(self.folder)!r} was removed or renamed while it was written to. What had been written is as it "
                "was, wherever it is: put it back, and go on."
            )


def _identity(folder: Path) -> tuple[int, int] | None:
    try:
        found = folder.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _say_who(folder: Path) -> None:
    write_json(
        folder / _HOLDER,
        {
            "process": os.getpid(),
            "host": socket.gethostname(),
            "since": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": shlex.join(sys.argv),
        },
    )


def _occupied(folder: Path) -> str:
    who = "another process"
    with suppress(OSError, ValueError, KeyError, TypeError):  # which may not have said yet who it is
        said = json.loads((folder / _HOLDER).read_text(encoding="utf-8"))
        who = f"process {said['process']} on {said['host']} (since {said['since']}: {said['command']})"
    return f"{str(folder)!r} is being written to by {who}. Wait until it has ended, or choose another folder."


def _unmade(folder: Path, made: list[Path]) -> None:
    """Remove folders again if nothing has been written into them."""
    with suppress(OSError):  # somebody else may have put something there
        if [path.name for path in folder.iterdir()] == [_LOCK]:
            (folder / _LOCK).unlink()
            for parent in made:
                parent.rmdir()
