"""A draft of a program, written to a file that its user will edit."""

import shlex
from pathlib import Path
from typing import Any

from pplvae.commands.saying import Voice
from pplvae.data import DATA_SETS, load_data
from pplvae.drafting.draft import Draft, draft
from pplvae.errors import DataError, StoreError


def write_draft(
    voice: Voice, file: Path, data: str, reading: dict[str, Any], asked: dict[str, Any], *, force: bool
) -> dict[str, Any]:
    """Look at rows, and write a program for them; what there is to tell in JSON.

    Args:
        voice: that says what was seen, and what comes next.
        file: to be written.
        data: as `load_data` takes it.
        reading: options of `load_data`.
        asked: options of `draft`.
        force: whether a file that is there is written over.

    Raises:
        StoreError: a file that is there, or a folder that is not.
    """
    if file.exists() and not force:
        raise StoreError(f"{str(file)!r} is there. Choose another name, or add `--force` to write over it.")
    if not file.parent.is_dir():
        raise StoreError(f"There is no folder {str(file.parent)!r} to write {file.name!r} to.")
    told = {name: value for name, value in reading.items() if value not in (None, 1.0)}
    made = _draft(file, data, told, asked)
    file.write_text(made.text, encoding="utf-8")
    for reason in made.reasons:
        voice.line(f"- {reason}")
    voice.line(f"Written to {file}. Next:")
    program = shlex.quote(f"{file}:{made.name}")
    voice.line(f"  pplvae check {program} --data {shlex.quote(data)}{made.flags}")
    voice.line(f"  python {shlex.quote(str(file))}")
    return {
        "file": str(file),
        "class": made.name,
        "likelihoods": dict(made.likelihoods),
        "guide": made.guide,
        "latent": made.latent,
        "load_data": dict(made.reading),
        "reasons": list(made.reasons),
    }


def _draft(file: Path, data: str, told: dict[str, Any], asked: dict[str, Any]) -> Draft:
    """A draft of rows as they are; with a mask beside them, if values are missing and nobody said what to do."""
    try:
        rows = load_data(data, **told).train
    except DataError:
        if "missing" in told or data.replace("-", "_") in DATA_SETS:
            raise
        told = told | {"missing": "mask"}
        rows = load_data(data, **told).train
    return draft(rows, file, data, told, **asked)
