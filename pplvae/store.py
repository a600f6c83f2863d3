"""Files, written whole or not at all: tensors in safetensors, tables in netCDF, the rest in JSON; no pickle."""

import json
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import safetensors
import torch
import xarray as xr
from safetensors.torch import save
from torch import Tensor

from pplvae import plain
from pplvae._version import __version__
from pplvae.errors import StoreError
from pplvae.netcdf import written_out
from pplvae.seal import checksum

# What a reader stumbles over in a file that somebody has damaged or made up.
_OF_DAMAGE = (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError, MemoryError)
_LARGEST_JSON = 16 << 20  # bytes
FORMAT = 1  # of every file; raised when older files can no longer be read
# What is being written has the process in its name, so that what a dead one has left can be told apart.
_UNFINISHED = re.compile(r"\..+\.pplvae-(\d+)-\w+(\.\w+)?")


def write_whole(path: Path, write: Callable[[Path], None]) -> Path:
    """Write beside the target and move it there, so that nobody ever sees half a file.

    Raises:
        StoreError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=_beside(path), suffix=path.suffix)
    except OSError as error:
        raise unwritable(path, error) from error
    os.close(descriptor)
    try:
        write(Path(name))
        Path(name).chmod(0o644)  # mkstemp makes it private
        _reach_the_disk(Path(name))
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise unwritable(path, error) from error
        raise
    return path


def write_folder_whole(path: Path, write: Callable[[Path], None]) -> Path:
    """Likewise for a folder, which takes the place of one that is there.

    Raises:
        StoreError: it cannot be written there.
    """
    try:
        temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=_beside(path)))
    except OSError as error:
        raise unwritable(path, error) from error
    try:
        write(temporary)
        temporary.chmod(0o755)  # mkdtemp makes it private
        if path.exists():
            shutil.rmtree(path)
        os.rename(temporary, path)
    except OSError as error:
        raise unwritable(path, error) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def _reach_the_disk(path: Path) -> None:
    """Wait until the disk holds the file: after a power cut, one that was moved into place would else be empty."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _beside(path: Path) -> str:
    return f".{path.name}.pplvae-{os.getpid()}-"


def sweep(folder: Path) -> None:
    """Remove what processes that have died were writing."""
    for path in folder.iterdir():
        found = _UNFINISHED.fullmatch(path.name)
        if found and not _is_alive(int(found[1])):
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def _is_alive(process: int) -> bool:
    if os.name == "nt":  # where to ask is to interrupt
        return True
    with suppress(PermissionError):  # somebody else's
        try:
            os.kill(process, 0)
        except (ProcessLookupError, OverflowError):
            return False
    return True


def write_json(path: Path, content: Mapping[str, Any]) -> Path:
    """Write a JSON file with the format's number."""
    text = json.dumps({"format": FORMAT, "pplvae": __version__, **content}, indent=2, allow_nan=True)
    return write_text(path, text + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """Read what `write_json` wrote.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    check_exists(path)
    try:
        if path.stat().st_size > _LARGEST_JSON:
            raise ValueError(f"{path.stat().st_size} bytes, where it has a few kB")
        content = json.loads(path.read_text(encoding="utf-8"))
    except _OF_DAMAGE as error:
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
        value: Any = content.get(name)
        if not isinstance(value, kind) or (kind is int and (value is True or not 0 <= value < 2**63)):
            raise _damaged(path, f"its {name!r} is {value!r}")


def write_text(path: Path, text: str) -> Path:
    """Write a text file."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> Path:
    """Write a file of any kind."""

    def write(temporary: Path) -> None:
        temporary.write_bytes(content)

    return write_whole(path, write)


def write_tensors(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any] | None = None) -> Path:
    """Write tensors, and JSON content beside them in the same file, so that both are of one moment."""
    # safetensors refuses tensors that share memory; each is written out on its own.
    apart = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    text = json.dumps(content or {})
    header = {"format": str(FORMAT), "content": text, "checksum": checksum(apart, text)}
    return write_bytes(path, save(apart, metadata=header))


def read_tensors(path: Path, device: torch.device | str = "cpu") -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read what `write_tensors` wrote.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    check_exists(path)
    try:
        with safetensors.safe_open(path, framework="pt", device=str(device)) as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}
        text, form = header.get("content", ""), int(header.get("format", -1))
        content = json.loads(text)
    except (safetensors.SafetensorError, *_OF_DAMAGE) as error:
        raise _damaged(path, error) from error
    _check_format(path, form)
    if header.get("checksum") != checksum(tensors, text):
        raise _damaged(path, "its numbers are not those that were written")
    return tensors, content


def read_beside_tensors(path: Path) -> dict[str, Any]:
    """The JSON content alone.

    Raises:
        StoreError: missing, damaged, or of another format.
    """
    check_exists(path)
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        form, content = int(header.get("format", -1)), json.loads(header.get("content", "{}"))
    except (safetensors.SafetensorError, *_OF_DAMAGE) as error:
        raise _damaged(path, error) from error
    _check_format(path, form)
    return content


def write_datasets(path: Path, kind: str, groups: Mapping[str, xr.Dataset]) -> Path:
    """Write xarray datasets as the groups of one netCDF file.

    Raises:
        StoreError: they hold what such a file cannot, such as text with a NUL character.
    """
    written = {name: written_out(path, dataset) for name, dataset in groups.items()}

    about = {"format": FORMAT, "kind": kind, "pplvae": __version__}

    def write(temporary: Path) -> None:
        root = xr.Dataset(attrs=about)
        # Where there is no room for a file, the HDF5 library would end the process: it writes to memory.
        temporary.write_bytes(xr.DataTree.from_dict({"/": root, **written}).to_netcdf(engine="h5netcdf"))
        plain.append(temporary, groups, about)

    try:
        return write_whole(path, write)
    except (ValueError, TypeError) as error:
        raise StoreError(f"{str(path)!r} cannot be written: {error}") from error


def open_datasets(path: Path, kind: str) -> dict[str, xr.Dataset]:
    """Read what `write_datasets` wrote, into memory; the netCDF in the file is for other tools, and is not looked at.

    Raises:
        StoreError: missing, damaged, of another kind or format, or written by another tool.
    """
    check_exists(path)
    try:
        if not plain.is_there(path):
            raise StoreError(
                f"{str(path)!r} is damaged, or another tool has written it: it does not end as the files of pplvae do. "
                "Restore it from a copy, or make it again. (xarray reads what there is: `xarray.open_datatree`.)"
            )
        about, numbers = plain.read(path)
        _check_format(path, about.get("format"))
        if about.get("kind") != kind:
            raise StoreError(f"{str(path)!r} holds no {kind} of pplvae (its kind is {about.get('kind')!r}).")
        return plain.datasets(about, numbers)
    except StoreError:
        raise
    except _OF_DAMAGE as error:
        raise _damaged(path, error) from error


def check_exists(path: Path) -> None:
    """Refuse what is not there, and what is no file: reading a pipe or a device may never end."""
    if not os.path.exists(path):  # unlike `Path.exists`, also for names that the system does not take
        raise StoreError(f"There is no file {str(path)!r}.")
    if not path.is_file():
        raise StoreError(f"{str(path)!r} is a folder, a pipe or a device; expected a file that pplvae has written.")


def _check_format(path: Path, found: Any) -> None:
    if found == FORMAT:
        return
    is_newer = isinstance(found, int) and found > FORMAT
    remedy = (
        "A newer version wrote it: update" if is_newer else "Load it with the version that wrote it, or make it again"
    )
    raise StoreError(
        f"{str(path)!r} has format {found!r}, but this version of pplvae ({__version__}) reads format {FORMAT}. "
        f"{remedy}."
    )


def unwritable(path: Path, error: OSError) -> StoreError:
    """What to raise where the system refuses to write."""
    return StoreError(f"{str(path)!r} cannot be written: {error.strerror or error}. Choose another place.")


def _damaged(path: Path, reason: Any) -> StoreError:
    return StoreError(f"{str(path)!r} is damaged ({reason}). Restore it from a copy, or make it again.")
