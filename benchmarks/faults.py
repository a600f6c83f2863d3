"""What faults do to `fit` and `compare`: nothing that was computed may be lost. Counts, for docs/faults.md."""

import os
import random
import re
import shlex
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

import pplvae
from benchmarks import fault_children as children
from benchmarks import machine
from benchmarks.table import console
from pplvae.errors import PplvaeError
from pplvae.run_folders import CHECKPOINT, HISTORY, RUN, WEIGHTS, check_files, read_record
from pplvae.store import open_datasets, read_tensors

PAGE = Path(__file__).parent.parent / "docs" / "faults.md"
_BEGIN, _END = "<!-- faults -->", "<!-- end of faults -->"
_RUN = "r"
_FIT = ("fit", "--model", "ppca", "--data", "rows.npy", "--latent", "2", "--run", _RUN)
_RESUMED = (*_FIT, "--existing", "resume")
_COMPARE = ("compare", _RUN, "--max-steps", "50", "--evidence", "none", "--particles", "20")
_LONGER = 1.2  # moments of kills lie within so many times what an uninterrupted run takes


@dataclass(frozen=True)
class Task:
    """A command that faults happen to.

    Attributes:
        name: in words.
        words: of the command; given again, it goes on.
        start: the folder that it is given in.
        end: the folder as an uninterrupted run leaves it.
        seconds: which that took.
    """

    name: str
    words: Sequence[str]
    start: Path
    end: Path
    seconds: float

    @classmethod
    def of(cls, name: str, words: Sequence[str], start: Path) -> "Task":
        """A task, once it has been done without a fault."""
        end = start.parent / f"end of {name}"
        shutil.copytree(start, end)
        children.import_what_is_used_by(
            words, Path(shutil.copytree(start, start.parent / f"{name}, for the first time"))
        )
        began = time.monotonic()
        assert children.run(words, end) == 0, (end / children.SAID).read_text()
        return cls(name, words, start, end, time.monotonic() - began)

    def begun(self) -> Path:
        """A new folder for it."""
        folder = Path(tempfile.mkdtemp(dir=self.start.parent)) / "here"
        shutil.copytree(self.start, folder)
        return folder

    def wrong(self, folder: Path) -> str:
        """What is wrong in a folder in which it has ended; empty if it holds, to the bit, what it should."""
        if not _same_fit(folder / _RUN, self.end / _RUN):
            return "another fit"
        if not _same_comparison(folder / _RUN, self.end / _RUN):
            return "another comparison"
        left = [path.name for path in (folder / _RUN).iterdir() if path.name[0] == "." and path.name != ".lock"]
        return f"left behind: {left}" if left else ""


@dataclass
class Count:
    """What came of one kind of fault.

    Attributes:
        task: what it happened to.
        fault: in words.
        happened: how often.
        survived: how often the state after it was whole, and the end equal to the bit.
        wrong: of the others.
    """

    task: str
    fault: str
    happened: int = 0
    survived: int = 0
    wrong: list[str] = field(default_factory=list)

    def add(self, wrong: str) -> None:
        """Count one."""
        self.happened += 1
        self.survived += not wrong
        self.wrong += [wrong] if wrong else []


def main(*, quick: bool) -> list[Count]:
    """Let the faults happen, print what came of them, and unless it is quick write the page."""
    machine.pin(1)
    began, counts = time.monotonic(), []
    with tempfile.TemporaryDirectory() as folder:
        for count in _all(Path(folder), quick=quick):
            counts.append(count)
            console.print(f"{count.task}, {count.fault}: {count.survived} of {count.happened}", *count.wrong[:3])
    console.print(f"{time.monotonic() - began:.0f} s")
    if not quick:
        PAGE.write_text(written(PAGE.read_text(), counts))
    return counts


def written(page: str, counts: Sequence[Count]) -> str:
    """The page with the counts between its marks."""
    head, rest = page.split(_BEGIN)
    lines = ["| what is at work | fault | happened | nothing lost |", "| --- | --- | --- | --- |"]
    lines += [f"| {count.task} | {count.fault} | {count.happened} | {count.survived} |" for count in counts]
    return f"{head}{_BEGIN}\n\n" + "\n".join(lines) + f"\n\n{_END}{rest.split(_END)[1]}"


def few(folder: Path) -> list[Count]:
    """A handful of kills, and one before every publication of a file."""
    tasks = _tasks(folder, epochs=2, rows=12)
    found = [_random_kills(tasks[name], 3) for name in ("fit", "compare")]
    return found + [_kills_at_every_point(tasks[name]) for name in ("anew", "compare")]


def _all(folder: Path, *, quick: bool) -> Sequence[Count]:
    epochs = 3 if quick else 6
    tasks = _tasks(folder, epochs=epochs, rows=24)
    longer = _longer(folder / "rows", epochs=epochs)
    kills, others = (4, 1) if quick else (100, 5)
    for task in (tasks["fit"], tasks["compare"]):
        yield _random_kills(task, kills)
    for task in (tasks["fit"], longer, tasks["anew"], tasks["compare"]):
        yield _kills_at_every_point(task)
    for task in (tasks["fit"], tasks["compare"]):
        yield _ends(task, others)
        yield _without_room(task, others)
        yield _without_its_folder(task, others)
        yield _read_only(task)
        yield _two_at_once(task, others)


def _tasks(folder: Path, *, epochs: int, rows: int) -> dict[str, Task]:
    start = folder / "rows"
    start.mkdir()
    np.save(start / "rows.npy", np.random.default_rng(0).normal(size=(rows, 4)))
    whole = Task.of("fit", (*_RESUMED, "--epochs", str(epochs)), start)
    anew = ("fit that replaces another", (*_FIT, "--existing", "overwrite", "--seed", "1", "--epochs", "3"), whole.end)
    return {"fit": whole, "anew": Task.of(*anew), "compare": Task.of("compare", _COMPARE, whole.end)}


def _longer(start: Path, *, epochs: int) -> Task:
    shorter = Task.of("a shorter fit", (*_RESUMED, "--epochs", "2"), start)
    return Task.of("fit that goes on", (*_RESUMED, "--epochs", str(epochs)), shorter.end)


def _random_kills(task: Task, kills: int) -> Count:
    """Kill a command again and again until it comes to its end, in as many folders as that takes."""
    count, moments = Count(task.name, "killed at a random moment"), random.Random(0)
    while count.happened < kills:
        folder, wrong, status, since = task.begun(), "", -1, count.happened
        while status and not wrong and count.happened < kills:
            status = children.interrupted(
                task.words, folder, moments.uniform(0, _LONGER * task.seconds), children.killed
            )
            if status < 0:
                count.add("")
                wrong = _mixed(folder)
        wrong = wrong or _gone_on(task, folder)
        if wrong and count.happened > since:
            count.survived -= 1
            count.wrong.append(wrong)
    return count


def _kills_at_every_point(task: Task) -> Count:
    count = Count(task.name, "killed where a file comes to its place, or goes")
    points = children.points_of(task.words, task.begun())
    for point in range(1, points + 1):
        folder = task.begun()
        status = children.run(task.words, folder, partial(children.killed_at, point))
        count.add("" if status < 0 else f"not killed at {point}")
        wrong = _mixed(folder) or _gone_on(task, folder)
        if wrong:
            count.survived -= 1
            count.wrong.append(f"at {point} of {points}: {wrong}")
    return count


def _ends(task: Task, times: int) -> Count:
    """Ask a command to end, and go on as it says."""
    count, moments = Count(task.name, "asked to end (SIGTERM)"), random.Random(1)
    while count.happened < times:
        folder = task.begun()
        status = children.interrupted(task.words, folder, moments.uniform(0, task.seconds), children.asked_to_end)
        if status in (0, -15):  # it had ended, or not yet begun
            continue
        said = (folder / children.SAID).read_text()
        again = re.search("Go on with `pplvae ([^`]*)`", said)
        wrong = "" if status == 143 and again else f"status {status}, said {said!r}"
        count.add(wrong or _gone_on(task, folder, shlex.split(again[1]) if again else None))
    return count


def _without_room(task: Task, times: int) -> Count:
    count, sizes = Count(task.name, "no room for a file"), random.Random(2)
    while count.happened < times:
        folder = task.begun()
        status = children.run(task.words, folder, partial(children.out_of_room, sizes.randrange(3_000, 30_000)))
        if status:
            count.add(_refused(folder, status) or _mixed(folder) or _gone_on(task, folder))
    return count


def _without_its_folder(task: Task, times: int) -> Count:
    count, moments = Count(task.name, "its folder renamed"), random.Random(3)
    for _ in range(20 * times):
        folder = task.begun()
        run, elsewhere = folder / _RUN, folder / "elsewhere"

        def rename(_child: int, run: Path = run, elsewhere: Path = elsewhere) -> None:
            if run.exists():
                os.rename(run, elsewhere)

        status = children.interrupted(task.words, folder, moments.uniform(0, task.seconds), rename)
        if status and elsewhere.exists():
            wrong = _refused(folder, status)
            shutil.rmtree(run, ignore_errors=True)
            os.rename(elsewhere, run)
            count.add(wrong or _mixed(folder) or _gone_on(task, folder))
        if count.happened == times:
            break
    return count


def _read_only(task: Task) -> Count:
    count, folder = Count(task.name, "its folder read-only"), task.begun()
    for path in (folder.parent, folder):
        path.chmod(0o755)
    (folder / _RUN).mkdir(exist_ok=True)
    before = _content(folder / _RUN)
    status = children.run(task.words, folder, partial(children.read_only, folder / _RUN))
    (folder / _RUN).chmod(0o755)
    changed = "files were changed" if _content(folder / _RUN) != before else ""
    count.add(_refused(folder, status) or changed or _gone_on(task, folder))
    return count


def _two_at_once(task: Task, times: int) -> Count:
    count, moments = Count(task.name, "two processes on one folder"), random.Random(4)
    while count.happened < times:
        folder = task.begun()
        first = children.start(task.words, folder, partial(children.speaking_into, folder / "first.txt"))
        time.sleep(moments.uniform(0, task.seconds))
        status = children.run(task.words, folder)
        said = (folder / children.SAID).read_text()
        wrong = "the first failed" if children.ended(first) else ""
        if status == 0:  # it came when the first had ended
            continue
        wrong = wrong or ("" if status == 2 and f"by process {first} on" in said else f"status {status}: {said!r}")
        count.add(wrong or task.wrong(folder))
    return count


def _gone_on(task: Task, folder: Path, words: Sequence[str] | None = None) -> str:
    """Go on to the end; what is wrong with it."""
    if children.run(words or task.words, folder):
        return (folder / children.SAID).read_text()
    found = task.wrong(folder)
    if not found:
        shutil.rmtree(folder.parent)
    return found


def _mixed(folder: Path) -> str:
    """Why what a fault has left is neither the state before nor the one after; empty if it is one of them."""
    run = folder / _RUN
    try:
        if (run / RUN).exists():
            check_files(run, read_record(run))
        if (run / CHECKPOINT).exists():
            read_tensors(run / CHECKPOINT)
        if (run / "comparison.nc").exists():
            pplvae.load_comparison(run / "comparison.nc")
    except PplvaeError as error:
        return str(error)
    return ""


def _refused(folder: Path, status: int) -> str:
    said = (folder / children.SAID).read_text()
    lines = [line for line in said.splitlines() if line.startswith("pplvae:")]
    return "" if status == 2 and len(lines) == 1 and "Traceback" not in said else f"status {status}: {said!r}"


def _same_fit(one: Path, other: Path) -> bool:
    (mine, _), (theirs, _) = (read_tensors(run / WEIGHTS) for run in (one, other))
    alike = mine.keys() == theirs.keys() and all(bool((mine[name] == theirs[name]).all()) for name in mine)
    mine_, theirs_ = (open_datasets(run / HISTORY, "history")["history"].drop_vars("seconds") for run in (one, other))
    return alike and mine_.identical(theirs_) and read_record(one)["best_epoch"] == read_record(other)["best_epoch"]


def _same_comparison(one: Path, other: Path) -> bool:
    if not (other / "comparison.nc").exists():
        return not (one / "comparison.nc").exists()
    return pplvae.load_comparison(one / "comparison.nc") == pplvae.load_comparison(other / "comparison.nc")


def _content(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}
