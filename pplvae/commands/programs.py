"""A pair of programs out of a file: by the name of a class, of an object that has both, or of the two."""

from types import SimpleNamespace
from typing import Any

from pplvae.commands.spec import attributes_of, built, made
from pplvae.data import Data, load_data
from pplvae.models import MODELS

_PARTS = ("model", "guide")


def loaded(program: str, latent: int | None, data: str, of_data: dict[str, Any], seed: int) -> tuple[Any, Data]:
    """A pair, and its rows.

    Args:
        program: a model that is shipped, or a file with a name in it, two names by a comma, or none, which stands for
            `model,guide`.
        latent: dimension of h, for a class that takes it; None for the class's own default.
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
    found = attributes_of(f"{program}:{','.join(_PARTS)}" if program.endswith(".py") else program)
    rows = load_data(data, seed=seed, **of_data)
    if len(found) == len(_PARTS):
        return SimpleNamespace(**dict(zip(_PARTS, found, strict=True))), rows
    is_pair = not isinstance(found[0], type) and all(hasattr(found[0], part) for part in _PARTS)
    return found[0] if is_pair else built(found[0], spec, rows, seed), rows
