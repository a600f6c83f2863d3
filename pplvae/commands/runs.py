"""A run folder as the commands use it: fit into it, compare what it holds, write its page; each says what it did."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import xarray as xr
from rich.console import Console

import pplvae
from pplvae.commands.asked import occupied
from pplvae.commands.code import check_unchanged, named, trusted
from pplvae.commands.spec import Spec, made
from pplvae.data import Data, Rows
from pplvae.errors import StoreError, printable
from pplvae.holding import holding
from pplvae.netcdf import written_out
from pplvae.run_folders import COMMAND, HISTORY, RUN, WEIGHTS, check_files, read_record, read_spec, written
from pplvae.scoring.kept import remove, rows_there
from pplvae.store import check_kinds, open_datasets
from pplvae.training.fitting import digest
from pplvae.training.loop import FitStatus

COMPARISON, MEASURED = "comparison.nc", "comparison.zarr"
_PAGE = "report.html"
_WEIGHTS = "weights_digest"  # of the fit, in its comparison
# Of what a fit was asked for.
_KINDS = {"model": str, "data": str, "latent": int, "seed": int, "scale": (int, float)}
_KINDS |= dict.fromkeys(("likelihood", "prior", "guide", "binarise", "labels", "ids", "missing"), (str, type(None)))
_KINDS |= dict.fromkeys(("header", "standardise"), (bool, type(None)))

_out = Console(highlight=False, soft_wrap=True)


def fit_to(run: Path, spec: Spec, data: Data, program: Any, options: dict[str, Any], again: str) -> FitStatus:
    """Fit a program to rows, both made as the spec says; `again` is the command that goes on if it is interrupted."""
    _say(str(data))
    if spec.get("likelihood") is not None:
        _say(f"Likelihood: {spec['likelihood']}")
    asked = named(spec) | {"seed": options["seed"]}
    if options["existing"] == "resume" and (run / COMMAND).exists():
        check_unchanged(run, read_spec(run / COMMAND), asked, "or choose another folder")
    with occupied(run, asked, options["existing"]):
        fitted = pplvae.fit(program.model, program.guide, data, run=run, progress=True, **options)
        if options["existing"] != "refuse":
            for name in (COMPARISON, _PAGE):  # of the earlier fit
                (run / name).unlink(missing_ok=True)
            remove(run / MEASURED)
    _say(repr(fitted))
    _say(f"Run folder: {run}")
    if fitted.status is FitStatus.INTERRUPTED:
        _say(f"Go on with `{again}`.")
    return fitted.status


def has_begun(run: Path) -> bool:
    """Whether a fit has written anything that could be gone on with."""
    return bool(written(run))


def compare_in(run: Path, options: dict[str, Any], model: str | None = None, *, force: bool = False) -> None:
    """Compare the program of a run on its train and test rows, going on with a comparison that was interrupted.

    Args:
        run: its folder.
        options: of `pplvae.compare`.
        model: names the program's file, where the run alone may not.
        force: also if that file has been edited since the fit.
    """
    asked = _spec_of(run)
    _check_ended(run)
    with holding(run):
        spec = trusted(run, asked, model, force=force)
        check_files(run, read_record(run))
        data, program = made(spec, spec["seed"])
        _check_rows(run, data.train)
        for part in (data.train, data.test):  # what could not be written in the end is refused before the work
            written_out(run / COMPARISON, xr.Dataset(coords=part.coordinates()))
        fitted = pplvae.load_fit(run, program.model, program.guide, data.train)
        there, of = rows_there(run / MEASURED)
        if there:
            _say(f"{there} of {of} rows were there.")
        result = pplvae.compare(fitted.model, fitted.guide, data, store=run / MEASURED, progress=True, **options)
        weights = read_record(run)["files"].get(WEIGHTS, "")
        (run / _PAGE).unlink(missing_ok=True)  # of an earlier comparison
        replace(result, rows=result.rows.assign_attrs({_WEIGHTS: weights})).save(run / COMPARISON)
        remove(run / MEASURED)
    _say(f"\n{result}\n")
    _say(f"Rows: {run / COMPARISON}")


def compare_two(run: Path, other: Path, margin: float) -> bool:
    """Print how two runs that have been compared differ, row by row; whether the second is worse by the margin."""
    pair = pplvae.compare_runs(*map(_comparison_of, (run, other)))
    _say(str(pair))
    return pair.worse(margin)


def report_of(run: Path) -> None:
    """Write the page of a run that has been compared."""
    result = _comparison_of(run)
    record = read_record(run)
    check_files(run, record)
    settings = record["settings"] | _spec_of(run)
    history = open_datasets(run / HISTORY, "history")["history"]
    title = f"What amortisation costs: {settings['model']} on {Path(str(settings['data'])).name}"
    written_to = result.report(
        run / _PAGE, history=history, settings=settings, title=title, command=f"pplvae compare {run}"
    )
    _say(f"Page: {written_to}")


def _say(text: str) -> None:
    _out.print(printable(text), markup=False)


def _spec_of(run: Path) -> Spec:
    """What a run was asked for.

    Raises:
        StoreError: no such run, one that Python has made, or a damaged one.
    """
    if not run.is_dir():
        raise StoreError(f"There is no run {str(run)!r} (looked from {str(Path.cwd())!r}). `pplvae fit` makes one.")
    if not (run / COMMAND).exists() and (run / RUN).exists():
        raise StoreError(
            f"The run {str(run)!r} was made by Python's `fit`, so only Python knows its programs: "
            f"`pplvae.load_fit({str(run)!r}, model, guide, rows)`."
        )
    if not (run / COMMAND).exists():
        raise StoreError(f"{str(run)!r} is no run folder: it has no {COMMAND}. `pplvae fit` makes one.")
    spec = read_spec(run / COMMAND)
    check_kinds(run / COMMAND, {"scale": 1.0} | spec, _KINDS)
    return spec


def _check_ended(run: Path) -> None:
    if not (run / RUN).exists():
        raise StoreError(
            f"The fit in {str(run)!r} has not ended. Go on with it: give the command that began it once more, with "
            "`existing='resume'`."
        )


def _comparison_of(run: Path) -> Any:
    if not (run / COMPARISON).exists():
        _spec_of(run)
        _check_ended(run)
        raise StoreError(f"The run {str(run)!r} has not been compared: `pplvae compare {run}` comes first.")
    found = pplvae.load_comparison(run / COMPARISON)
    if (run / RUN).exists() and found.rows.attrs.get(_WEIGHTS, "") not in ("", read_record(run)["files"].get(WEIGHTS)):
        raise StoreError(
            f"{str(run / COMPARISON)!r} is of other weights than {str(run)!r} holds: it belongs to another run, or to "
            f"an earlier fit. `pplvae compare {run}` makes it again."
        )
    return found


def _check_rows(run: Path, train: Rows) -> None:
    """Refuse training rows that are not those of the fit; older runs do not say which these were."""
    known = read_record(run)["settings"].get("rows_digest")
    if known is not None and known != digest(train):
        raise StoreError(
            f"{str(run)!r} was fitted to other training rows than the data have now. Put the data back as they were, "
            "or fit again."
        )
