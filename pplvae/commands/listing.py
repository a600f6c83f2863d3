"""The run folders below a folder, newest first; one that cannot be read is listed with the reason."""

import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from pplvae.commands.folders import COMPARISON, result_of, spec_of
from pplvae.commands.saying import Voice
from pplvae.commands.tables import figure, one_line, rows_as_table
from pplvae.errors import StoreError
from pplvae.run_folders import CHECKPOINT, COMMAND, HISTORY, RUN, read_record
from pplvae.store import open_datasets, read_beside_tensors

_DEEPEST = 3  # folders below the one that is asked about
_FILES = (COMMAND, RUN, CHECKPOINT, "comparison.nc")  # by any of which a run folder is known
_LONGEST = 40  # letters of a name
_TOLD = ("model", "data", "status", "epochs", "elbo", "elbo_stderr", "gap", "gap_stderr", "damaged")
_COLUMNS = ("run", "model", "data", "status", "epochs", "ELBO", "gap", "when", "")


def list_runs(voice: Voice, folder: Path) -> dict[str, Any]:
    """Say which run folders there are, and what is known of each.

    Raises:
        StoreError: no such folder.
    """
    if not folder.is_dir():
        raise StoreError(
            f"There is no folder {str(folder)!r} (looked from {str(Path.cwd())!r}). `pplvae fit` and `pplvae demo` "
            "make run folders in 'runs', unless they are told another place."
        )
    found = sorted(map(_told_of, _run_folders(folder)), key=lambda told: told["when"] or "", reverse=True)
    if not found:
        voice.line(f"There are no runs in {str(folder)!r}. `pplvae demo` makes one.")
    lines = [_cells(told) for told in found]
    if lines:
        voice.result(_aligned([_COLUMNS, *lines]), lambda: [rows_as_table(_COLUMNS, lines)])
    return {"folder": str(folder), "runs": found}


def _run_folders(folder: Path, depth: int = 0) -> Iterator[Path]:
    """Folders that hold a file of a run; no link is followed, and nothing is sought within a run."""
    try:
        names = {entry.name: entry.is_dir(follow_symlinks=False) for entry in os.scandir(folder)}
    except OSError:  # not to be read by this user
        return
    if any(name in names for name in _FILES):
        yield folder
    elif depth < _DEEPEST:
        for name in sorted(name for name, is_folder in names.items() if is_folder):
            yield from _run_folders(folder / name, depth + 1)


def _told_of(run: Path) -> dict[str, Any]:
    """What is known of a run: numbers in nats per row, of its test rows where it has been compared."""
    told: dict[str, Any] = {"run": str(run), "when": _when(run)} | dict.fromkeys(_TOLD)
    try:
        _read(run, told)
    except Exception as error:  # whatever somebody has put there, the other runs are to be listed
        told["damaged"] = f"{type(error).__name__}: {error}" if not isinstance(error, StoreError) else str(error)
    return told


def _read(run: Path, told: dict[str, Any]) -> None:
    if (run / COMMAND).exists() or not (run / RUN).exists():
        spec = spec_of(run)
        told |= {"model": spec["model"], "data": spec["data"]}
    if not (run / RUN).exists():
        told["status"] = "unfinished"
        if (run / CHECKPOINT).exists():
            state = read_beside_tensors(run / CHECKPOINT)
            told["epochs"] = state["epoch"]
            if state["settings"]["validation_rows"]:  # else what is best is the last
                told["elbo"] = state["best_value"]
        return
    told["status"] = read_record(run)["status"].lower()
    history = open_datasets(run / HISTORY, "history")["history"]
    told["epochs"] = int(history.sizes.get("epoch", 0))
    if COMPARISON.path(run).exists():
        summary = result_of(run, COMPARISON).summary()
        part = "test" if "test" in summary["part"].values else summary["part"].values[-1]
        for name, term in (("elbo", "elbo_amortised"), ("gap", "amortisation_gap")):
            line = summary.sel(part=part, term=term)
            told |= {name: float(line["mean"]), f"{name}_stderr": float(line["stderr"])}
    elif "elbo_validation" in history and told["epochs"]:
        told["elbo"] = float(history["elbo_validation"].max())


def _when(run: Path) -> str | None:
    """When it was last written to."""
    times = [path.lstat().st_mtime for path in map(run.joinpath, _FILES) if os.path.lexists(path)]
    try:
        return datetime.fromtimestamp(max(times)).isoformat(" ", "seconds")
    except (ValueError, OverflowError, OSError):  # a time that no calendar has
        return None


def _cells(told: dict[str, Any]) -> list[str]:
    status = told["status"] if told["damaged"] is None else "damaged"
    gap = "" if told["gap"] is None else f"{figure(told['gap'])} ± {figure(told['gap_stderr'])}"
    names = [str(told[name] or "").rpartition("/")[2][-_LONGEST:] for name in ("model", "data")]  # of files, their own
    some = ["" if told[name] is None else figure(told[name]) for name in ("epochs", "elbo")]
    cells = (told["run"], *names, status or "", *some, gap, told["when"] or "", told["damaged"] or "")
    return [one_line(cell) for cell in cells]


def _aligned(lines: list[Any]) -> str:
    widths = [max(len(line[i]) for line in lines) for i in range(len(_COLUMNS))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )
