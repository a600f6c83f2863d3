"""What a file was when it was written: looked at before a library opens it, which on damaged bytes may never return."""

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

_MARK = b"\npplvae sha256 "
_LENGTH = len(_MARK) + hashlib.sha256().digest_size


def seal(path: Path) -> None:
    """Add the digest of a file to its end, where readers of HDF5 do not look."""
    with path.open("ab") as file:
        file.write(_MARK + hashlib.sha256(path.read_bytes()).digest())


def unbroken(path: Path) -> bool:
    """Whether a file is as it was sealed; also one that never was, or that another tool has written anew."""
    content = path.read_bytes()
    end = content[-_LENGTH:]
    return not end.startswith(_MARK) or end == _MARK + hashlib.sha256(content[:-_LENGTH]).digest()


def digest_of_file(path: Path) -> str:
    """A name for the content of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def checksum(tensors: Mapping[str, Tensor], text: str) -> str:
    """Of all numbers, and of the text beside them: safetensors itself looks at names and shapes alone."""
    found = zlib.crc32(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].cpu()
        found = zlib.crc32(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode(), found)
        found = zlib.crc32(tensor.reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"
