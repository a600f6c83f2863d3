"""The text of a file, whatever packs and encodes it."""

import bz2
import gzip
import io
import lzma
import re
import zlib
from pathlib import Path

from pplvae.data.limits import TEXT
from pplvae.errors import DataError

_NO_TEXT = re.compile("[\x00-\x06\x08\x0e-\x1a\x1c-\x1f]")  # controls that no terminal or spreadsheet writes
_PACKED = {
    b"\x1f\x8b": ("gzip", gzip.open),
    b"BZh": ("bzip2", bz2.open),
    b"\xfd7zXZ": ("xz", lzma.open),
}
_MARKS = {b"\xef\xbb\xbf": "utf-8-sig", b"\xff\xfe": "utf-16", b"\xfe\xff": "utf-16"}


def text_of(path: Path) -> tuple[str, list[str]]:
    """The lines of a text file, apart by newlines alone, and what had to be done to read them.

    Raises:
        DataError: it cannot be read, is damaged, or no text.
    """
    content, done = _unpacked(path)
    mark = next((mark for mark in _MARKS if content.startswith(mark)), b"")
    try:
        text = content.decode(_MARKS.get(mark, "utf-8"))
    except UnicodeDecodeError:
        text = content.decode("latin-1")
        done.append("letters of latin-1")
    odd = _NO_TEXT.search(text)
    if odd is not None:
        raise DataError(
            f"{str(path)!r} is not a text file: it holds the byte {ord(odd[0])}. Save it as text, a row a line, "
            "with commas between fields."
        )
    return text.replace("\r\n", "\n").replace("\r", "\n"), done


def _unpacked(path: Path) -> tuple[bytes, list[str]]:
    """The content, by what it begins with: the file's name may say something else."""
    try:
        content = path.read_bytes()
        for start, (kind, unpack) in _PACKED.items():
            if content.startswith(start):
                with unpack(io.BytesIO(content)) as file:
                    unpacked = file.read(TEXT.most(path) + 1)
                TEXT.check(path, len(unpacked), f"unpack it ({kind})")
                return unpacked, [f"unpacked from {kind}"]
    except DataError:
        raise
    except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
        raise DataError(f"{str(path)!r} cannot be read: {error}. Restore it from a copy.") from error
    if content.startswith(b"PK\x03\x04"):
        raise DataError(f"{str(path)!r} is a zip archive (so are spreadsheets). Unpack it, or save the sheet as .csv.")
    return content, []
