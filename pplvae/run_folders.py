"""A run folder: what a fit was asked for, its state, and what came of it; opened before anything is computed."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pplvae.errors import StoreError
from pplvae.seal import digest_of_file
from pplvae.store import check_exists, check_kinds, read_json, unwritable, write_json

# What it holds.
RUN, WEIGHTS, HISTORY, CHECKPOINT = "run.json", "weights.safetensors", "history.nc", "checkpoint.safetensors"


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a fit has written about itself.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    content = {"settings": {}, "files": {}} | read_json(folder / RUN)
    check_kinds(folder / RUN, content, {"settings": dict, "files": dict, "status": str})
    return content


def open_run(folder: Path, existing: str) -> Path:
    """Look at a run folder before anything is computed.

    Raises:
        StoreError: it is a file or cannot be written, or holds a run and `existing` is "refuse".
    """
    if existing not in ("refuse", "resume", "overwrite"):
        raise ValueError(f"`existing` must be 'refuse', 'resume' or 'overwrite', got {existing!r}.")
    _check_writable(folder)
    if existing == "refuse" and any(path.exists() for path in run_files(folder)):
        raise StoreError(
            f"{str(folder)!r} already holds a run. Go on with it (`existing='resume'`), replace it "
            "(`existing='overwrite'`), or choose another folder."
        )
    return folder


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


def digests_of(folder: Path) -> dict[str, str]:
    """What the weights and the history of a run were when they were written, to be kept beside them."""
    return {name: digest_of_file(folder / name) for name in (WEIGHTS, HISTORY)}


def check_digests(folder: Path, digests: Mapping[str, str]) -> None:
    """Look at the files of a run before a library does: on damaged ones it may never return.

    Raises:
        StoreError: a file is missing, damaged, or that of another run.
    """
    for name, digest in digests.items():
        check_exists(folder / name)
        if digest_of_file(folder / name) != digest:
            raise StoreError(
                f"{str(folder / name)!r} is not the file that this run has written: it is damaged, or belongs to "
                "another run. Restore it from a copy, or fit again."
            )


@contextmanager
def occupied(folder: Path, path: Path, spec: Mapping[str, Any], existing: str) -> Iterator[None]:
    """Write what a fit is asked for before it, since it may never return; if it is refused, leave things as they were.

    Args:
        folder: of the run.
        path: in it, for what the fit is asked for.
        spec: that.
        existing: as in `fit`.

    Raises:
        StoreError: see `open_run` and, to resume, `check_same_spec`.
    """
    open_run(folder, existing)
    if existing == "resume" and path.exists():
        check_same_spec(path, spec)
    earlier, before = path.read_bytes() if path.exists() else None, _written(folder)
    made = [parent for parent in (folder, *folder.parents) if not parent.exists()]
    write_json(path, {"spec": spec})
    try:
        yield
    except BaseException as error:
        # Interrupted at its start, a fit may be asked for again; a run that is there keeps what it was asked for.
        if _written(folder) == before and (before or isinstance(error, Exception)):
            path.unlink() if earlier is None else path.write_bytes(earlier)
            with suppress(OSError):  # somebody else may have put something there
                for parent in made:
                    parent.rmdir()
        raise


def _written(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in run_files(folder) if path.exists()}


def run_files(folder: Path) -> list[Path]:
    """The files that a fit writes into its run folder."""
    return [folder / name for name in (CHECKPOINT, WEIGHTS, HISTORY, RUN)]


def clear_run(folder: Path) -> None:
    """Remove a run that is about to be replaced."""
    for path in run_files(folder):
        path.unlink(missing_ok=True)


def read_spec(path: Path) -> dict[str, Any]:
    """Read what a run was asked for on the command line.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    spec = read_json(path).get("spec")
    if not isinstance(spec, dict):
        raise StoreError(f"{str(path)!r} is damaged: it has no `spec`.")
    return spec


def check_same_spec(path: Path, spec: Mapping[str, Any]) -> None:
    """Compare what a run was asked for with what it is asked for now; an option that a file lacks was None.

    Raises:
        StoreError: they differ, or the file cannot be read.
    """
    theirs = read_spec(path)
    # The rows themselves are compared by `fit`, so that their file may have moved.
    odd = [name for name in {**theirs, **spec} if name != "data" and theirs.get(name) != spec.get(name)]
    if odd:
        raise StoreError(
            f"{str(path)!r} asked for another fit, so going on would equal neither: "
            + ", ".join(f"{name} was {theirs.get(name)!r} and is {spec.get(name)!r}" for name in odd)
            + ". Use the same, or `existing='overwrite'`."
        )
