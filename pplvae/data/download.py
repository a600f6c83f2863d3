"""Files of named data sets: in the cache, checked against their SHA-256, or downloaded into it."""

import hashlib
import os
import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pplvae.data.table import Table
from pplvae.errors import DataError

FOLDER = "PPLVAE_DATA"  # the environment variable


@dataclass(frozen=True)
class File:
    """One file.

    Attributes:
        name: in the cache.
        sha256: of its bytes or, without an address, of the arrays in it: of an archive that anybody can make again,
            the bytes hang on the time and the compressor.
        urls: addresses with these very bytes.
    """

    name: str
    sha256: str
    urls: tuple[str, ...] = ()


@dataclass(frozen=True)
class Source:
    """Files that hold a data set together, and the reader that takes their paths and the kind of labels."""

    files: tuple[File, ...]
    read: Callable[[Sequence[Path], str | None], Table]


def cache_folder() -> Path:
    """`$PPLVAE_DATA`, or else the user's cache folder of this operating system; a folder for each data set inside.

    Raises:
        DataError: no such variable, and no pooch, which knows the user's cache folder.
    """
    given = os.environ.get(FOLDER)
    if given:
        return Path(given).expanduser()
    return Path(_pooch(f"name a folder with its files by the environment variable {FOLDER}").os_cache("pplvae"))


def obtain(name: str, sources: Sequence[Source], about: str) -> tuple[Source, list[Path]]:
    """The files of a data set, each with the right checksum.

    Args:
        name: of the data set, and of its folder in the cache.
        sources: in order of preference; the first one that lies in the cache is taken, else the first one that can be
            downloaded.
        about: what the data set is and where it comes from, for messages.

    Raises:
        DataError: a file has another checksum, cannot be downloaded, or has to be put into the cache by hand.
    """
    if not sources[0].files:  # bundled
        return sources[0], []
    folder = cache_folder() / name

    def lies(file: File) -> bool:
        return (folder / file.name).is_file()

    cached = [source for source in sources if all(map(lies, source.files))]
    public = [source for source in sources if all(lies(file) or file.urls for file in source.files)]
    if not cached and not public:
        missing = [str(folder / file.name) for file in sources[0].files if not lies(file) and not file.urls]
        raise DataError(
            f"{name!r} cannot be downloaded: its file is a conversion without a public address. Make it from the "
            f"public files by `python -m pplvae.data.convert {name} FILE ...` (`--help` says more), or put a copy at "
            f"{', '.join(map(repr, missing))}, or name the folder that has {name!r} in it by the environment variable "
            f"{FOLDER}. About it: {about}"
        )
    chosen = (cached or public)[0]
    for file in chosen.files:
        if lies(file):
            _check(folder / file.name, file)
        else:
            _download(folder / file.name, file)
    return chosen, [folder / file.name for file in chosen.files]


def digest_of_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of names, types, shapes and content of arrays, the same on every machine."""
    found = hashlib.sha256()
    for name in sorted(arrays):
        values = np.ascontiguousarray(arrays[name], arrays[name].dtype.newbyteorder("<"))
        found.update(repr((name, values.dtype.kind, values.dtype.itemsize, values.shape)).encode())
        found.update(values.tobytes())
    return found.hexdigest()


def _digest_of(path: Path, file: File) -> str:
    if not file.urls:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return digest_of_arrays({name: archive[name] for name in archive.files})
        except (ValueError, AttributeError, EOFError, zipfile.BadZipFile):
            pass  # no archive of arrays: the digest of whatever it is differs too
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def _check(path: Path, file: File) -> None:
    found = _digest_of(path, file)
    if found != file.sha256:
        raise DataError(
            f"{str(path)!r} is damaged, or another version: its SHA-256 is {found}, expected {file.sha256}. Delete it"
            f"{' (it will be downloaded again)' if file.urls else ''} or replace it."
        )


def _download(path: Path, file: File) -> None:
    by_hand = f"put a copy at {str(path)!r} (SHA-256 {file.sha256}; the environment variable {FOLDER} names the folder)"
    pooch = _pooch(by_hand)
    failures: list[Exception] = []
    downloader = pooch.HTTPDownloader(stream=False)  # a stream stays open when the server answers with an error
    for url in file.urls:
        try:
            pooch.retrieve(url, f"sha256:{file.sha256}", path.name, path.parent, downloader=downloader)
            return
        except (OSError, ValueError) as error:  # no connection, a folder that is read-only; a wrong checksum
            failures.append(error)
    tried = "; ".join(f"{url} ({_short(error)})" for url, error in zip(file.urls, failures, strict=True))
    raise DataError(f"{file.name!r} could not be downloaded. Tried {tried}. Offline, {by_hand}.") from failures[-1]


def _pooch(otherwise: str) -> Any:
    """The downloader, imported when it is needed: what lies in a folder that is named works without it."""
    try:
        import pooch
    except ImportError as error:
        raise DataError(f"Downloading data sets needs pooch: `pip install 'pplvae[data]'`. Or {otherwise}.") from error
    return pooch


def _short(error: Exception, most: int = 200) -> str:
    words = f"{type(error).__name__}: {error}"
    return words if len(words) <= most else words[:most] + " ..."
