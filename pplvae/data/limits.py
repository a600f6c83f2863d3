"""What a file may be and how much it may hold: a few kB can be packed so that they fill any memory."""

import math
import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pplvae.errors import DataError

_MIB = 1 << 20
_COPIES = 1.3  # of all rows, while they are put into their parts
_OF_A_CONTAINER = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class Limit:
    """The most that a packed file may hold: so many times its own size, and always so many bytes."""

    times: int
    always: int

    def most(self, path: Path) -> int:
        """Bytes that may come out of a file."""
        return max(self.always, self.times * size_of(path))

    def check(self, path: Path, size: int, cure: str) -> None:
        """Refuse a file that holds more.

        Args:
            path: of the file.
            size: bytes that come out of it, as far as is known before they do.
            cure: what to do if the file is trusted.

        Raises:
            DataError: it holds more.
        """
        if size > self.most(path):
            raise DataError(
                f"{str(path)!r} has {size_of(path)} bytes and would take {size / _MIB:.0f} MiB or more in "
                f"memory, above the {self.most(path) / _MIB:.0f} MiB that a file of its size may: so looks what is "
                f"made to fill a memory. If you know where it comes from, {cure}."
            )


ARRAYS = Limit(200, 256 * _MIB)
SPARSE = Limit(2000, 256 * _MIB)  # made dense
TEXT = Limit(50, 64 * _MIB)  # whose lines and fields take several times its size


def size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    if not path.is_dir():
        return path.stat().st_size
    return sum(file.lstat().st_size for file in path.rglob("*") if not file.is_symlink())


def check_fits(shape: Sequence[int], bytes_each: int, called: str) -> None:
    """Refuse to make dense what does not fit into the machine.

    Args:
        shape: of the dense numbers.
        bytes_each: of a number.
        called: what messages call it.

    Raises:
        DataError: it does not fit.
    """
    size, memory = int(_COPIES * math.prod(shape) * bytes_each), memory_of_machine()
    if size > memory:
        by = "×".join(map(str, shape))
        raise DataError(
            f"{called} is sparse, and dense it would not fit into memory: its {by} numbers would take "
            f"{size / 2**30:.1f} GiB, and the machine has {memory / 2**30:.1f}. Pass fewer rows or columns."
        )


def memory_of_machine() -> int:
    """Bytes of main memory that the machine has, or the container that the process is in."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")] if hasattr(os, "sysconf") else [4 * 2**30]
    for path in map(Path, _OF_A_CONTAINER):
        if path.exists() and path.read_text().strip().isdigit():
            found.append(int(path.read_text()))
    return min(found)


def check_is_file(path: Path) -> None:
    """Refuse what is no file with content: a folder, or a pipe or device, whose reading may never end.

    Raises:
        DataError: it is none.
    """
    if not os.path.exists(path):  # unlike `Path.exists`, also for names that the system does not take
        raise DataError(f"There is no file {str(path)!r} (looked from {str(Path.cwd())!r}).")
    status = path.stat()
    if stat.S_ISREG(status.st_mode) and status.st_size > 0:
        return
    kind = "empty" if stat.S_ISREG(status.st_mode) else "a folder" if path.is_dir() else "a pipe or a device"
    raise DataError(f"{str(path)!r} is {kind}; expected a file with rows in it.")
