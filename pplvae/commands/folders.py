"""A run folder as the commands find it: what it was asked for, its program and rows, and the results that it keeps."""

import difflib
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xarray as xr

import pplvae
from pplvae.commands.code import trusted
from pplvae.commands.spec import Spec, made
from pplvae.data import Data, Rows
from pplvae.errors import StoreError, UnknownNameError
from pplvae.holding import holding
from pplvae.netcdf import written_out
from pplvae.ranks.group import Ranks, ranks
from pplvae.results.base import Result
from pplvae.run_folders import COMMAND, RUN, WEIGHTS, check_files, read_record, read_spec
from pplvae.scoring.kept import remove
from pplvae.scoring.together import wait_until_left
from pplvae.store import check_kinds
from pplvae.training.outcome import Fit
from pplvae.training.together import digest

PAGE = "report.html"
ROWS = "gap.parquet"  # beside it, for other tools
_WEIGHTS = "weights_digest"  # of the fit, in its results
# Of what a fit was asked for.
_KINDS = {"model": str, "data": str, "latent": (int, type(None)), "seed": int, "scale": (int, float)}
_TEXTS = ("likelihood", "prior", "guide", "binarise", "classes", "labels", "ids", "missing", "layer", "total")
_KINDS |= dict.fromkeys(_TEXTS, (str, type(None)))
_KINDS |= dict.fromkeys(("header", "standardise"), (bool, type(None)))


@dataclass(frozen=True)
class Kept:
    """A kind of result that a run folder keeps.

    Attributes:
        what: its name, that of its file, and of `export --what`.
        command: that makes it.
        done: what the run has been when it is there.
        result: its class, by its name in `pplvae`.
    """

    what: str
    command: str
    done: str
    result: str

    def path(self, run: Path) -> Path:
        """Its file."""
        return run / f"{self.what}.nc"

    def measured(self, run: Path) -> Path:
        """The folder of what has been measured for it so far."""
        return run / f"{self.what}.zarr"


COMPARISON = Kept("comparison", "compare", "compared", "Comparison")
ATTRIBUTION = Kept("attribution", "attribute", "attributed", "Attribution")
CALIBRATION = Kept("calibration", "calibrate", "calibrated", "Calibration")
LATENTS = Kept("latents", "latents", "measured for the use of its latents", "LatentUse")
RESULTS = {kept.what: kept for kept in (COMPARISON, ATTRIBUTION, CALIBRATION, LATENTS)}


@dataclass(frozen=True)
class Opened:
    """What a run holds, in memory."""

    data: Data
    fit: Fit

    def part(self, name: str) -> Rows:
        """A part of its rows.

        Raises:
            UnknownNameError: no such part.
        """
        known = ("train", "valid", "test")
        if name not in known:
            raise UnknownNameError("part", name, known)
        return getattr(self.data, name)


@contextmanager
def opened_run(run: Path, kept: Kept, model: str | None, *, force: bool) -> Iterator[Opened]:
    """Hold a run whose fit has ended, and read its rows and its fitted program.

    Args:
        run: its folder.
        kept: what is to be made of it.
        model: names the program's file, where the run alone may not.
        force: also if that file has been edited since the fit.

    Raises:
        StoreError: no such run, a damaged one, one whose code or rows are others by now.
    """
    asked = spec_of(run)
    check_ended(run)
    with ranks().first_holds(lambda: holding(run)):
        spec = trusted(run, asked, model, force=force, command=kept.command)
        check_files(run, read_record(run))
        data, program = made(spec, spec["seed"])
        _check_rows(run, data.train)
        for part in (data.train, data.valid, data.test):  # what could not be written in the end is refused at once
            written_out(kept.path(run), xr.Dataset(coords=part.coordinates()))
        yield Opened(data, pplvae.load_fit(run, program.model, program.guide, data.train))


def keep_result(run: Path, kept: Kept, result: Result, here: Ranks) -> Path:
    """Save a result in the folder of its run, with a mark of the weights that it is of; rank 0 does so."""
    if not here.is_first:
        return kept.path(run)
    if kept is COMPARISON:
        _forget_page(run)  # which shows an earlier one
    _marked(result, read_record(run)["files"].get(WEIGHTS, "")).save(kept.path(run))
    if here.size > 1:
        wait_until_left(kept.measured(run), here.size)
    remove(kept.measured(run))
    return kept.path(run)


def result_of(run: Path, kept: Kept) -> Any:
    """Read a result that a run keeps.

    Raises:
        StoreError: there is none, it is damaged, or of another fit.
    """
    path, again = kept.path(run), f"`pplvae {kept.command} {shlex.quote(str(run))}`"
    if not path.exists():
        spec_of(run)
        check_ended(run)
        raise StoreError(f"The run {str(run)!r} has not been {kept.done}: {again} comes first.")
    found = getattr(pplvae, kept.result).load(path)
    mark = found.rows.attrs.get(_WEIGHTS, "")
    if (run / RUN).exists() and mark not in ("", read_record(run)["files"].get(WEIGHTS)):
        raise StoreError(
            f"{str(path)!r} is of other weights than {str(run)!r} holds: it belongs to another run, or to an earlier "
            f"fit. {again} makes it again."
        )
    return found


def forget_results(run: Path) -> None:
    """Remove what was made of an earlier fit."""
    for kept in RESULTS.values():
        kept.path(run).unlink(missing_ok=True)
        remove(kept.measured(run))
    _forget_page(run)


def _forget_page(run: Path) -> None:
    for name in (PAGE, ROWS):
        (run / name).unlink(missing_ok=True)


def spec_of(run: Path) -> Spec:
    """What a run was asked for.

    Raises:
        StoreError: no such run, one that Python has made, or a damaged one.
    """
    if not run.is_dir():
        raise StoreError(
            f"There is no run {str(run)!r} (looked from {str(Path.cwd())!r}).{_nearest(run)} `pplvae fit` makes one."
        )
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


def check_ended(run: Path) -> None:
    """Refuse a run whose fit goes on, or was interrupted for good.

    Raises:
        StoreError: it has written no result.
    """
    if not (run / RUN).exists():
        raise StoreError(
            f"The fit in {str(run)!r} has not ended. Go on with it: give the command that began it once more, with "
            "`existing='resume'`."
        )


def _nearest(run: Path) -> str:
    beside = run.parent.iterdir() if run.parent.is_dir() else ()
    close = difflib.get_close_matches(run.name, [path.name for path in beside if (path / COMMAND).exists()], n=1)
    return f" Did you mean {str(run.parent / close[0])!r}?" if close else ""


def _marked(result: Any, weights: str) -> Result:
    if hasattr(result, "comparison"):  # whose rows are those of an attribution
        return replace(result, comparison=_marked(result.comparison, weights))
    return replace(result, rows=result.rows.assign_attrs({_WEIGHTS: weights}))


def _check_rows(run: Path, train: Rows) -> None:
    """Refuse training rows that are not those of the fit; older runs do not say which these were."""
    known = read_record(run)["settings"].get("rows_digest")
    if known is not None and known != digest(train):
        raise StoreError(
            f"{str(run)!r} was fitted to other training rows than the data have now. Put the data back as they were, "
            "or fit again."
        )
