"""The command line's application, and what its verbs share."""

from typing import Any

import typer

from pplvae.commands.declaring import STATUSES, Verbs
from pplvae.commands.options import Takes
from pplvae.commands.spec import OF_DATA, portable_model
from pplvae.objectives import OBJECTIVES

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row.\n\n"
    f"Start with [bold]pplvae demo[/bold]. {STATUSES}",
)

FIT = Takes("training.fitting", "fit", without=("train",), words={"objective": f"One of {', '.join(OBJECTIVES)}."})
ROWS = Takes("data.load", "load_data", only=OF_DATA)


def work() -> Any:
    """What the verbs do; imported once options have been read: help and typos do not wait for it."""
    from pplvae.commands import verbs

    return verbs


def named(model: str | None) -> str | None:
    """A model as the user names it now, if it is named."""
    return None if model is None else portable_model(model)
