"""A fit as a command asks for it: rows and program made, fitted into a run folder, and how it ended."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pplvae.commands.declaring import INTERRUPTED, NONFINITE, Found, Interrupted
from pplvae.commands.saying import Voice
from pplvae.commands.spec import Spec, made, settled
from pplvae.commands.words import going_on

_UNFINISHED = {"NONFINITE": NONFINITE, "INTERRUPTED": INTERRUPTED}  # by the name of the fit's status


def fitted(
    work: Callable[[], Any], voice: Voice, run: Path, spec: Spec, options: dict[str, Any], words: list[str]
) -> Found:
    """Make what a spec asks for and fit it; Ctrl-C ends in the command that goes on.

    Args:
        work: imports what the verbs do, once rows and program have been made.
        voice: that says what there is to say.
        run: the folder.
        spec: what is asked for.
        options: of `pplvae.fit`.
        words: of the command.

    Raises:
        Interrupted: by Ctrl-C.
    """
    try:
        data, program = made(spec, options["seed"])
        status, found = work().fit_to(
            voice, run, settled(spec, data), data, program, options, going_on(words, resume=True)
        )
    except KeyboardInterrupt:
        begun = options["existing"] == "refuse" and work().has_begun(run)
        raise Interrupted(going_on(words, resume=begun)) from None
    return _UNFINISHED.get(status, 0), found
