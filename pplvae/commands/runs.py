"""What the commands do with one run folder: fit into it, measure what it holds, write its page; each says what it did.

Each returns what there is to tell in JSON.
"""

import shlex
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import pplvae
from pplvae.commands.asked import occupied
from pplvae.commands.code import check_unchanged, named
from pplvae.commands.export import export_from
from pplvae.commands.folders import (
    ATTRIBUTION,
    CALIBRATION,
    COMPARISON,
    LATENTS,
    PAGE,
    RESULTS,
    ROWS,
    Kept,
    Opened,
    forget_results,
    keep_result,
    opened_run,
    result_of,
    spec_of,
)
from pplvae.commands.saying import Voice
from pplvae.commands.spec import Spec
from pplvae.commands.tables import found_in, tables_of
from pplvae.commands.verdict import verdict_on
from pplvae.data import Data
from pplvae.ranks.group import ranks
from pplvae.results.base import Result
from pplvae.run_folders import COMMAND, HISTORY, RUN, check_files, read_record, read_spec, written
from pplvae.scoring.kept import rows_there
from pplvae.store import open_datasets
from pplvae.training.loop import FitStatus
from pplvae.training.outcome import Fit
from pplvae.training.together import on_restart

Found = dict[str, Any]
# Of what else is known of a run, on its page.
_HEADINGS = {
    ATTRIBUTION: "What is to blame",
    LATENTS: "What the latents carry",
    CALIBRATION: "Is the guide's uncertainty honest?",
}


def fit_to(
    voice: Voice, run: Path, spec: Spec, data: Data, program: Any, options: Found, again: str
) -> tuple[str, Found]:
    """Fit a program to rows, both made as the spec says; the name of the status in which it ended.

    Args:
        voice: that says what there is to say.
        run: the folder.
        spec: what is asked for.
        data: rows.
        program: with its methods `model` and `guide`.
        options: of `pplvae.fit`.
        again: the command that goes on if it is interrupted.
    """
    voice.line(str(data))
    if spec.get("likelihood") is not None:
        voice.line(f"Likelihood: {spec['likelihood']}")
    here, asked = ranks(), named(spec) | {"seed": options["seed"]}
    options = options | {"existing": on_restart(options["existing"])}
    if options["existing"] == "resume" and here.is_first and (run / COMMAND).exists():
        check_unchanged(run, read_spec(run / COMMAND), asked, "or choose another folder")
    with here.first_holds(lambda: occupied(run, asked, options["existing"])):
        fitted = pplvae.fit(program.model, program.guide, data, run=run, progress=not voice.quiet, **options)
        if options["existing"] != "refuse" and here.is_first:
            forget_results(run)
    voice.line(repr(fitted))
    voice.line(f"Run folder: {run}")
    if fitted.status is FitStatus.INTERRUPTED:
        voice.line(f"Go on with `{again}`.")
    told = {"run": str(run), "model": spec["model"], "data": spec["data"], "fit": _in_short(fitted)}
    return fitted.status.name, told


def has_begun(run: Path) -> bool:
    """Whether a fit has written anything that could be gone on with."""
    return bool(written(run))


def compare_in(voice: Voice, run: Path, options: Found, model: str | None = None, *, force: bool = False) -> Found:
    """Compare the program of a run on its train and test rows."""

    def measure(opened: Opened, **how: Any) -> Result:
        return pplvae.compare(opened.fit.model, opened.fit.guide, opened.data, **options, **how)

    return _measured(voice, run, COMPARISON, measure, model, force=force)


def attribute_in(voice: Voice, run: Path, options: Found, model: str | None, *, force: bool) -> Found:
    """Say what is to blame for the gaps of a run, on its train and test rows."""

    def measure(opened: Opened, **how: Any) -> Result:
        pair, data = (opened.fit.model, opened.fit.guide), opened.data
        return pplvae.attribute(*pair, data.train, data.test, **options, **how)

    return _measured(voice, run, ATTRIBUTION, measure, model, force=force)


def calibrate_in(voice: Voice, run: Path, part: str, options: Found, model: str | None, *, force: bool) -> Found:
    """Check the guide of a run against its own model; rows of a part are the templates."""

    def measure(opened: Opened, **how: Any) -> Result:
        return pplvae.calibrate(opened.fit.model, opened.fit.guide, opened.part(part), **options, **how)

    return _measured(voice, run, CALIBRATION, measure, model, force=force)


def latents_in(voice: Voice, run: Path, part: str, options: Found, model: str | None, *, force: bool) -> Found:
    """Say how much of its latents a run uses on the rows of a part."""

    def measure(opened: Opened, *, progress: bool, **_: Any) -> Result:  # it takes seconds: nothing is kept on the way
        return pplvae.latent_use(opened.fit.model, opened.fit.guide, opened.part(part), progress=progress, **options)

    return _measured(voice, run, LATENTS, measure, model, force=force)


def compare_two(voice: Voice, run: Path, other: Path, margin: float) -> tuple[bool, Found]:
    """Say how two runs that have been compared differ, row by row; whether the second is worse by the margin."""
    pair = pplvae.compare_runs(*(result_of(each, COMPARISON) for each in (run, other)))
    worse, sentence = verdict_on(pair, str(run), str(other), margin)
    voice.result(f"{pair}\n\n{sentence}", lambda: tables_of(pair, last=[sentence]))
    told = {"run": str(run), "other": str(other), "margin": margin, "worse": worse, "verdict": sentence}
    return worse, told | found_in(pair)


def report_of(voice: Voice, run: Path, others: Sequence[Path] = (), *, parquet: bool = False) -> Found:
    """Write the page of a run that has been compared, with all else that has been measured of it.

    Args:
        voice: that says what there is to say.
        run: its folder.
        others: runs that have been compared on the same rows, which it is held against.
        parquet: whether the rows are written beside the page.
    """
    result = result_of(run, COMPARISON)
    record = read_record(run)
    check_files(run, record)
    settings = record["settings"] | spec_of(run)
    history = open_datasets(run / HISTORY, "history")["history"]
    title = f"What amortisation costs: {_called(settings['model'])} on {Path(str(settings['data'])).name}"
    beside = {_HEADINGS[kept]: result_of(run, kept) for kept in _HEADINGS if kept.path(run).exists()}
    beside |= {str(other): pplvae.compare_runs(result, result_of(other, COMPARISON)) for other in others}
    about = {"compared again by": f"pplvae compare {shlex.quote(str(run))}"} | _times(run)
    page = str(result.report(run / PAGE, history=history, settings=settings, about=about, title=title, beside=beside))
    voice.line(f"Page: {page}")
    rows = export_from(voice, run, run / ROWS, COMPARISON.what, force=True)["file"] if parquet else None
    return {"run": str(run), "page": page, "beside": list(beside), "parquet": rows}


def _called(model: str) -> str:
    """A model by its name, and by its class if it is one of the user's own."""
    file, colon, name = model.rpartition(":")
    return f"{name} ({Path(file).name})" if colon else model


def _times(run: Path) -> Found:
    """When its files were written."""
    files = {"fitted on": run / RUN, **{f"{kept.done} on": kept.path(run) for kept in RESULTS.values()}}
    return {
        what: datetime.fromtimestamp(file.stat().st_mtime).astimezone().isoformat(timespec="minutes")
        for what, file in files.items()
        if file.exists()
    }


def _measured(
    voice: Voice, run: Path, kept: Kept, measure: Callable[..., Result], model: str | None, *, force: bool
) -> Found:
    """Measure something of a run and keep it there, going on with what was interrupted.

    Args:
        voice: that says what there is to say.
        run: its folder.
        kept: the kind of result.
        measure: what makes it of an opened run, with `store=` and `progress=`.
        model: see `opened_run`.
        force: likewise.
    """
    with opened_run(run, kept, model, force=force) as opened:
        if kept.measured(run).exists():
            voice.line(_what_was_there(run, kept))
        result = measure(opened, store=kept.measured(run), progress=not voice.quiet)
        file = keep_result(run, kept, result, ranks())
    advice = [f"{one.remedy}: {one.sentence}" for one in getattr(result, "advice", ())]
    voice.result(f"\n{result}\n", lambda: tables_of(result, more=advice))
    voice.line(f"Rows: {file}")
    return {"run": str(run), "file": str(file), **found_in(result)} | ({"advice": advice} if advice else {})


def _what_was_there(run: Path, kept: Kept) -> str:
    if kept is not COMPARISON:  # whose rows are those of the data, and can be counted
        return "Going on with what was interrupted."
    there, of = rows_there(kept.measured(run))
    return f"{there} of {of} rows were there."


def _in_short(fitted: Fit) -> Found:
    """How a fit ended, and its validation ELBO at the epoch whose weights were kept."""
    history, best = fitted.history, fitted.best_epoch
    told: Found = {"status": fitted.status.name, "message": fitted.message, "steps": fitted.steps}
    told |= {"epochs": history.sizes.get("epoch", 0), "best_epoch": best}
    scored = best >= 0 and "elbo_validation" in history
    names = ("elbo_validation", "elbo_validation_stderr") if scored else ()
    return told | {name: float(history[name].values[best]) for name in names}
