"""Files, written whole or not at all: tensors in safetensors, tables in netCDF, the rest in JSON; no pickle."""

import json
import os
import tempfile
from collections.abc import Callable, Mapping
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
from pplvae.seal import checksum, seal, unbroken

FORMAT = 1  # of every file; raised when older files can no longer be read


def write_whole(path: Path, write: Callable[[Path], None]) -> Path:
    """Write beside the target and move it there, so that nobody ever sees half a file.

    Raises:
        StoreError: it cannot be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=path.suffix)
    except OSError as error:
        raise unwritable(path, error) from error
    os.close(descriptor)
    try:
        write(Path(name))
        Path(name).chmod(0o644)  # mkstemp makes it private
        os.replace(name, path)
    except BaseException as error:
        Path(name).unlink(missing_ok=True)
        if isinstance(error, OSError) and not isinstance(error, StoreError):
            raise unwritable(path, error) from error
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
    check_exists(path)
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


def write_text(path: Path, text: str) -> Path:
    """Write a text file."""
    return write_whole(path, lambda temporary: _write_text(temporary, text))


def write_tensors(path: Path, tensors: Mapping[str, Tensor], content: Mapping[str, Any] | None = None) -> Path:
    """Write tensors, and JSON content beside them in the same file, so that both are of one moment."""
    # safetensors refuses tensors that share memory; each is written out on its own.
    apart = {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in tensors.items()}
    text = json.dumps(content or {})
    header = {"format": str(FORMAT), "content": text, "checksum": checksum(apart, text)}
    return write_whole(path, lambda temporary: save_file(apart, temporary, metadata=header))


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
    except (safetensors.SafetensorError, ValueError, OSError) as error:
        raise _damaged(path, error) from error
    _check_format(path, form)
    if header.get("checksum") != checksum(tensors, text):
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
        xr.DataTree.from_dict({"/": root, **written}).to_netcdf(temporary, engine="h5netcdf")
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
    check_exists(path)
    if not unbroken(path):
        raise _damaged(path, "its content is not what was written")
    try:
        with xr.open_datatree(path, engine="h5netcdf") as tree:
            attributes = tree.attrs
            if attributes.get("kind") != kind:
                raise StoreError(f"{str(path)!r} holds no {kind} of pplvae (its kind is {attributes.get('kind')!r}).")
            _check_format(path, int(attributes["format"]))
            groups = {name: tree[name].to_dataset().load() for name in json.loads(attributes["groups"])}
        if attributes.get("digest", digest_of(groups)) != digest_of(groups):  # files of earlier versions have none
            raise ValueError("its content is not what was written")
        groups = {name: read_back(dataset) for name, dataset in groups.items()}
    except StoreError:
        raise
    except (OSError, KeyError, ValueError, RuntimeError, TypeError, AttributeError, IndexError) as error:
        raise _damaged(path, error) from error
    return groups


def _write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def check_exists(path: Path) -> None:
    """Refuse a file that is not there."""
    if not path.exists():
        raise StoreError(f"There is no file {str(path)!r}.")


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
