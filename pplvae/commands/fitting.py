"""Verbs that fit: `demo` and `fit`."""

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pplvae.commands.app import FIT, ROWS, app, work
from pplvae.commands.declaring import (
    INTERRUPTED,
    Folder,
    Found,
    Interrupted,
    Latent,
    Table,
    TensorBoardFolder,
    command_of,
)
from pplvae.commands.fits import fitted
from pplvae.commands.options import Takes
from pplvae.commands.saying import Voice
from pplvae.commands.spec import OF_DATA, portable_data, portable_model
from pplvae.commands.words import going_on
from pplvae.guides import GUIDES
from pplvae.likelihoods import LIKELIHOODS
from pplvae.loggers import TensorBoard
from pplvae.models import MODELS
from pplvae.objectives import named_objective
from pplvae.priors import PRIORS


@command_of(
    app,
    Takes("training.fitting", "fit", only=("epochs", "seed"), defaults={"epochs": 300}),
    examples=("pplvae demo", "pplvae demo --run runs/longer --epochs 600"),
)
def demo(
    voice: Voice,
    run: Annotated[Path, typer.Option("--run", "--folder", help="Run folder to write (replaced if it exists).")] = Path(
        "runs/demo"
    ),
    **options: Any,
) -> Found:
    """Fit a Bernoulli VAE to the digits bundled with scikit-learn, and report its amortisation gap, offline."""
    spec = {"model": "bernoulli-vae", "latent": 8, "data": "digits", "binarise": None, "labels": None, "scale": 1.0}
    words = ["fit", "--model", "bernoulli-vae", "--run", str(run)]
    words += ["--epochs", str(options["epochs"]), "--seed", str(options["seed"])]
    status, found = fitted(work, voice, run, spec, options | {"existing": "overwrite"}, words)
    if status == INTERRUPTED:
        return status, found
    try:
        found |= {"comparison": work().compare_in(voice, run, {"seed": options["seed"]})}
    except KeyboardInterrupt:
        raise Interrupted(going_on(["compare", str(run), "--seed", str(options["seed"])], resume=False)) from None
    return status, found | work().report_of(voice, run)


@command_of(
    app,
    FIT,
    ROWS,
    examples=(
        "pplvae fit --data digits --model bernoulli-vae --run runs/a",
        "pplvae fit --data rows.csv --standardise --latent 2 --run runs/b",
    ),
    on_ranks=True,
)
def fit(
    voice: Voice,
    data: Table = "digits",
    model: Annotated[
        str, typer.Option(help=f"One of {', '.join(MODELS)}; or yours, as [bold]my_file.py:MyVAE[/bold].")
    ] = "vae",
    likelihood: Annotated[
        str | None, typer.Option(help=f"p(v | h): {', '.join(LIKELIHOODS)}; by default what suits the values.")
    ] = None,
    prior: Annotated[str | None, typer.Option(help=f"p(h): {', '.join(PRIORS)}.")] = None,
    guide: Annotated[str | None, typer.Option(help=f"q(h; λ(v)): {', '.join(GUIDES)}.")] = None,
    run: Annotated[Path, Folder] = Path("runs/fit"),
    latent: Latent = None,
    objective_particles: Annotated[int | None, typer.Option(help="Draws per row of the objective.")] = None,
    tensorboard: TensorBoardFolder = None,
    **options: Any,
) -> Found:
    """Fit a model and its guide to rows; write weights, history and settings to a run folder.

    A model of your own is a class with two Pyro programs as methods, `model(v)` and `guide(v)`, which is made with
    `visible=` (columns of the data) and `latent=` if its `__init__` takes them. Its file is run as Python: use files
    that you trust.
    """
    spec = {"model": portable_model(model), "latent": latent, "data": portable_data(data)}
    spec |= {"likelihood": likelihood, "prior": prior, "guide": guide}
    spec |= {name: options.pop(name) for name in OF_DATA}
    if tensorboard is not None:
        options["on_epoch"] = TensorBoard(tensorboard)
    options["objective"] = named_objective(options["objective"], objective_particles)
    return fitted(work, voice, run, spec, options, sys.argv[1:])
