"""Files, written whole or not at all: tensors in safetensors, tables in netCDF, the rest in JSON; no pickle."""

import json
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import safetensors
import torch
import xarray as xr
from safetensors.torch import save_file
from torch import Tensor

from pplvae._version import __version__
from pplvae.errors import StoreError
from pplvae.netcdf import digest_of, read_back, written_out
from pplvae.seal import checksum, digest_of_file, seal, unbroken

FORMAT = 1  # of every file; raised when older files can no longer be read
# What a run folder holds.
RUN, WEIGHTS, HISTORY, CHECKPOINT = "run.json", "weights.safetensors", "history.nc", "checkpoint.safetensors"


def write_whole(path: Path, write: Callable[[Path], None]) -> Path:
    """Write beside the target and move it there, so that nobody ever sees half a file.

    Raises:
        StoreError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise _unwritable(path, error) from error
    os.close(descriptor)
    try:
        write(Path(name))
        Path(name).chmod(0o644)  # mkstemp makes it private
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise _unwritable(path, error) from error
        raise
    return path


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file with the format's number."""
    text = json.dumps({"format": FORMAT, "pplvae": __version__, **content}, indent=2, allow_nan=True)
    return write_whole(path, lambda temporary: _write_text(temporary, text + "\n"))


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    _check_exists(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise _damaged(path, error) from error
    if not isinstance(content, dict):
        raise _damaged(path, "not a JSON object")
    _check_format(path, content.get("format"))
    return content


def check_kinds(path: Path, content: Mapping[str, Any], kinds: Mapping[str, Any]) -> None:
    """Look at what a JSON file holds, which anybody may have written.

    Raises:
        StoreError: an entry is missing or of another kind.
    """
    for name, kind in kinds.items():
        if not isinstance(content.get(name), kind) or (kind is int and content[name] < 0):
            raise _damaged(path, f"its {name!r} is {content.get(name)!r}")


def read_record(folder: Path) -> dict[str, Any]:
    """Read what a fit has written about itself.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    content = {"settings": {}, "files": {}} | read_json(folder / RUN)
    check_kinds(folder / RUN, content, {"settings": dict, "files": dict, "status": str})
    return content


def write_text(path: Path, text: str) -> Path:
    """Write a text file."""
    return write_whole(path, lambda temporary: _write_text(temporary, text))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any] | None = None) -> Path:
    """Write tensors, and JSON content beside them in the same file, so that both are of one moment."""
    # safetensors refuses tensors that share memory; each is written out on its own.
    apart = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    header = {"format": str(FORMAT), "content": json.dumps(content or {}), "checksum": checksum(apart)}
    return write_whole(path, lambda temporary: save_file(apart, temporary, metadata=header))


def read_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    _check_exists(path)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        content, form = json.loads(header.get("content", "{}")), int(header.get("format", -1))
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    _check_format(path, form)
    if header.get("checksum", checksum(tensors)) != checksum(tensors):
        raise _damaged(path, "its numbers are not those that were written")
    return tensors, content


def write_datasets(path: Path, kind: str, groups: Mapping[str, xr.Dataset]) -> Path:
    """Write xarray datasets as the groups of one netCDF file.

    Raises:
        StoreError: they hold what such a file cannot, such as text with a NUL character.
    """
    written = {name: written_out(path, dataset) for name, dataset in groups.items()}

    def write(temporary: Path) -> None:
        about = {"format": FORMAT, "kind": kind, "pplvae": __version__, "groups": json.dumps(list(groups))}
        root = xr.Dataset(attrs=about | {"digest": digest_of(written)})
        root.to_netcdf(temporary, engine="h5netcdf")
        for name, dataset in written.items():
            dataset.to_netcdf(temporary, engine="h5netcdf", group=name, mode="a")
        seal(temporary)

    try:
        return write_whole(path, write)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{str(path)!r} cannot be written: {error}") from error


def open_datasets(path: Path, kind: str) -> dict[str, xr.Dataset]:
    """Read what `write_datasets` wrote, into memory.

    Raises:
        StoreError: missing, damaged, of another kind or format.
    """
    _check_exists(path)
    if not unbroken(path):
        raise _damaged(path, "its content is not what was written")
    try:
        with xr.open_dataset(path, engine="h5netcdf") as root:
            attributes = dict(root.attrs)
        if attributes.get("kind") != kind:
            raise StoreError(f"{str(path)!r} holds no {kind} of pplvae (its kind is {attributes.get('kind')!r}).")
        _check_format(path, int(attributes["format"]))
        groups: dict[str, xr.Dataset] = {}
        for name in json.loads(attributes["groups"]):
            with xr.open_dataset(path, engine="h5netcdf", group=name) as dataset:
                groups[name] = dataset.load()
        if attributes.get("digest", digest_of(groups)) != digest_of(groups):  # files of earlier versions have none
            raise ValueError("its content is not what was written")
        groups = {name: read_back(dataset) for name, dataset in groups.items()}
    except StoreError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, error) from error
    return groups


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
        raise _unwritable(folder, error) from error
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
        _check_exists(folder / name)
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


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise StoreError(f"There is no file {str(path)!r}.")


def _check_format(path: Path, found: Any) -> None:
    if found != FORMAT:
        raise StoreError(
            f"{str(path)!r} has format {found!r}, but this version of pplvae ({__version__}) reads format {FORMAT}. "
            "Use the version that wrote it, or make it again."
        )


def _unwritable(path: Path, error: OSError) -> StoreError:
    return StoreError(f"{str(path)!r} cannot be written: {error.strerror or error}. Choose another place.")


def _damaged(path: Path, reason: Any) -> StoreError:
    return StoreError(f"{str(path)!r} is damaged ({reason}). Restore it from a copy, or make it again.")
