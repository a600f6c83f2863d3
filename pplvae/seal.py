"""What a file was when it was written, in a few letters that are kept in or beside it."""

import hashlib
import zlib
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor


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
