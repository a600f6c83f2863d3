"""A run folder as the commands use it: fit into it, compare what it holds, write its page; each says what it did."""

from pathlib import Path
from typing import Any

from rich.console import Console

import pplvae
from pplvae.commands.spec import Spec, made
from pplvae.data import Data, Rows
from pplvae.errors import StoreError
from pplvae.store import HISTORY, RUN, occupied, open_datasets, read_json, read_spec
from pplvae.training.fitting import digest
from pplvae.training.loop import FitStatus

COMPARISON = "comparison.nc"
_SPEC, _PAGE = "command.json", "report.html"

_out = Console(highlight=False, soft_wrap=True)


def fit_to(run: Path, spec: Spec, data: Data, program: Any, options: dict[str, Any]) -> FitStatus:
    """Fit a program to rows, both made as the spec says."""
    _out.print(str(data), markup=False)
    with occupied(run, run / _SPEC, spec | {"seed": options["seed"]}, options["existing"]):
        fitted = pplvae.fit(program.model, program.guide, data, run=run, progress=True, **options)
    if options["existing"] != "refuse":
        for name in (COMPARISON, _PAGE):  # of the earlier fit
            (run / name).unlink(missing_ok=True)
    _out.print(repr(fitted), markup=False)
    _out.print(f"Run folder: {run}", markup=False)
    if fitted.status is FitStatus.INTERRUPTED:
        _out.print(f"Go on with `--existing resume --run {run}`.", markup=False)
    return fitted.status


def compare_in(run: Path, options: dict[str, Any]) -> None:
    """Compare the program of a run on its train and test rows."""
    spec = read_spec(run / _SPEC)
    data, program = made(spec, spec["seed"])
    _check_rows(run, data.train)
    fitted = pplvae.load_fit(run, program.model, program.guide, data.train)
    result = pplvae.compare(fitted.model, fitted.guide, data, progress=True, **options)
    result.save(run / COMPARISON)
    _out.print(f"\n{result}\n", markup=False)
    _out.print(f"Rows: {run / COMPARISON}", markup=False)


def compare_two(run: Path, other: Path, margin: float) -> bool:
    """Print how two runs that have been compared differ, row by row; whether the second is worse by the margin."""
    pair = pplvae.compare_runs(*(pplvae.load_comparison(folder / COMPARISON) for folder in (run, other)))
    _out.print(str(pair), markup=False)
    return pair.worse(margin)


def report_of(run: Path) -> None:
    """Write the page of a run that has been compared."""
    result = pplvae.load_comparison(run / COMPARISON)
    settings = read_json(run / RUN)["settings"] | read_json(run / _SPEC)["spec"]
    history = open_datasets(run / HISTORY, "history")["history"]
    _out.print(f"Page: {result.report(run / _PAGE, history=history, settings=settings)}", markup=False)


def _check_rows(run: Path, train: Rows) -> None:
    """Refuse training rows that are not those of the fit; older runs do not say which these were."""
    known = read_json(run / RUN).get("settings", {}).get("rows_digest")
    if known is not None and known != digest(train):
        raise StoreError(
            f"{str(run)!r} was fitted to other training rows than the data have now. Put the data back as they were, "
            "or fit again."
        )
