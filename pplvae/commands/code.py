"""Models of one's own: run if their user has named them, as they are and where they lie; not on a run folder's word."""

import hashlib
import os
import shlex
import warnings
from contextlib import suppress
from pathlib import Path

from pplvae.commands.spec import Spec, portable_model
from pplvae.errors import PplvaeWarning, StoreError
from pplvae.models import MODELS

DIGEST = "model_digest"  # in what a run folder keeps of its command
_FORCE = "or, if figures of the new one are wanted, add `--force`"


def code_file(model: str) -> Path | None:
    """The file of a model of one's own; None for one that is shipped, or that is no file."""
    path = Path(model.rpartition(":")[0])
    return path if ":" in model and model not in MODELS and path.is_file() else None


def named(spec: Spec) -> Spec:
    """Take note that a user has named a model and its file as it is; what is asked for, with a digest of the file."""
    path = code_file(spec["model"])
    if path is None:
        return spec
    digest = _digest(path)
    with suppress(OSError):  # a home that cannot be written: the file must be named each time
        _known().parent.mkdir(parents=True, exist_ok=True)
        with _known().open("a", encoding="utf-8") as file:
            file.write(_line(digest, spec["model"]))
    return spec | {DIGEST: digest}


def trusted(run: Path, spec: Spec, model: str | None, *, force: bool, command: str = "compare") -> Spec:
    """What a run was asked for, if its code may be run.

    Args:
        run: the folder, which may come from somebody else.
        spec: from that folder.
        model: the model as the user names it now, or None.
        force: run a file that has changed since the fit; to ask for that is to name it.
        command: that wants to run it.

    Raises:
        StoreError: a model that the user has never named, or not in this place, or whose file has changed.
    """
    if model is not None or force:
        return _named_anew(run, spec, spec["model"] if model is None else model, force=force)
    again = f"`pplvae {command} {shlex.quote(str(run))} --model {shlex.quote(spec['model'])}`"
    path = code_file(spec["model"])
    if path is None and ":" in spec["model"]:
        raise StoreError(
            f"The file of the model {spec['model']!r} is not there any more. Put it back, or name where it "
            f"is: {again}, with its new path."
        )
    if path is None:
        return spec
    now = spec | {DIGEST: _digest(path)}
    check_unchanged(run, spec, now, _FORCE)
    if _line(now[DIGEST], spec["model"]) not in _named():
        raise StoreError(
            f"{str(run)!r} asks to run the code in {str(path)!r}, which you have not named on this machine, as it is "
            f"and where it lies, for {spec['model'].rpartition(':')[2]!r}. If you trust it: {again}."
        )
    return spec


def _named_anew(run: Path, spec: Spec, model: str, *, force: bool) -> Spec:
    if model != spec["model"] and (model in MODELS or spec["model"] in MODELS):
        raise StoreError(f"{str(run)!r} was fitted with the model {spec['model']!r}, not with {model!r}.")
    found = spec | {"model": model}
    path = code_file(model)
    if not force:
        check_unchanged(run, spec, found | ({DIGEST: _digest(path)} if path else {}), _FORCE)
    found = named(found)
    if spec.get(DIGEST) is not None and found.get(DIGEST) != spec[DIGEST]:
        warnings.warn(
            f"{model} has changed since {str(run)!r} was fitted: the figures are those of the new model.",
            PplvaeWarning,
            stacklevel=3,
        )
    return found


def check_unchanged(run: Path, before: Spec, now: Spec, cure: str) -> None:
    """Refuse a model's file that is not what it was for the fit.

    Raises:
        StoreError: it has changed.
    """
    if before.get(DIGEST) is not None and before[DIGEST] != now.get(DIGEST):
        file = now["model"].rpartition(":")[0]
        raise StoreError(f"{file!r} has changed since {str(run)!r} was fitted. Put it back as it was, {cure}.")


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _line(digest: str, model: str) -> str:
    """What is noted of a model: the content of its file, where that lies, and which class of it is asked for."""
    return f"{digest} {portable_model(model)!a}\n"


def _known() -> Path:
    """Where models that this user has named are noted; beside the user's other programs' state."""
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local" / "state") / "pplvae" / "models_named"


def _named() -> list[str]:
    try:
        return _known().read_text(encoding="utf-8").splitlines(keepends=True)
    except (OSError, ValueError):
        return []
