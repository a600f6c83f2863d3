"""The claims of the comparison against the truth: tables, which are written into docs/measurements.md."""

import time
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np

from benchmarks import calibration, convergence, machine, truth_modes
from benchmarks.calibration import Errors
from benchmarks.convergence import Ends
from benchmarks.table import console

PAGE = Path(__file__).parent.parent / "docs" / "measurements.md"

_CALIBRATION_HEAD = (
    "model",
    "figure",
    "seeds × rows",
    "spread",
    "mean",
    "beyond 3",
    "mean error, nats",
    "missed",
)
_CONVERGENCE_HEAD = (
    "model",
    "rows",
    "converged",
    "beyond 0.01 nats",
    "beyond 0.05",
    "largest",
    "left: reported",
    "left: true",
    "below encoder",
    "on a lower hill",
    "missed",
)

Lines = list[Sequence[str]]


def main(*, quick: bool, threads: int) -> None:
    """Measure, print, and unless it is quick write the page."""
    machine.pin(threads)
    began = time.process_time()
    errors = calibration.measure(calibration.QUICK if quick else calibration.CASES, _show)
    ends = convergence.measure(convergence.QUICK if quick else convergence.PROBLEMS)
    modes = truth_modes.measure(*([truth_modes.QUICK] if quick else []), with_networks=not quick)
    tables = {
        "calibration": calibration_table(errors),
        "convergence": convergence_table(ends),
        "modes": as_markdown(truth_modes.HEAD, [truth_modes.line(some) for some in modes]),
    }
    for text in tables.values():
        console.print(text, soft_wrap=True)
    console.print(f"{time.process_time() - began:.0f} s of processor time")
    if not quick:
        PAGE.write_text(written(PAGE.read_text(), tables))


def written(page: str, tables: dict[str, str]) -> str:
    """A page with each table between its marks.

    Raises:
        ValueError: a table whose marks the page lacks.
    """
    for name, text in tables.items():
        begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        if page.count(begin) != 1 or page.count(end) != 1:
            raise ValueError(f"The page has no place for the table: write the lines {begin} and {end} into it once.")
        before, rest = page.split(begin)
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.split(end)[1]}"
    return page


def calibration_table(errors: Iterable[Errors]) -> str:
    """Errors of every figure in units of the reported standard error, as Markdown."""
    return as_markdown(_CALIBRATION_HEAD, [_calibration_line(some) for some in errors])


def convergence_table(ends: Sequence[Ends]) -> str:
    """What was left, by group and of all, as Markdown."""
    return as_markdown(_CONVERGENCE_HEAD, [_convergence_line(some) for some in [*ends, Ends.joined("all", ends)]])


def _calibration_line(errors: Errors) -> Sequence[str]:
    size = f"{errors.nats.shape[0]} × {errors.nats.shape[1]}"
    if not errors.has_noise:
        exact = f"no noise; largest error {abs(errors.nats).max():.0e}"
        return errors.pair, errors.figure, size, "", "", "", exact, errors.missed()
    scores, (mean, stderr) = errors.scores, errors.mean
    return (
        errors.pair,
        errors.figure,
        size,
        f"{scores.std():.2f}",
        f"{scores.mean():+.2f}",
        f"{100 * (abs(scores) > 3).mean():.1f} %",
        f"{mean:+.5f} ± {stderr:.5f}",
        errors.missed(),
    )


def _convergence_line(ends: Ends) -> Sequence[str]:
    # Only rows whose shortfall could be told: the others say that they do not know.
    told = np.isfinite(ends.reported)
    sought = np.isfinite(ends.elsewhere).any()
    return (
        ends.group,
        str(len(ends.left)),
        f"{100 * ends.converged.mean():.1f} %",
        f"{100 * ends.beyond:.2f} %",
        f"{100 * ends.far_beyond:.2f} %",
        f"{ends.left[ends.converged].max(initial=-np.inf):.4f}",
        f"{ends.reported[told].mean():.5f}",
        f"{ends.left[told].mean():.5f}",
        str(ends.below),
        f"{100 * ends.on_a_lower_hill:.1f} %" if sought else "",
        ends.missed(),
    )


def as_markdown(head: Sequence[str], lines: Lines) -> str:
    """Lines under a head, as a table of Markdown."""
    rows = [head, ["---"] * len(head), *lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in rows)


def _show(errors: Errors) -> None:
    console.print(" | ".join(_calibration_line(errors)), soft_wrap=True)
