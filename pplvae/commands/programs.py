"""A pair of programs out of a file: by the name of a class, of an object that has both, or of the two."""

from types import SimpleNamespace
from typing import Any

from pplvae.commands.spec import attribute_of, built, made
from pplvae.data import Data, load_data
from pplvae.models import MODELS

_PARTS = ("model", "guide")


def loaded(program: str, latent: int, data: str, of_data: dict[str, Any], seed: int) -> tuple[Any, Data]:
    """A pair, and its rows.

    Args:
        program: a model that is shipped, or a file with a name in it, two names by a comma, or none: then its `model`
            and `guide`.
        latent: dimension of h, for a class that takes it.
        data: as `load_data` takes it.
        of_data: options of `load_data`.
        seed: of weights, and of the split.

    Raises:
        ProgramError: no such file, or an object without both programs.
        UnknownNameError: no such name in it.
    """
    spec = {"model": program, "latent": latent, "data": data, **of_data}
    if program in MODELS:
        rows, pair = made(spec, seed)
        return pair, rows
    file, _, names = program.rpartition(":") if ".py:" in program else (program, "", "")
    found = [attribute_of(f"{file}:{name.strip()}") for name in _names(names)] if file.endswith(".py") else []
    if len(found) == len(_PARTS):
        return SimpleNamespace(**dict(zip(_PARTS, found, strict=True))), load_data(data, seed=seed, **of_data)
    one = found[0] if found else attribute_of(program)
    if all(hasattr(one, part) for part in _PARTS) and not isinstance(one, type):
        return one, load_data(data, seed=seed, **of_data)
    rows = load_data(data, seed=seed, **of_data)
    return built(one, spec, rows, seed), rows


def _names(given: str) -> list[str]:
    return given.split(",") if given else [*_PARTS]
