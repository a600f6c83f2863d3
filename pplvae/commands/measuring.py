"""Verbs that measure a run, and show what was measured."""

from pathlib import Path
from typing import Annotated, Any

import typer

from pplvae.commands.app import FIT, app, named, work
from pplvae.commands.declaring import (
    WORSE,
    Force,
    Found,
    Model,
    Others,
    Parquet,
    Part,
    RunFolder,
    command_of,
)
from pplvae.commands.options import Takes
from pplvae.commands.saying import Voice

_COMPARE = Takes(
    "comparison.compare",
    "compare",
    words={"screen": "Skip rows whose gap is below so many nats for sure; by default none is skipped."},
)


@command_of(
    app,
    _COMPARE,
    Takes("results.paired", "PairedRuns.worse", only=("margin",)),
    examples=("pplvae compare runs/a --families full_covariance --evidence ais", "pplvae compare runs/a runs/b"),
    on_ranks=True,
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
        worse, found = work().compare_two(voice, run, other, margin)
        return WORSE if worse else 0, found
    return 0, work().compare_in(voice, run, options, named(model), force=force)


@command_of(
    app,
    Takes("comparison.attribution", "attribute", words=FIT.words),
    examples=("pplvae attribute runs/a", "pplvae attribute runs/a --most-rows 100 --epochs 50 --worth 0.5"),
)
def attribute(voice: Voice, run: RunFolder, model: Model = None, force: Force = False, **options: Any) -> Found:
    """Find out what is to blame for the gaps of a run, and what to change.

    Its encoder is trained on, then enlarged, with the decoder held fixed; what each closes is what it is to blame for.
    The run keeps its weights. Interrupted, the same command goes on.
    """
    return 0, work().attribute_in(voice, run, options, named(model), force=force)


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
    return 0, work().calibrate_in(voice, run, part, options, named(model), force=force)


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
    return 0, work().latents_in(voice, run, part, options, named(model), force=force)


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
    return 0, work().report_of(voice, run, others or (), parquet=parquet)


@command_of(app, examples=("pplvae runs", "pplvae runs . --json"))
def runs(
    voice: Voice, folder: Annotated[Path, typer.Argument(metavar="[DIR]", help="Where to look.")] = Path("runs")
) -> Found:
    """List the run folders below a folder with their numbers, newest first.

    ELBO and mean gap ± standard error are those of the test rows, in nats per row, of a run that has been compared;
    before that, the ELBO is the best on validation rows.
    """
    return 0, work().list_runs(voice, folder)


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
    return 0, work().export_from(voice, run, to, what, force=force)
