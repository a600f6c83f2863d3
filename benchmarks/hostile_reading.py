"""Files read in children that may take a few seconds and some memory, and what came of each."""

import contextlib
import os
import resource
import select
import signal
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.memory import peak_during
from pplvae.errors import PplvaeError, PplvaeWarning

_BATCH = 200  # files that one child reads
_GIB = 1 << 30
_SHORTEST = 30  # letters of a sentence


@dataclass(frozen=True)
class Limits:
    """What a child may take for one file: seconds, bytes of resident memory, bytes of addresses beyond its own."""

    seconds: float = 5.0
    resident: int = _GIB // 2
    addresses: int = 2 * _GIB


@dataclass(frozen=True)
class Outcome:
    """What came of reading a file.

    Attributes:
        kind: "read", "refused" (an error of ours, with a sentence), "raw" (another exception) or "killed" (too long,
            too much memory, or the process died).
        said: the error.
        seconds: it took.
        peak: bytes of memory beyond what the child held before.
    """

    kind: str
    said: str
    seconds: float
    peak: int = 0


def outcomes(
    contents: Sequence[bytes | None], read: Callable[[Path], object], path: Path, limits: Limits | None = None
) -> list[Outcome]:
    """Write each content to the path in turn and read it, in children.

    Args:
        contents: of the files; None for what already lies there.
        read: of a path.
        path: of the file that is written and read.
        limits: of each file; by default 5 s and 0.5 GiB.
    """
    found: list[Outcome] = []
    while len(found) < len(contents):
        found += _of_a_child(contents[len(found) : len(found) + _BATCH], read, path, limits or Limits())
    return found


def _of_a_child(
    contents: Sequence[bytes | None], read: Callable[[Path], object], path: Path, limits: Limits
) -> list[Outcome]:
    """Outcomes until the child has done all or had to be killed."""
    receiving, sending = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(receiving)
        with contextlib.suppress(BaseException):
            _child(contents, read, path, limits, sending)
        os._exit(0)
    os.close(sending)
    found: list[Outcome] = []
    with os.fdopen(receiving, "rb", buffering=0) as answers:
        while len(found) < len(contents):
            began = time.monotonic()
            answer = _line(answers, limits.seconds)
            if answer is None or answer == b"":
                os.kill(child, signal.SIGKILL)
                said = "it takes too long" if answer is None else "the process died"
                found.append(Outcome("killed", said, time.monotonic() - began))
                break
            kind, seconds, peak, said = answer.decode(errors="replace").rstrip("\n").split("\t", 3)
            found.append(Outcome(kind, said, float(seconds), int(peak)))
    os.waitpid(child, 0)
    return found


def _line(answers: object, seconds: float) -> bytes | None:
    """The next line; nothing if the pipe has ended, and None if none came in time."""
    descriptor, line, until = answers.fileno(), b"", time.monotonic() + seconds  # type: ignore[attr-defined]
    while not line.endswith(b"\n"):
        if not select.select([descriptor], [], [], max(until - time.monotonic(), 0))[0]:
            return None
        piece = os.read(descriptor, 1)
        if not piece:
            return b""
        line += piece
    return line


def _child(
    contents: Sequence[bytes | None], read: Callable[[Path], object], path: Path, limits: Limits, sending: int
) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + limits.addresses, now + limits.addresses))
    for content in contents:
        if content is not None:
            path.write_bytes(content)
        kind, said, began = "read", "", time.monotonic()

        def reading() -> None:
            nonlocal kind, said
            kind, said = attempt(read, path)

        peak = peak_during(reading, "cpu") or 0
        if peak > limits.resident:
            kind, said = "killed", f"it takes {peak / _GIB:.1f} GiB ({kind}: {said})"
        text = " ".join(said.split())[:400]
        os.write(sending, f"{kind}\t{time.monotonic() - began:.4f}\t{peak}\t{text}\n".encode())


def attempt(read: Callable[[Path], object], path: Path) -> tuple[str, str]:
    """What comes of reading, and the words of the error."""
    try:
        read(path)
    except (PplvaeError, PplvaeWarning) as error:
        said = str(error)
        return ("refused" if len(said) >= _SHORTEST else "raw"), said
    except BaseException as error:
        where = traceback.extract_tb(error.__traceback__)
        ours = [f"{Path(frame.filename).name}:{frame.lineno}" for frame in where if "pplvae" in frame.filename]
        return "raw", f"{type(error).__name__}: {error} (at {ours[-1] if ours else '?'})"
    return "read", ""
