"""Verbs about programs, before anything is fitted: `new`, `check`, `verify-distributed` and `draw`."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pplvae.commands.app import ROWS, app, work
from pplvae.commands.declaring import (
    FOUND,
    Found,
    Latent,
    Program,
    Table,
    command_of,
)
from pplvae.commands.options import Takes
from pplvae.commands.programs import loaded
from pplvae.commands.saying import Voice
from pplvae.commands.spec import OF_DATA, portable_data, portable_model
from pplvae.drafting.latent import LATENT
from pplvae.drafting.observed import OBSERVED
from pplvae.models import MODELS
from pplvae.objectives import OBJECTIVES


@command_of(
    app,
    ROWS,
    examples=(
        "pplvae new my_model.py --data rows.csv",
        "pplvae new digits_model.py --data digits --guide full-covariance --latent 4",
    ),
)
def new(
    voice: Voice,
    file: Annotated[Path, typer.Argument(metavar="FILE.py", help="The file to write; its class is named after it.")],
    data: Table,
    likelihood: Annotated[
        str | None,
        typer.Option(help=f"p(v | h): {', '.join(OBSERVED)}; by default what suits the values of each column."),
    ] = None,
    guide: Annotated[str | None, typer.Option(help=f"q(h; λ(v)): {', '.join(LATENT)}.")] = None,
    latent: Annotated[
        int | None, typer.Option(min=1, help="Dimension of h; by default half the columns, or 8.")
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
    **options: Any,
) -> Found:
    """Look at rows, propose a model for them, and write it as a short Pyro program to edit.

    It says what the columns hold, and why it proposes what it does. The program passes `pplvae check`; run with Python,
    it fits itself and writes a report. Columns of several kinds have a likelihood each, if their names are known.
    """
    asked = {"likelihood": likelihood, "guide": guide, "latent": latent}
    return 0, work().write_draft(voice, file, data, options, asked, force=force)


@command_of(
    app,
    Takes("checking.check", "check"),
    ROWS,
    examples=(
        "pplvae check my_file.py:MyVAE --data rows.csv --standardise",
        "pplvae check my_file.py:my_model,my_guide --data rows.csv --objective IWAE --json",
    ),
)
def check(
    voice: Voice,
    program: Program,
    data: Table,
    latent: Latent = None,
    objective: Annotated[
        str | None, typer.Option(help=f"One of {', '.join(OBJECTIVES)}; by default it is said which can be used.")
    ] = None,
    **options: Any,
) -> Found:
    """Say what is wrong with a Pyro program, and where, before anything is fitted: findings with codes and lines.

    Exit status 5 if there are errors or warnings; notes do not count. A comment `# pplvae: ignore[PV272]` on the line
    of a site, or on that of the program's `def`, leaves a finding out. The file is run as Python: use files that you
    trust.
    """
    of_data = {name: options.pop(name) for name in OF_DATA}
    pair, rows = loaded(program, latent, portable_data(data), of_data, options["seed"])
    passed, found = work().check_pair(voice, pair, rows.train, options | {"objective": objective})
    return 0 if passed else FOUND, {"program": program, "data": data, **found}


@command_of(
    app,
    ROWS,
    examples=(
        "pplvae verify-distributed",
        "pplvae verify-distributed --data rows.csv --model my_file.py:MyVAE --ranks 4",
    ),
)
def verify_distributed(
    voice: Voice,
    data: Table = "digits",
    model: Annotated[str, typer.Option(help=f"One of {', '.join(MODELS)}; or yours, as of `pplvae fit`.")] = "vae",
    latent: Latent = None,
    ranks: Annotated[int, typer.Option(min=2, help="Processes to start on this machine, beside a trial with one.")] = 2,
    epochs: Annotated[int, typer.Option(min=1, help="Passes over the rows.")] = 3,
    batch_size: Annotated[int, typer.Option(min=2, help="Rows per step, on all ranks together.")] = 128,
    most_rows: Annotated[int, typer.Option(min=2, help="Rows that are fitted, at most.")] = 1000,
    most_compared: Annotated[int, typer.Option(min=2, help="Of these, rows that are compared, at most.")] = 400,
    seed: Annotated[int, typer.Option(min=0, help="Names all noise.")] = 0,
    **options: Any,
) -> Found:
    """Fit and compare a few rows on one rank and on several, and say whether they agree: before machines are rented.

    It starts torchrun itself. Exit status 5 if something is wrong.
    """
    asked: dict[str, Any] = {"data": portable_data(data), "model": portable_model(model), "latent": latent}
    asked |= {"epochs": epochs, "batch_size": batch_size, "most_rows": most_rows, "most_compared": most_compared}
    passed, found = work().verify(voice, ranks, asked | {"seed": seed, "of_data": options})
    return 0 if passed else FOUND, {"model": model, "data": data, **found}


@command_of(
    app,
    ROWS,
    examples=(
        "pplvae draw my_file.py:MyVAE --data rows.csv",
        "pplvae draw my_file.py:my_model,my_guide --data rows.csv --to model.dot",
    ),
)
def draw(
    voice: Voice,
    program: Program,
    data: Table,
    latent: Latent = None,
    to: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw a picture, too: .svg, .pdf, .png (need Graphviz) or .dot.")
    ] = None,
    of: Annotated[str, typer.Option(help="Of which program the picture is: model or guide.")] = "model",
    **options: Any,
) -> Found:
    """Show the graphical model of a pair: what is drawn, given what, in which plates.

    The file is run as Python: use files that you trust.
    """
    pair, rows = loaded(program, latent, portable_data(data), options, 0)
    return 0, {"program": program, "data": data, **work().draw_pair(voice, pair, rows.train, to, of)}
