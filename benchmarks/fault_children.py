"""Commands of pplvae in children that something happens to: killed, asked to end, out of room, without their folder.

A child is forked from a process that has imported everything, so that it is at work at once.
"""

import importlib
import json
import os
import resource
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pplvae
import pplvae.cli

SAID, _TOLD = "said.txt", "told.json"
_SMALL = {"chunk_size": 8, "simulated": 4}  # many chunks of few rows; the command line leaves both as they are
_PUBLISHING = ("replace", "rename", "unlink")  # what files come to their places by, and go
_NOBODY = 65534

Before = Callable[[], None]  # what is done in a child before its command
Tell = Callable[[], object]  # what is asked of it once that has ended


def nothing() -> None:
    """Let the command run as it is."""


def start(words: Sequence[str], folder: Path, before: Before = nothing, tell: Tell = nothing) -> int:
    """Run a command in a child, in a folder; what it says goes to a file there. The child's number."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        code = 1
        try:
            code = _run(words, folder, before)
            if tell is not nothing:
                (folder / _TOLD).write_text(json.dumps(tell()))
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
        finally:
            os._exit(code)
    return child


def ended(child: int) -> int:
    """Wait for a child: its exit status, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def run(words: Sequence[str], folder: Path, before: Before = nothing) -> int:
    """Run a command in a child to its end."""
    return ended(start(words, folder, before))


def interrupted(words: Sequence[str], folder: Path, seconds: float, what: Callable[[int], None]) -> int:
    """Do something to a child, unless it ends before; its exit status."""
    child = start(words, folder)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    what(child)
    return ended(child)


def killed(child: int) -> None:
    """As the system does that has run out of memory, or of electricity."""
    os.kill(child, signal.SIGKILL)


def asked_to_end(child: int) -> None:
    """As a queue of jobs does."""
    os.kill(child, signal.SIGTERM)


def counting(count: list[int], at: int = 0) -> None:
    """Count the publications of files, and kill this process before one of them, which is after the one before it.

    Args:
        count: whose only entry is counted up.
        at: of the publication, from 1.
    """

    def counted(real: Callable[..., None], *args: object, **kwargs: object) -> None:
        # zarr's own are those of the folder that is being written beside its place; rmtree's have keywords.
        if kwargs or threading.current_thread() is not threading.main_thread():
            return real(*args, **kwargs)
        count[0] += 1
        if count[0] == at:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args)

    for name in _PUBLISHING:
        setattr(os, name, partial(counted, getattr(os, name)))


def killed_at(point: int) -> None:
    """Kill this process at a publication of a file."""
    counting([0], point)


def points_of(words: Sequence[str], folder: Path) -> int:
    """How many publications there are in an uninterrupted run."""
    count = [0]
    return _told(words, folder, partial(counting, count), lambda: count[0])


def import_what_is_used_by(words: Sequence[str], folder: Path) -> None:
    """Import here what a command imports as it goes, so that later children need not."""
    before = set(sys.modules)
    for name in _told(words, folder, nothing, lambda: sorted(set(sys.modules) - before)):
        with suppress(Exception):  # parts that cannot be imported on their own
            importlib.import_module(name)


def _told(words: Sequence[str], folder: Path, before: Before, tell: Tell) -> Any:
    assert ended(start(words, folder, before, tell)) == 0, (folder / SAID).read_text()
    return json.loads((folder / _TOLD).read_text())


def out_of_room(most: int) -> None:
    """Let no file grow beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))


def read_only(folder: Path) -> None:
    """Take from this process the right to write to a folder."""
    if os.geteuid() == 0:
        os.setgid(_NOBODY)
        os.setuid(_NOBODY)
    else:
        folder.chmod(0o555)


def speaking_into(path: Path) -> None:
    """Write what this process says to a file."""
    said = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o644)
    os.dup2(said, 1)
    os.dup2(said, 2)


def _run(words: Sequence[str], folder: Path, before: Before) -> int:
    speaking_into(folder / SAID)
    os.chdir(folder)
    sys.argv = ["pplvae", *words]
    pplvae.compare = partial(pplvae.compare, **_SMALL)
    before()
    try:
        pplvae.cli.main()
    except SystemExit as leaving:
        return leaving.code if isinstance(leaving.code, int) else 0
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return 0
