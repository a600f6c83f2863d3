"""A run folder as the commands use it: fit into it, compare what it holds, write its page; each says what it did."""

from pathlib import Path
from typing import Any

from rich.console import Console

import pplvae
from pplvae.commands.code import check_unchanged, named, trusted
from pplvae.commands.spec import Spec, made
from pplvae.data import Data, Rows
from pplvae.errors import StoreError, printable
from pplvae.run_folders import HISTORY, RUN, check_digests, occupied, read_record, read_spec
from pplvae.store import check_kinds, open_datasets
from pplvae.training.fitting import digest
from pplvae.training.loop import FitStatus

COMPARISON = "comparison.nc"
_SPEC, _PAGE = "command.json", "report.html"
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
    if options["existing"] == "resume" and (run / _SPEC).exists():
        check_unchanged(run, read_spec(run / _SPEC), asked, "or choose another folder")
    with occupied(run, run / _SPEC, asked, options["existing"]):
        fitted = pplvae.fit(program.model, program.guide, data, run=run, progress=True, **options)
    if options["existing"] != "refuse":
        for name in (COMPARISON, _PAGE):  # of the earlier fit
            (run / name).unlink(missing_ok=True)
    _say(repr(fitted))
    _say(f"Run folder: {run}")
    if fitted.status is FitStatus.INTERRUPTED:
        _say(f"Go on with `{again}`.")
    return fitted.status


def compare_in(run: Path, options: dict[str, Any], model: str | None = None) -> None:
    """Compare the program of a run on its train and test rows; `model` names its file, where the run alone may not."""
    asked = _spec_of(run)
    _check_ended(run)
    spec = trusted(run, asked, model)
    data, program = made(spec, spec["seed"])
    _check_rows(run, data.train)
    fitted = pplvae.load_fit(run, program.model, program.guide, data.train)
    result = pplvae.compare(fitted.model, fitted.guide, data, progress=True, **options)
    (run / _PAGE).unlink(missing_ok=True)  # of an earlier comparison
    result.save(run / COMPARISON)
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
    check_digests(run, record["files"])
    settings = record["settings"] | _spec_of(run)
    history = open_datasets(run / HISTORY, "history")["history"]
    _say(f"Page: {result.report(run / _PAGE, history=history, settings=settings)}")


def _say(text: str) -> None:
    _out.print(printable(text), markup=False)


def _spec_of(run: Path) -> Spec:
    """What a run was asked for.

    Raises:
        StoreError: no such run, one that Python has made, or a damaged one.
    """
    if not run.is_dir():
        raise StoreError(f"There is no run {str(run)!r} (looked from {str(Path.cwd())!r}). `pplvae fit` makes one.")
    if not (run / _SPEC).exists() and (run / RUN).exists():
        raise StoreError(
            f"The run {str(run)!r} was made by Python's `fit`, so only Python knows its programs: "
            f"`pplvae.load_fit({str(run)!r}, model, guide, rows)`."
        )
    if not (run / _SPEC).exists():
        raise StoreError(f"{str(run)!r} is no run folder: it has no {_SPEC}. `pplvae fit` makes one.")
    spec = read_spec(run / _SPEC)
    check_kinds(run / _SPEC, {"scale": 1.0} | spec, _KINDS)
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
    return pplvae.load_comparison(run / COMPARISON)


def _check_rows(run: Path, train: Rows) -> None:
    """Refuse training rows that are not those of the fit; older runs do not say which these were."""
    known = read_record(run)["settings"].get("rows_digest")
    if known is not None and known != digest(train):
        raise StoreError(
            f"{str(run)!r} was fitted to other training rows than the data have now. Put the data back as they were, "
            "or fit again."
        )
