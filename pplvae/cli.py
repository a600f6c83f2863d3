"""The command line. What its options are called, and what they say, is read from the Python functions behind them."""

import sys
import warnings
from typing import Any

import typer

from pplvae.commands import fitting, measuring, writing  # noqa: F401  (registers their verbs)
from pplvae.commands.app import app
from pplvae.commands.declaring import INTERRUPTED, STATUSES, TERMINATED, Version, in_words, is_early
from pplvae.commands.manual import manual_of
from pplvae.commands.saying import Voice
from pplvae.commands.words import going_on
from pplvae.errors import PplvaeWarning
from pplvae.isolate import ended_like_ctrl_c
from pplvae.ranks.group import of_torchrun


@app.command(hidden=True)
def manual() -> None:
    """Print docs/command_line.md."""
    print(manual_of(typer.main.get_command(app), STATUSES), end="")


@app.callback()
def _start(version: Version = False) -> None:
    """See the help of `app`."""


def main() -> None:
    """Run the command line."""
    with warnings.catch_warnings(), ended_like_ctrl_c() as asked_to_end:
        warnings.showwarning = _show_warning
        try:
            app()
        except (KeyboardInterrupt, SystemExit) as leaving:
            status = getattr(leaving, "code", 0)
            if is_early(leaving):
                status = TERMINATED if asked_to_end else INTERRUPTED
                Voice().problem(f"interrupted. Go on with `{going_on(sys.argv[1:], resume=False)}`.")
            sys.exit(status)


def _show_warning(message: Warning | str, category: type[Warning], *_where: Any) -> None:
    if of_torchrun()[0]:  # rank 0 says the same
        return
    said = f"{message if category is PplvaeWarning else f'{category.__name__}: {message}'}"
    Voice().problem(in_words(app, said), "yellow")
