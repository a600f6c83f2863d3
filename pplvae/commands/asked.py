"""What a command asked a fit for, kept in the run folder beside what came of it."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pplvae.errors import StoreError
from pplvae.run_folders import COMMAND, open_run, read_spec, waiting, written
from pplvae.store import write_bytes, write_json


@contextmanager
def occupied(folder: Path, spec: Mapping[str, Any], existing: str) -> Iterator[None]:
    """Write what a fit is asked for before it, since it may never return; if it is refused, leave things as they were.

    Args:
        folder: of the run.
        spec: what the fit is asked for.
        existing: as in `fit`.

    Raises:
        StoreError: see `open_run` and, to resume, `check_same_spec`.
    """
    with open_run(folder, existing):
        if existing == "resume" and (folder / COMMAND).exists():
            check_same_spec(folder / COMMAND, spec)
        before = written(folder)
        # The run that is there keeps its own until another takes its place.
        path = waiting(folder, COMMAND) if existing == "overwrite" and before else folder / COMMAND
        earlier = path.read_bytes() if path.exists() else None
        write_json(path, {"spec": spec})
        try:
            yield
        except BaseException as error:
            # Interrupted at its start, a fit may be asked for again; a run that is there keeps what it was asked for.
            if written(folder) == before and (before or isinstance(error, Exception)):
                with suppress(OSError):  # of a folder that is gone, say, which is what the error is about
                    path.unlink() if earlier is None else write_bytes(path, earlier)
            raise


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
