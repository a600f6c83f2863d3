"""The command line. What its options are called, and what they say, is read from the Python functions behind them.

What a command runs is imported once its options have been read: help and typos do not wait for it.
"""

import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from pplvae.commands.declaring import (
    FOUND,
    INTERRUPTED,
    STATUSES,
    TERMINATED,
    WORSE,
    Force,
    Found,
    Interrupted,
    Model,
    Others,
    Parquet,
    Part,
    Program,
    RunFolder,
    Table,
    TensorBoardFolder,
    Verbs,
    Version,
    command_of,
    in_words,
    is_early,
)
from pplvae.commands.fits import fitted
from pplvae.commands.manual import manual_of
from pplvae.commands.options import Takes
from pplvae.commands.programs import loaded
from pplvae.commands.saying import Voice
from pplvae.commands.spec import OF_DATA, portable_data, portable_model
from pplvae.commands.words import going_on
from pplvae.errors import PplvaeWarning
from pplvae.guides import GUIDES
from pplvae.isolate import ended_like_ctrl_c
from pplvae.likelihoods import LIKELIHOODS
from pplvae.loggers import TensorBoard
from pplvae.models import MODELS
from pplvae.objectives import OBJECTIVES, named_objective
from pplvae.priors import PRIORS

app = typer.Typer(
    cls=Verbs,
    no_args_is_help=True,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
    help="Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row.\n\n"
    f"Start with [bold]pplvae demo[/bold]. {STATUSES}",
)

_FIT = Takes("training.fitting", "fit", without=("train",), words={"objective": f"One of {', '.join(OBJECTIVES)}."})
_OF_DATA = Takes("data.load", "load_data", only=OF_DATA)
_COMPARE = Takes(
    "comparison.compare",
    "compare",
    words={"screen": "Skip rows whose gap is below so many nats for sure; by default none is skipped."},
)


@command_of(
    app,
    Takes("training.fitting", "fit", only=("epochs", "seed"), defaults={"epochs": 300}),
    examples=("pplvae demo", "pplvae demo --run runs/longer --epochs 600"),
)
def demo(
    voice: Voice,
    run: Annotated[Path, typer.Option(help="Run folder to write (replaced if it exists).")] = Path("runs/demo"),
    **options: Any,
) -> Found:
    """Fit a Bernoulli VAE to the digits bundled with scikit-learn, and report its amortisation gap, offline."""
    spec = {"model": "bernoulli-vae", "latent": 8, "data": "digits", "binarise": None, "labels": None, "scale": 1.0}
    words = ["fit", "--model", "bernoulli-vae", "--run", str(run)]
    words += ["--epochs", str(options["epochs"]), "--seed", str(options["seed"])]
    status, found = fitted(_work, voice, run, spec, options | {"existing": "overwrite"}, words)
    if status == INTERRUPTED:
        return status, found
    try:
        found |= {"comparison": _work().compare_in(voice, run, {"seed": options["seed"]})}
    except KeyboardInterrupt:
        raise Interrupted(going_on(["compare", str(run), "--seed", str(options["seed"])], resume=False)) from None
    return status, found | _work().report_of(voice, run)


@command_of(
    app,
    _FIT,
    _OF_DATA,
    examples=(
        "pplvae fit --data digits --model bernoulli-vae --run runs/a",
        "pplvae fit --data rows.csv --standardise --latent 2 --run runs/b",
    ),
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
    run: Annotated[Path, typer.Option(help="Run folder to write.")] = Path("runs/fit"),
    latent: Annotated[int, typer.Option(min=1, help="Dimension of h.")] = 8,
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
    return fitted(_work, voice, run, spec, options, sys.argv[1:])


@command_of(
    app,
    Takes("checking.check", "check"),
    _OF_DATA,
    examples=(
        "pplvae check my_file.py:MyVAE --data rows.csv --standardise",
        "pplvae check my_file.py:my_model,my_guide --data rows.csv --objective IWAE --json",
    ),
)
def check(
    voice: Voice,
    program: Program,
    data: Table,
    latent: Annotated[int, typer.Option(min=1, help="Dimension of h, for a class that takes it.")] = 8,
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
    passed, found = _work().check_pair(voice, pair, rows.train, options | {"objective": objective})
    return 0 if passed else FOUND, {"program": program, "data": data, **found}


@command_of(
    app,
    _COMPARE,
    Takes("results.paired", "PairedRuns.worse", only=("margin",)),
    examples=("pplvae compare runs/a --families full_covariance --evidence ais", "pplvae compare runs/a runs/b"),
)
def compare(
    voice: Voice,
    run: RunFolder,
    other: Annotated[
        Path | None, typer.Argument(help="A second run that has been compared on the same rows: print the differences.")
    ] = None,
    model: Model = None,
    force: Force = False,
    **options: Any,
) -> Found:
    """Optimise a guide for every train and test row of a run, and print where the nats go.

    Rows are written to the run folder as they are measured: interrupted, the same command goes on.

    With OTHER, compare two runs row by row instead, from what was saved; exit status 4 if OTHER's amortised ELBO is
    lower by more than the margin (one-sided, 1 %).
    """
    margin = options.pop("margin")
    if other is not None:
        worse, found = _work().compare_two(voice, run, other, margin)
        return WORSE if worse else 0, found
    return 0, _work().compare_in(voice, run, options, _named(model), force=force)


@command_of(
    app,
    Takes("comparison.attribution", "attribute", words=_FIT.words),
    examples=("pplvae attribute runs/a", "pplvae attribute runs/a --most-rows 100 --epochs 50 --worth 0.5"),
)
def attribute(voice: Voice, run: RunFolder, model: Model = None, force: Force = False, **options: Any) -> Found:
    """Find out what is to blame for the gaps of a run, and what to change.

    Its encoder is trained on, then enlarged, with the decoder held fixed; what each closes is what it is to blame for.
    The run keeps its weights. Interrupted, the same command goes on.
    """
    return 0, _work().attribute_in(voice, run, options, _named(model), force=force)


@command_of(
    app,
    Takes("diagnostics.calibration", "calibrate"),
    examples=("pplvae calibrate runs/a", "pplvae calibrate runs/a --simulated 1000 --part train"),
)
def calibrate(
    voice: Voice,
    run: RunFolder,
    part: Part = "test",
    model: Model = None,
    force: Force = False,
    **options: Any,
) -> Found:
    """Check the guide of a run against its own model: are latents that are known ranked as they should be?

    Rows are simulated from the model, with those of the data as templates. Interrupted, the same command goes on.
    """
    return 0, _work().calibrate_in(voice, run, part, options, _named(model), force=force)


@command_of(
    app,
    Takes("diagnostics.latent_use", "latent_use"),
    examples=("pplvae latents runs/a", "pplvae latents runs/a --part train --particles 20"),
)
def latents(
    voice: Voice,
    run: RunFolder,
    part: Part = "test",
    model: Model = None,
    force: Force = False,
    **options: Any,
) -> Found:
    """Say how much of its latents a run uses: KL of each, those that have collapsed, rate and distortion."""
    return 0, _work().latents_in(voice, run, part, options, _named(model), force=force)


@command_of(app, examples=("pplvae report runs/a --parquet", "pplvae report runs/a runs/b"))
def report(
    voice: Voice,
    run: RunFolder,
    others: Others = None,
    parquet: Parquet = False,
) -> Found:
    """Write the HTML page of a run that has been compared, with what attribute, latents and calibrate have found.

    Every OTHER is held against the run, row by row.
    """
    return 0, _work().report_of(voice, run, others or (), parquet=parquet)


@command_of(app, examples=("pplvae runs", "pplvae runs . --json"))
def runs(
    voice: Voice, folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path("runs")
) -> Found:
    """List the run folders below a folder with their numbers, newest first.

    ELBO and mean gap ± standard error are those of the test rows, in nats per row, of a run that has been compared;
    before that, the ELBO is the best on validation rows.
    """
    return 0, _work().list_runs(voice, folder)


@command_of(
    app,
    examples=("pplvae export runs/a --to rows.csv", "pplvae export runs/a --what calibration --to ranks.nc"),
)
def export(
    voice: Voice,
    run: RunFolder,
    to: Annotated[
        Path,
        typer.Option(
            help="File to write: .csv, .parquet (needs pyarrow), .nc, or .h5ad, a copy of the run's with more in obs."
        ),
    ],
    what: Annotated[str, typer.Option(help="comparison, attribution, calibration or latents.")] = "comparison",
    force: Annotated[bool, typer.Option("--force", help="Write over a file that is there.")] = False,
) -> Found:
    """Write the rows of a result to a file for other tools."""
    return 0, _work().export_from(voice, run, to, what, force=force)


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
    said = f"{message if category is PplvaeWarning else f'{category.__name__}: {message}'}"
    Voice().problem(in_words(app, said), "yellow")


def _named(model: str | None) -> str | None:
    return None if model is None else portable_model(model)


def _work() -> Any:
    from pplvae.commands import verbs

    return verbs
