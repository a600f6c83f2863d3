"""From the public files of a data set to the archive that `load_data` reads.

`python -m pplvae.data.convert NAME FILE ...`. Where the files come from is said by `load_data` while the archive is
missing. The archive has the checksum that is known for it, which is of its arrays.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from pplvae.data.download import cache_folder, digest_of_arrays
from pplvae.data.registry import CONVERSIONS, DATA_SETS
from pplvae.errors import DataError, PplvaeError
from pplvae.store import write_whole


def convert(name: str, files: Sequence[Path], folder: Path) -> Path:
    """Write the archive of a data set.

    Args:
        name: one of `CONVERSIONS`.
        files: its public files, in the order of `CONVERSIONS`.
        folder: of all data sets; the archive goes into the one of this name.

    Returns:
        Path of the archive.

    Raises:
        DataError: another number of files, or content that is not that of the public files.
    """
    conversion, wanted = CONVERSIONS[name], DATA_SETS[name].sources[0].files[0]
    if len(files) != len(conversion.files):
        raise DataError(f"{name!r} is made from {', '.join(conversion.files)}, in this order; got {len(files)} files.")
    arrays = conversion.arrays(files)
    found = digest_of_arrays(arrays)
    if found != wanted.sha256:
        raise DataError(
            f"The arrays made from {', '.join(str(path) for path in files)} have the SHA-256 {found}, expected "
            f"{wanted.sha256}: these are not the public files, or not in the order {', '.join(conversion.files)}."
        )

    def write(path: Path) -> None:
        with path.open("wb") as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]

    return write_whole(folder / name / wanted.name, write)


def main() -> None:
    """Convert what the command line names."""
    parser = argparse.ArgumentParser(prog="python -m pplvae.data.convert", description=__doc__)
    parser.add_argument("name", choices=list(CONVERSIONS))
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE")
    parser.add_argument("--folder", type=Path, help="by default the cache folder of `load_data`")
    asked = parser.parse_args()
    try:
        print(convert(asked.name, asked.files, asked.folder or cache_folder()))
    except (PplvaeError, OSError) as error:
        parser.exit(1, f"{error}\n")


if __name__ == "__main__":
    main()
