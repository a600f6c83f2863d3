"""Every command of the command line: what it says to people and to programs, and what its options come from."""

import contextlib
import inspect
import io
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import typer
import xarray as xr
from docstrings import sentence_of
from test_cli import MINE
from workflow import shorten_attribution

import pplvae
from pplvae.cli import app, main
from pplvae.commands import runs, trial, verification
from pplvae.commands.manual import JSON
from pplvae.commands.tables import nested
from pplvae.data import Data, load_data
from pplvae.store import open_datasets, read_tensors, write_tensors

COMMANDS = {name: each for name, each in typer.main.get_command(app).commands.items() if not each.hidden}
QUICK = ("--particles", 10, "--max-steps", 3, "--simulated", 0, "--evidence", "none")
# What makes a command small; added to its words, it takes the place of what they say.
SMALL = {
    "demo": ("--epochs", 1),
    "fit": ("--epochs", 1),
    "compare": QUICK,
    "attribute": ("--epochs", 1, "--most-rows", 3, "--particles", 4, "--max-steps", 2),
    "calibrate": ("--simulated", 8, "--particles", 9),
    "latents": ("--particles", 4, "--mixture-draws", 4),
    "verify-distributed": ("--most-rows", 10, "--most-compared", 4, "--epochs", 1, "--batch-size", 5, "--ranks", 2),
}
# In a file of one's own, beside its class.
FUNCTIONS = """
mine = MyVAE(4)
my_model, my_guide = mine.model, mine.guide

def model(v):
    pyro.module("decoder", mine.decoder)
    h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))
    pyro.sample("v", dist.Normal(mine.decoder(h), 1.0).to_event(1), obs=v)

def guide(v):
    my_guide(v)
"""
MEASURED = ("attribute", "calibrate", "latents")
FILES = {"attribute": "attribution.nc", "calibrate": "calibration.nc", "latents": "latents.nc"}


def called(folder, *words):
    """Exit status, output and errors of a command that is given in a folder."""
    before = sys.argv, Path.cwd(), torch.get_default_dtype()
    out, err = io.StringIO(), io.StringIO()
    try:
        os.chdir(folder)
        torch.set_default_dtype(torch.float64)
        sys.argv = ["pplvae", *map(str, words)]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                main()
                code = 0
            except SystemExit as leaving:
                code = leaving.code or 0
    finally:
        sys.argv, dtype = before[0], before[2]
        os.chdir(before[1])
        torch.set_default_dtype(dtype)
    return code, out.getvalue(), err.getvalue()


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """A folder with rows.csv and two runs that have been compared, a and b."""
    folder = tmp_path_factory.mktemp("commands")
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(60, 1)) @ rng.normal(size=(1, 4)) + 0.3 * rng.normal(size=(60, 4))
    pd.DataFrame(rows, columns=list("abcd")).to_csv(folder / "rows.csv", index=False)
    for name, epochs in (("a", 40), ("b", 1)):
        fit = ("fit", "--data", "rows.csv", "--model", "ppca", "--latent", 1, "--lr", 0.02, "--epochs", epochs)
        assert called(folder, *fit, "--run", f"runs/{name}")[0] == 0
        assert called(folder, "compare", f"runs/{name}", *QUICK)[0] == 0
    return folder


@pytest.fixture
def here(made, tmp_path):
    """A copy of it, to be changed."""
    shutil.copytree(made, tmp_path / "here")
    return tmp_path / "here"


@pytest.fixture
def short_attribution(monkeypatch):
    shorten_attribution(monkeypatch)


@pytest.fixture
def small_demo(monkeypatch):
    """Few digits, few steps, and a page without figures: a demo has no options for these."""

    def few(source, **options):
        data = load_data(source, **options)
        return Data(data.train[:20], data.valid[:5], data.test[:5], data.name) if source == "digits" else data

    small = {"particles": 10, "max_steps": 2, "simulated": 0, "evidence": None}
    monkeypatch.setattr("pplvae.commands.spec.load_data", few)
    monkeypatch.setattr(pplvae, "compare", lambda *given, _of=pplvae.compare, **how: _of(*given, **how | small))
    monkeypatch.setattr(pplvae.Comparison, "report", lambda _, path, **__: path)


@pytest.fixture
def trial_alone(monkeypatch):
    """What torchrun would be asked for, in this process: `test_ranks` starts it."""

    def run(folder, size):
        if size == 1:
            return trial.trial(folder)
        found, _ = read_tensors(trial.file_of(folder, 1, 0))
        for rank in range(size):
            mine = {"noise": torch.randn_like(found["noise"]), "taken": found["taken"] * (rank == 0)}
            write_tensors(trial.file_of(folder, size, rank), found | mine)

    monkeypatch.setattr(verification, "_run", run)


@pytest.mark.parametrize("command", MEASURED)
def test_what_is_measured_is_told_and_kept(here, short_attribution, command):
    code, out, err = called(here, command, "runs/a", *SMALL[command], "--json")
    assert (code, err) == (0, f"Rows: runs/a/{FILES[command]}\n")
    told = json.loads(out)
    assert told.keys() == {"pplvae", "command", "status", *JSON[command]}
    assert (told["command"], told["status"], told["run"]) == (command, 0, "runs/a")
    assert told["file"] == f"runs/a/{FILES[command]}"
    kind = {"attribute": pplvae.Attribution, "calibrate": pplvae.Calibration, "latents": pplvae.LatentUse}[command]
    kept = kind.load(here / told["file"])
    assert told["settings"]["particles"] == kept.settings["particles"] == int(dict_of(SMALL[command])["--particles"])
    assert told["warnings"] == kept.warnings
    assert not list((here / "runs/a").glob("*.zarr"))
    if command != "attribute":  # which takes seconds
        assert called(here, command, "runs/a", *SMALL[command]) == (0, f"\n{kept}\n\nRows: {told['file']}\n", "")


@pytest.mark.parametrize("named", ["my_file.py:MyVAE", "my_file.py:mine", "my_file.py:my_model,my_guide", "vae"])
def test_a_program_that_is_right_passes_whatever_it_is_named_by(here, named):
    (here / "my_file.py").write_text(MINE + FUNCTIONS)
    code, out, err = called(here, "check", named, "--data", "rows.csv", "--latent", 2)
    assert (code, err) == (0, "")
    assert out.startswith("Nothing found, on 42 rows.")
    assert called(here, "check", named, "--data", "rows.csv", "--latent", 2, "--quiet") == (0, "", "")


def test_a_program_that_is_wrong_has_a_status_of_its_own(here):
    (here / "my_file.py").write_text(MINE + FUNCTIONS)
    code, out, _ = called(here, "check", "my_file.py", "--data", "rows.csv")
    line = 1 + (MINE + FUNCTIONS).splitlines().index("def model(v):")
    assert code == 5
    assert f"\nmy_file.py:{line}: error PV220 (model)\n    The model has no plate" in out
    assert '\n    Write: with pyro.plate("data", len(v)):\n' in out
    code, out, err = called(here, "check", "my_file.py", "--data", "rows.csv", "--json")
    told = json.loads(out)
    assert (code, err) == (5, "")
    assert told.keys() == {"pplvae", "command", "status", *JSON["check"]}
    assert [(one["code"], one["severity"], one["line"]) for one in told["findings"]] == [("PV220", "error", line)]
    commented = FUNCTIONS.replace("def model(v):", "def model(v):  # pplvae: ignore[PV220]")
    (here / "my_file.py").write_text(MINE + commented)
    code, out, _ = called(here, "check", "my_file.py", "--data", "rows.csv", "--json")
    assert (code, [one["code"] for one in json.loads(out)["ignored"]]) == (0, ["PV220"])


@pytest.mark.parametrize(
    ("named", "words"),
    [
        ("nowhere.py:MyVAE", r"There is no file 'nowhere.py'"),
        ("my_file.py:MyVAEE", "Unknown class in 'my_file.py' 'MyVAEE'.*MyVAE"),
        ("my_file.py:NoPrograms", r"no method `model\(v\)`"),
        ("rows.csv", "my_file.py:MyVAE"),
    ],
)
def test_programs_that_cannot_be_loaded(here, named, words):
    (here / "my_file.py").write_text(MINE)
    code, _, err = called(here, "check", named, "--data", "rows.csv")
    assert code == 2
    assert re.search(words, err)


def dict_of(words):
    return dict(zip(map(str, words[::2]), words[1::2], strict=True))


def test_a_summary_in_json_has_its_labels():
    summary = xr.Dataset(
        {"mean": (("part", "term"), np.array([[1.0, np.nan]])), "count": ("part", [3]), "all": ((), True)},
        coords={"part": ["test"], "term": ["elbo", "gap"]},
    )
    found = nested(summary)
    assert found["mean"]["test"]["elbo"] == 1.0
    assert (found["count"], found["all"]) == ({"test": 3}, True)


def test_numbers_that_are_not_finite_are_null(here, capsys):
    runs.Voice(json=True).answer("some", 0, {"mean": np.float64(np.nan), "most": [np.inf, 1], "path": Path("x")})
    assert json.loads(capsys.readouterr().out)["most"] == [None, 1]


@pytest.mark.parametrize(
    "words",
    [
        ("fit", "--data", "rows.csv", "--model", "ppca", "--latent", 1, "--epochs", 1, "--run", "c"),
        ("compare", "runs/a", *QUICK),
        ("report", "runs/a"),
        ("runs",),
        ("export", "runs/a", "--to", "rows.nc"),
        ("demo", "--epochs", 1),
    ],
    ids=lambda words: words[0],
)
def test_json_and_quiet(here, small_demo, words):
    code, out, _ = called(here, *words, "--json")
    told = json.loads(out)
    assert code == told["status"] == 0
    assert told.keys() == {"pplvae", "command", "status", *JSON[words[0]]}
    changes = {"fit": ("--existing", "overwrite"), "export": ("--force",)}.get(words[0], ())
    assert called(here, *words, *changes, "--quiet") == (0, "", "")


def test_a_page_holds_runs_against_each_other_with_the_rows_beside_it(here):
    pytest.importorskip("pyarrow", reason="needs pyarrow")
    first, second = (pplvae.load_comparison(here / f"runs/{run}/comparison.nc") for run in "ab")
    assert called(here, "report", "runs/a", "runs/b", "--parquet")[0] == 0
    text = (here / "runs" / "a" / "report.html").read_text()
    assert "<h2>Against runs/b</h2>" in text
    mean = pplvae.compare_runs(first, second).summary()["mean"].sel(part="train", term="amortisation_gap")
    assert f"<td>{float(mean):+.3f}</td>" in text
    rows = pd.read_parquet(here / "runs" / "a" / "gap.parquet")
    assert rows["amortisation_gap"].tolist() == first.rows["amortisation_gap"].values.tolist()
    assert called(here, "compare", "runs/a", *QUICK)[0] == 0
    assert not {path.name for path in (here / "runs" / "a").iterdir()} & {"report.html", "gap.parquet"}


def test_two_runs(here):
    code, out, _ = called(here, "compare", "runs/a", "runs/b")
    summary = pplvae.compare_runs(*(pplvae.load_comparison(here / f"runs/{r}/comparison.nc") for r in "ab")).summary()
    line = summary.sel(part="train", term="elbo_amortised")
    sentence = f"runs/b is worse by {-float(line['mean']):.3g} ± {float(line['stderr']):.2g} nats per row on train rows"
    assert code == 4
    assert f"{sentence}, more than the margin of 0." in out
    code, out, _ = called(here, "compare", "runs/a", "runs/b", "--json")
    told = json.loads(out)
    assert told.keys() == {"pplvae", "command", "status", *JSON["compare RUN OTHER"]}
    assert (code, told["status"], told["worse"]) == (4, 4, True)
    assert told["summary"]["mean"]["train"]["elbo_amortised"] == float(line["mean"])
    assert called(here, "compare", "runs/a", "runs/b", "--quiet") == (4, "", "")
    code, out, _ = called(here, "compare", "runs/b", "runs/a", "--margin", 0.5)
    assert code == 0
    assert "runs/a is not shown to be worse than runs/b by more than the margin of 0.5: its ELBO changes by +" in out


def test_rows_that_were_lost_are_the_reason(here):
    comparison = pplvae.load_comparison(here / "runs/b/comparison.nc")
    status = comparison.rows["status"].astype(object)
    status[0] = "nonfinite"
    rows = comparison.rows.assign(status=status.astype(str))
    rows["elbo_amortised"][0] = np.nan
    pplvae.Comparison(rows).save(here / "runs/b/comparison.nc")
    code, out, _ = called(here, "compare", "runs/a", "runs/b", "--margin", 1000)
    assert code == 4
    assert "runs/b is worse on train rows: 1 that runs/a could measure ended nonfinite." in out


def test_refused_with_json(here):
    for words in (("compare", "runs/aa"), ("compare", "runs/a", "--seeed", 1)):
        code, out, err = called(here, *words, "--json")
        told = json.loads(out)
        assert (code, told["command"], told["status"]) == (2, "compare", 2)
        assert re.search("Did you mean|--seed", told["error"])
        assert "Traceback" not in err


@pytest.mark.parametrize(
    ("command", "place"),
    [
        ("attribute", "comparison.retraining.Retraining.until_settled"),
        ("calibrate", "diagnostics.calibration._ranks_from"),
    ],
)
def test_interrupted_it_goes_on(here, short_attribution, monkeypatch, command, place):
    words = (command, "runs/a", *SMALL[command])
    with monkeypatch.context() as patch:
        patch.setattr(f"pplvae.{place}", interrupted)
        code, out, err = called(here, *words, "--json")
        assert (code, json.loads(out)["status"]) == (130, 130)
        code, _, err = called(here, *words)
    assert code == 130
    again = shlex.split(re.search("Go on with `pplvae ([^`]*)`", err)[1])
    assert again == [*map(str, words)]
    assert list((here / "runs/a").glob("*.zarr"))
    code, out, _ = called(here, *again)
    assert (code, out.startswith("Going on with what was interrupted.")) == (0, True)
    assert not list((here / "runs/a").glob("*.zarr"))


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_asked_to_end_the_object_has_the_status_of_the_process(here, monkeypatch):
    monkeypatch.setattr(pplvae, "latent_use", lambda *_, **__: signal.raise_signal(signal.SIGTERM))
    code, out, err = called(here, "latents", "runs/a", "--json")
    assert (code, json.loads(out)["status"]) == (143, 143)
    assert err == "pplvae: interrupted. Go on with `pplvae latents runs/a --json`.\n"


def test_results_belong_to_the_weights_that_they_are_of(here):
    for run in "ab":
        assert called(here, "latents", f"runs/{run}", *SMALL["latents"])[0] == 0
    shutil.copy(here / "runs/b/latents.nc", here / "runs/a")
    code, _, err = called(here, "export", "runs/a", "--what", "latents", "--to", "rows.nc")
    assert (code, "of other weights" in err, "`pplvae latents runs/a` makes it again" in err) == (2, True, True)
    fit = ("fit", "--data", "rows.csv", "--model", "ppca", "--latent", 1, "--epochs", 1, "--run", "runs/a")
    assert called(here, *fit, "--existing", "overwrite")[0] == 0
    assert not list((here / "runs/a").glob("latents.nc"))
    code, _, err = called(here, "export", "runs/a", "--what", "latents", "--to", "rows.nc")
    assert (code, "`pplvae latents runs/a` comes first" in err) == (2, True)


def test_rows_in_files_for_other_tools(here):
    comparison = pplvae.load_comparison(here / "runs/a/comparison.nc")
    for name in ("rows.csv.csv", "rows.parquet", "deep/rows.nc"):
        code, out, _ = called(here, "export", "runs/a", "--to", name)
        assert (code, out) == (0, f"54 rows: {name}\n")
    frame = comparison.to_dataframe()
    read = pd.read_csv(here / "rows.csv.csv", index_col="row")
    np.testing.assert_allclose(read["amortisation_gap"], frame["amortisation_gap"], rtol=1e-12)
    pd.testing.assert_frame_equal(pd.read_parquet(here / "rows.parquet"), frame)
    with xr.open_dataset(here / "deep/rows.nc") as rows:
        xr.testing.assert_equal(rows["elbo_local"].load(), comparison.rows["elbo_local"])
    code, _, err = called(here, "export", "runs/a", "--to", "rows.csv")
    assert (code, "is there already" in err, "`--force`" in err) == (2, True, True)


def test_parquet_without_pyarrow(here, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    code, _, err = called(here, "export", "runs/a", "--to", "rows.parquet")
    assert (code, "pip install 'pplvae[data]'" in err) == (2, True)
    assert not (here / "rows.parquet").exists()


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (("comapre",), "'compare'"),
        (("latent", "runs/a"), "'latents'"),
        (("fit", "--epocs", 3), "--epochs"),
        (("calibrate", "runs/a", "--simulatd", 3), "--simulated"),
        (("latents", "runs/a", "--part", "tets"), "'test'"),
        (("fit", "--data", "rows.csv", "--prior", "laplac"), "'laplace'"),
        (("export", "runs/a", "--what", "calibrations", "--to", "x.nc"), "'calibration'"),
        (("export", "runs/a", "--to", "x.parket"), "'.parquet'"),
        (("compare", "runs/aa"), "'runs/a'"),
        (("compare", "runs/a", "--evidence", "importanc"), "'importance'"),
        (("attribute", "runs/a", "--objective", "TraceELBO"), "'Trace_ELBO'"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_the_nearest_is_suggested(made, words, nearest):
    code, out, err = called(made, *words)
    text = " ".join(re.sub(r"[│\n]", " ", err).split())
    assert code == 2
    assert nearest in text
    assert re.search("Did you mean|Possible options", text)
    assert "Traceback" not in out + err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("latents", "runs/a", "--particles", 1), "`--particles` must be at least 2"),
        (("calibrate", "runs/a", "--level", 2), "`--level` is a probability"),
        (("calibrate", "runs/a", "--simulated", 0), "`--simulated` must be at least 1"),
        (("attribute", "runs/a", "--hidden", "8,x"), "`--hidden` is whole numbers, by commas"),
        (("compare", "runs/a", "--simulated", -1), "`--simulated` is a number of rows"),
        (("calibrate", "runs/a", "--chunk-size", 0), "`--chunk-size`"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_messages_speak_of_options(made, words, message):
    code, _, err = called(made, *words)
    assert code == 2
    assert message in err
    assert len(err.splitlines()) == 1


def test_code_that_was_not_named_is_not_run(here):
    (here / "planted.py").write_text("raise SystemExit('it ran')")
    command = here / "runs/a/command.json"
    command.write_text(re.sub('"model": "[^"]*"', f'"model": "{here}/planted.py:Model"', command.read_text()))
    for name in MEASURED:
        code, out, err = called(here, name, "runs/a")
        assert code == 2
        assert f"`pplvae {name} runs/a --model {here}/planted.py:Model`" in err
        assert "it ran" not in out + err


# Lists of runs.


def test_runs_are_listed_newest_first(here):
    for time, run in enumerate("ab"):
        for file in (here / "runs" / run).iterdir():
            os.utime(file, (10**9 + time, 10**9 + time))
    code, out, err = called(here, "runs")
    assert (code, err) == (0, "")
    head, b, a = out.splitlines()
    assert head.split() == ["run", "model", "data", "status", "epochs", "ELBO", "gap", "when"]
    summary = pplvae.load_comparison(here / "runs/a/comparison.nc").summary().sel(part="test")
    elbo, gap = (summary.sel(term=term) for term in ("elbo_amortised", "amortisation_gap"))
    numbers = ["40", f"{float(elbo['mean']):.3f}", f"{float(gap['mean']):.3f}", "±", f"{float(gap['stderr']):.3f}"]
    assert a.split()[:-2] == ["runs/a", "ppca", "rows.csv", "completed", *numbers]
    assert b.startswith("runs/b")
    (first, second) = json.loads(called(here, "runs", ".", "--json")[1])["runs"]
    assert (first["run"], second["run"]) == ("runs/b", "runs/a")
    assert second["gap"] == float(gap["mean"])
    assert all(told["damaged"] is None for told in (first, second))


def damage(run, how):
    command = run / "command.json"
    if how == "cut":
        command.write_text("{")
    elif how == "deep":
        command.write_text('{"spec": ' * 100_000)
    elif how == "list":
        command.write_text('{"format": 1, "spec": {"model": [1]}}')
    elif how == "text":
        command.write_text(command.read_text().replace('"latent": 1', '"latent": "\\u001b[2J"'))
    elif how == "record":
        (run / "run.json").write_text('{"format": 1, "status": 3}')
    elif how == "folder":
        (run / "run.json").unlink()
        (run / "run.json").mkdir()
    elif how == "pipe":
        (run / "run.json").unlink()
        os.mkfifo(run / "run.json")
    elif how == "history":
        (run / "history.nc").write_bytes(b"\x89HDF\r\n\x1a\n" * 100)
    elif how == "comparison":
        (run / "comparison.nc").write_bytes((run / "comparison.nc").read_bytes()[:-100])
    elif how == "swapped":
        shutil.copy(run.parent / "b" / "comparison.nc", run)


@pytest.mark.parametrize(
    "how",
    ["cut", "deep", "list", "text", "record", "folder", "pipe", "history", "comparison", "swapped"],
)
def test_damaged_folders_are_listed_with_a_reason(here, how):
    damage(here / "runs" / "a", how)
    code, out, err = called(here, "runs")
    assert (code, err) == (0, "")
    a = next(line for line in out.splitlines() if line.startswith("runs/a"))
    assert "runs/b" in out
    assert "\x1b" not in out
    told = json.loads(called(here, "runs", "--json")[1])["runs"]
    reason = next(one["damaged"] for one in told if one["run"] == "runs/a")
    assert re.search(rf" damaged .* {re.escape(reason[:40])}", a)
    assert [one["damaged"] is None for one in sorted(told, key=lambda one: one["run"])] == [False, True]


def test_names_of_folders_stay_in_their_line(here):
    shutil.copytree(here / "runs/b", here / "runs/c\x1b[2J\nd")
    code, out, _ = called(here, "runs")
    assert code == 0
    assert len(out.splitlines()) == 4
    assert "\x1b" not in out


def test_a_run_that_is_not_finished_says_how_far_it_is(here):
    words = "fit --data rows.csv --model ppca --latent 1 --epochs 3 --run runs/c --compare-every 2 --compare-rows 4"
    assert called(here, *words.split())[0] == 0
    history = open_datasets(here / "runs/c/history.nc", "history")["history"]
    assert np.isfinite(history["train_gap"]).values.tolist() == [False, True, True]
    (fitted,) = (one for one in json.loads(called(here, "runs", "--json")[1])["runs"] if one["run"] == "runs/c")
    assert fitted["elbo"] == pytest.approx(float(history["elbo_validation"].max()))
    (here / "runs/c/run.json").unlink()
    told = json.loads(called(here, "runs", "--json")[1])["runs"]
    (unfinished,) = (one for one in told if one["run"] == "runs/c")
    assert (unfinished["status"], unfinished["epochs"], unfinished["damaged"]) == ("unfinished", 3, None)
    assert unfinished["elbo"] == pytest.approx(float(history["elbo_validation"].max()))


def test_numbers_of_each_epoch_go_to_tensorboard(here, monkeypatch):
    told = {}
    monkeypatch.setattr(
        "pplvae.commands.fitting.TensorBoard", lambda folder: lambda epoch, _: told.setdefault(folder, []).append(epoch)
    )
    assert called(here, *"fit --data rows.csv --epochs 2 --run runs/c --tensorboard logs".split())[0] == 0
    assert told == {Path("logs"): [0, 1]}


def test_unfinished_runs_and_folders_without_any(here):
    (here / "runs/a/run.json").unlink()
    (here / "runs/circle").symlink_to(here / "runs")
    assert len(called(here, "runs")[1].splitlines()) == 3
    assert re.search(r"runs/a +ppca +rows.csv +unfinished", called(here, "runs")[1])
    (here / "empty").mkdir()
    code, out, _ = called(here, "runs", "empty")
    assert (code, "no runs in 'empty'" in out) == (0, True)
    code, _, err = called(here, "runs", "none")
    assert (code, "no folder 'none'" in err) == (2, True)


# Terminals.


@pytest.mark.parametrize(("environment", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_a_terminal_gets_tables_with_colours_if_wanted(made, monkeypatch, environment, coloured):
    for name, value in ({"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "140"} | environment).items():
        monkeypatch.setenv(name, value)
    _, out, _ = called(made, "compare", "runs/a", "runs/b")
    assert "─────" in out
    colour = re.search(r"\x1b\[(?:\d+;)*3[0-7]m", out)  # bold and underlined are none
    assert bool(colour) == coloured
    monkeypatch.setenv("COLUMNS", "60")
    _, narrow, _ = called(made, "compare", "runs/a", "runs/b")
    assert "─────" not in narrow
    assert "amortisation_gap" in narrow


def test_a_pipe_gets_no_codes(made):
    for words in (("runs",), ("compare", "runs/a", "runs/b"), ("fit", "--help"), ("compare", "none")):
        assert "\x1b" not in "".join(called(made, *words)[1:])
    command = [sys.executable, "-m", "pplvae", "runs"]
    done = subprocess.run(command, cwd=made, capture_output=True, text=True, env=plain_environment(), check=True)
    assert "runs/a" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


def plain_environment(**more):
    kept = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "GITHUB_ACTIONS")}
    return kept | {"PYTHONPATH": str(Path(pplvae.__file__).parent.parent)} | more


def test_version(made):
    assert called(made, "--version") == (0, f"pplvae {pplvae.__version__}\n", "")


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
def test_completion_is_installed_and_completes(tmp_path):
    code = "import sys; sys.argv[0] = 'pplvae'; from pplvae.cli import main; main()"
    python = f"{shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    home = plain_environment(HOME=str(tmp_path))
    done = subprocess.run(
        ["bash", "-c", f"{python} --install-completion; exit $?"], capture_output=True, text=True, env=home
    )
    assert done.returncode == 0, done.stderr
    (script,) = tmp_path.rglob("pplvae.sh")
    assert "_PPLVAE_COMPLETE" in script.read_text()
    assert str(script) in (tmp_path / ".bashrc").read_text()
    asked = home | {"_PPLVAE_COMPLETE": "complete_bash", "COMP_WORDS": "pplvae ca", "COMP_CWORD": "1"}
    done = subprocess.run(["bash", "-c", python], capture_output=True, text=True, env=asked)
    assert done.stdout.split() == ["calibrate"]


# Help.


@pytest.mark.parametrize("command", COMMANDS)
def test_the_examples_in_the_help_work(here, short_attribution, request, command):
    if command == "demo":
        request.getfixturevalue("small_demo")
    code, out, _ = called(here, command, "--help")
    text = out.split("Examples:")[1]
    examples = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text) if part.strip()]
    assert code == 0
    assert len(examples) == 2
    if command == "export":
        (here / "rows.csv").unlink()
        assert called(here, "calibrate", "runs/a", *SMALL["calibrate"])[0] == 0
    if command == "fit":
        shutil.rmtree(here / "runs")
    if command == "verify-distributed":
        request.getfixturevalue("trial_alone")
    if command in ("check", "draw", "verify-distributed"):
        (here / "my_file.py").write_text(MINE + FUNCTIONS)
    for example in examples:
        program, *words = shlex.split(example)
        two = command == "compare" and len([word for word in words if word.startswith("runs/")]) == 2
        assert program == "pplvae"
        code, _, err = called(here, *words, *(() if two else SMALL.get(command, ())))
        assert code == (4 if two else 0), err


def test_the_page_on_the_command_line_is_current(made):
    page = Path(pplvae.__file__).parent.parent / "docs" / "command_line.md"
    if not page.exists():
        pytest.skip("installed without its documents")
    assert page.read_text() == called(made, "manual")[1], "run `pplvae manual > docs/command_line.md`"


# The functions behind the options of a command.
BEHIND = {
    "demo": (),
    "fit": (pplvae.fit, pplvae.load_data),
    "compare": (pplvae.compare,),
    "attribute": (pplvae.attribute,),
    "calibrate": (pplvae.calibrate,),
    "latents": (pplvae.latent_use,),
    "check": (pplvae.check, pplvae.load_data),
}
# Keywords that a command line could give, and why it does not.
NOT_GIVEN = {
    **dict.fromkeys(("store", "progress", "run"), "the command's own"),
    "train": "of a fit that goes on from another",
    "valid": "the run folder would have to keep it",
    "test": "the run folder would have to keep it",
    "batch": "no model that is shipped takes one, and it would stand beside --batch-size",
}
PLAIN = {int, float, str, bool, int | None, float | None, str | None, bool | None, int | str | None}
OTHER_WORDS = {"objective", "screen", "evidence", "existing", "most_rows"}  # None, or names that are options


@pytest.mark.parametrize(
    ("command", "function", "keyword"),
    [
        (command, function, keyword)
        for command, functions in BEHIND.items()
        for function in functions
        for keyword in inspect.signature(function).parameters.values()
        if keyword.kind is keyword.KEYWORD_ONLY and keyword.name not in NOT_GIVEN
    ],
    ids=lambda value: getattr(value, "name", getattr(value, "__name__", value)),
)
def test_plain_keywords_are_options_with_the_same_default_and_words(command, function, keyword):
    option = next((one for one in COMMANDS[command].params if one.name == keyword.name), None)
    if option is None:
        assert keyword.annotation not in PLAIN
        return
    default = ",".join(map(str, keyword.default)) if isinstance(keyword.default, tuple) else keyword.default
    assert option.default == (None if keyword.name == "screen" else default)
    sentence = sentence_of(function, keyword.name)
    if keyword.name not in OTHER_WORDS and (function, keyword.name) != (pplvae.load_data, "seed"):
        assert option.help.startswith((sentence[:1].upper() + sentence[1:]).replace("`", ""))


@pytest.mark.parametrize("name", ["compare", "attribute"])
def test_lists_and_none_reach_the_function(here, monkeypatch, name):
    given = {}

    def noted(*_, **options):
        given.update(options)
        raise ValueError("enough")

    monkeypatch.setattr(pplvae, name, noted)
    words = {"compare": ("--families", "flow, mixture", "--evidence", "none"), "attribute": ("--hidden", "8,4")}[name]
    assert called(here, name, "runs/a", *words)[0] == 2
    if name == "compare":
        assert (given["families"], given["evidence"], given["screen"]) == (["flow", "mixture"], None, False)
    else:
        assert given["hidden"] == [8, 4]
    assert given["progress"]
    assert called(here, name, "runs/a", *words, "--quiet")[0] == 2
    assert not given["progress"]
