"""A run folder: what a fit was asked for, its state, and what came of it; opened before anything is computed.

Whenever a process dies, the folder holds the state before or after, never a mixture: a result takes its place as
`run.json` is written, and an earlier run loses its own as the first checkpoint of another is.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from pplvae.errors import StoreError
from pplvae.holding import Held, holding
from pplvae.seal import digest_of_file
from pplvae.store import (
    check_exists,
    check_kinds,
    read_beside_tensors,
    read_json,
    unwritable,
    write_json,
    write_tensors,
)

# What it holds.
RUN, WEIGHTS, HISTORY, CHECKPOINT = "run.json", "weights.safetensors", "history.nc", "checkpoint.safetensors"
COMMAND = "command.json"  # of runs of the command line


@dataclass(frozen=True)
class Identity:
    """Which run a record or a checkpoint belongs to.

    Attributes:
        name: of the run, which no other has.
        replaces: the run whose place it takes.
        command: a digest of what was asked for on the command line; None for a run of Python.
    """

    name: str
    replaces: str | None = None
    command: str | None = None

    @classmethod
    def new(cls, folder: Path, *, replacing: bool) -> "Identity":
        """Of a run that begins in a folder; `replacing` an earlier one, if there is one."""
        earlier = _recorded(folder) or _checkpointed(folder)
        command = waiting(folder, COMMAND) if replacing and written(folder) else folder / COMMAND
        return cls(secrets.token_hex(8), earlier and earlier.name, _asked(command))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> "Identity":
        """As a file has it; without a name in those of earlier versions."""
        return cls(**content.get("identity", {"name": ""}))

    def settings(self) -> dict[str, Any]:
        """For a file."""
        return {"identity": asdict(self)}


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a fit has written about itself.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    _settle(folder)
    content = {"settings": {}, "files": {}} | read_json(folder / RUN)
    check_kinds(folder / RUN, content, {"settings": dict, "files": dict, "status": str})
    return content


@contextmanager
def open_run(folder: Path, existing: str) -> Iterator["RunFolder"]:
    """Hold a run folder, and look at it before anything is computed.

    Raises:
        StoreError: it is a file or cannot be written, or holds a run and `existing` is "refuse"; another process writes
            to it; to resume, its checkpoint is that of another run.
    """
    if existing not in ("refuse", "resume", "overwrite"):
        raise ValueError(f"`existing` must be 'refuse', 'resume' or 'overwrite', got {existing!r}.")
    _check_writable(folder)
    with holding(folder) as held:
        _recover(folder)
        if existing == "refuse" and written(folder):
            raise StoreError(
                f"{str(folder)!r} already holds a run. Go on with it (`existing='resume'`), replace it "
                "(`existing='overwrite'`), or choose another folder."
            )
        if existing == "resume":
            _check_checkpoint(folder)
        yield RunFolder(held, replacing=existing == "overwrite")


class RunFolder:
    """A run folder while a fit writes to it.

    Args:
        held: the folder.
        replacing: whether an earlier run in it is to be replaced.

    Attributes:
        path: of the folder.
        checkpoint: in it; that of an earlier run until a new one is kept.
    """

    def __init__(self, held: Held, *, replacing: bool) -> None:
        self.path, self.checkpoint = held.folder, held.folder / CHECKPOINT
        self._held, self._identity = held, Identity.new(held.folder, replacing=replacing)
        self._takes_a_place = self._identity.replaces is not None

    def take_up(self) -> None:
        """Go on as the run that the checkpoint is of."""
        self._identity, self._takes_a_place = _checkpointed(self.path) or self._identity, False

    def keep(self, tensors: Mapping[str, Tensor], content: Mapping[str, Any]) -> None:
        """Write a checkpoint.

        Raises:
            StoreError: it cannot be written, or the folder is not there any more.
        """
        self._held.check()
        write_tensors(self.checkpoint, tensors, {**content, **self._identity.settings()})
        if self._takes_a_place:
            _recover(self.path)
        self._takes_a_place = False

    def publish(self, record: Mapping[str, Any], writes: Mapping[str, Callable[[Path], Any]]) -> None:
        """Put a result in place, all of its files or none.

        They are written beside their places; the record with their digests is what makes them the result. A process
        that dies before they are in their places leaves that to the next that reads them.

        Args:
            record: what the fit says about itself.
            writes: by name, what writes a file.

        Raises:
            StoreError: as for `keep`.
        """
        self._held.check()
        for name, write in writes.items():
            write(waiting(self.path, name))
        files = {name: digest_of_file(waiting(self.path, name)) for name in writes}
        files |= {COMMAND: self._identity.command} if self._identity.command else {}
        write_json(self.path / RUN, {**record, **self._identity.settings(), "files": files})
        _recover(self.path)


def _check_writable(folder: Path) -> None:
    try:
        nearest = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    except OSError as error:  # a name that is too long
        raise unwritable(folder, error) from error
    if not nearest.is_dir():
        what = "is" if nearest == folder else f"would lie below {str(nearest)!r}, which is"
        raise StoreError(f"The run folder {str(folder)!r} {what} a file; choose another name.")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise StoreError(f"The run folder {str(folder)!r} cannot be written: {str(nearest)!r} is read-only for you.")


def _settle(folder: Path) -> None:
    """Put the files of a result where they belong, if that is still to be done."""
    with suppress(StoreError):  # which whoever reads the record will meet
        found = read_json(folder / RUN).get("files")
        files = found if isinstance(found, dict) else {}
        for name in (WEIGHTS, HISTORY, COMMAND):  # and no other that it may name
            digest = files.get(name)
            if digest is not None and _digest(folder / name) != digest == _digest(waiting(folder, name)):
                with suppress(FileNotFoundError):  # somebody else has done so
                    os.replace(waiting(folder, name), folder / name)


def _recover(folder: Path) -> None:
    """Finish what a process that has died was doing; only for who holds the folder."""
    _settle(folder)
    for name in (WEIGHTS, HISTORY):
        waiting(folder, name).unlink(missing_ok=True)
    ended, going = _recorded(folder), _checkpointed(folder)
    if ended and going and going.replaces == ended.name:
        _replace_result(folder, going)
    elif ended and going and ended.replaces == going.name:
        (folder / CHECKPOINT).unlink()
    elif going and not ended:
        _put_command(folder, going)


def _replace_result(folder: Path, identity: Identity) -> None:
    """Remove the result of a run whose place another has taken with its first checkpoint; the record goes first."""
    for name in (RUN, WEIGHTS, HISTORY):
        (folder / name).unlink(missing_ok=True)
    _put_command(folder, identity)


def _put_command(folder: Path, identity: Identity) -> None:
    if identity.command is None and identity.name:
        (folder / COMMAND).unlink(missing_ok=True)
    elif identity.command is not None and _asked(waiting(folder, COMMAND)) == identity.command:
        os.replace(waiting(folder, COMMAND), folder / COMMAND)


def waiting(folder: Path, name: str) -> Path:
    """Where a file waits to take its place."""
    return folder / f".{name}.next"


def _digest(path: Path) -> str | None:
    if COMMAND in path.name:
        return _asked(path)
    return digest_of_file(path) if path.exists() else None


def _asked(command: Path) -> str | None:
    """A digest of what a command asked for; without where the data lie, since their file may move."""
    with suppress(StoreError):
        spec = {name: value for name, value in read_spec(command).items() if name != "data" and value is not None}
        return hashlib.sha256(json.dumps(spec, sort_keys=True).encode()).hexdigest()
    return None


def _recorded(folder: Path) -> Identity | None:
    with suppress(StoreError, TypeError):  # damaged, which whoever reads it will meet
        return Identity.of(read_json(folder / RUN))
    return None


def _checkpointed(folder: Path) -> Identity | None:
    with suppress(StoreError, TypeError):
        return Identity.of(read_beside_tensors(folder / CHECKPOINT))
    return None


def check_files(folder: Path, record: Mapping[str, Any]) -> None:
    """Look at the files of a run before a library does: on damaged ones it may never return.

    Args:
        folder: of the run.
        record: see `read_record`.

    Raises:
        StoreError: a file is missing, damaged, or that of another run.
    """
    for name, digest in record["files"].items():
        check_exists(folder / name)
        if _digest(folder / name) != digest:
            raise _foreign(folder / name)
    if (folder / CHECKPOINT).exists():
        read_beside_tensors(folder / CHECKPOINT)
    _check_checkpoint(folder)


def _check_checkpoint(folder: Path) -> None:
    ended, going = _recorded(folder), _checkpointed(folder)
    if ended and going and ended.name != going.name and ended.name != going.replaces:
        raise _foreign(folder / CHECKPOINT)


def _foreign(path: Path) -> StoreError:
    return StoreError(
        f"{str(path)!r} is not the file that this run has written: it is damaged, or belongs to another run. Restore "
        "it from a copy, or fit again."
    )


def written(folder: Path) -> dict[Path, int]:
    """The files of a fit that are there, and when they were written."""
    return {path: path.stat().st_mtime_ns for path in run_files(folder) if path.exists()}


def run_files(folder: Path) -> list[Path]:
    """The files that a fit writes into its run folder."""
    return [folder / name for name in (CHECKPOINT, WEIGHTS, HISTORY, RUN)]


def read_spec(path: Path) -> dict[str, Any]:
    """Read what a run was asked for on the command line.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    spec = read_json(path).get("spec")
    if not isinstance(spec, dict):
        raise StoreError(f"{str(path)!r} is damaged: it has no `spec`.")
    return spec
