"""What the command line says: in its own words, with the true cause, and with lines that work as they stand."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from test_cli import MINE, QUICK, run, save_rows  # noqa: F401 - a fixture

from pplvae.commands.spec import default_likelihood
from pplvae.commands.words import in_options

FIT = ("fit", "--data", "rows.csv", "--epochs", 2, "--latent", 1, "--run", "r")
OWN = (*FIT, "--model", "mine.py:MyVAE")


@pytest.fixture
def table(tmp_path):
    """Columns with units, in the folder where commands run."""
    rng = np.random.default_rng(0)
    columns = {"age": rng.integers(18, 80, 60), "income": rng.normal(45000, 12000, 60), "share": rng.random(60)}
    pd.DataFrame(columns).round(3).to_csv(tmp_path / "rows.csv", index=False)


@pytest.mark.parametrize(
    ("python", "here"),
    [
        ('Load with `load_data(..., missing="mask")`.', "Load with `--missing mask`."),
        ("Use `existing='overwrite'`.", "Use `--existing overwrite`."),
        ("`header=True` or `header=False`", "`--header` or `--no-header`"),
        ("lower `lr`, or `max_steps`", "lower `--lr`, or `--max-steps`"),
        ("name it: `labels='my class'`", "name it: `--labels 'my class'`"),
        ('all are features: `ids=""`', "all are features: `--ids ''`"),
        ("use `likelihoods.ContinuousBernoulli`", "use `--likelihood continuous-bernoulli`"),
        (
            "`model(v, observed)`, `model`, `with_mask(v)`, `other=1`",
            "`model(v, observed)`, `model`, `with_mask(v)`, `other=1`",
        ),
    ],
)
def test_keywords_become_options(python, here):
    assert in_options(python, {"missing", "existing", "header", "lr", "max_steps", "labels", "ids", "model"}) == here


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("fit", "--epohcs", 3), "Unknown option '--epohcs'. Did you mean '--epochs'? Known: --accumulate, "),
        (("fit", "--epohcs=3"), "Unknown option '--epohcs'. Did you mean '--epochs'? Known: --accumulate, "),
        (("fit", "--no-haeder"), "Unknown option '--no-haeder'. Did you mean '--no-header'?"),
        (("fit", "--epochs", "x"), "Invalid value for '--epochs': "),
        (("fit", "--epochs"), "Option '--epochs' requires an argument."),
        (("fit", "a", "b"), "Got unexpected extra argument"),
        (("compare",), "Missing argument"),
        (("--versoin",), "Unknown option '--versoin'. Did you mean '--version'?"),
        (("fti",), "Unknown command 'fti'. Did you mean 'fit'?"),
    ],
    ids=lambda value: " ".join(map(str, value)) if isinstance(value, tuple) else "",
)
def test_mistyped_words_are_refused_in_one_line_like_all_else(run, words, said):  # noqa: F811
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert line.startswith(f"pplvae: {said}")


@pytest.mark.parametrize("words", [("fit", "--epohcs", 3), ("compare",), ("fti",)], ids=lambda words: words[0])
def test_mistyped_words_are_refused_as_json_too(run, words):  # noqa: F811
    code, out, err = run(*words, "--json")
    told = json.loads(out)
    assert (code, told["command"], told["status"]) == (2, words[0], 2)
    assert err == f"pplvae: {told['error']}\n"


def test_without_a_word_there_is_help(run):  # noqa: F811
    _, out, err = run()
    assert "Usage: " in out + err
    assert "pplvae: " not in err


def test_the_first_command_on_columns_with_units(run, table):  # noqa: F811
    code, _, err = run(*FIT, "--model", "gaussian-vae")
    assert code == 2
    assert re.search(r"`scale` of Normal .* values from 0\.\d+ to [\d.e+]+, .*`--standardise`", err)
    assert "tensor(" not in err
    code, out, _ = run(*FIT, "--model", "gaussian-vae", "--standardise")
    assert code == 0
    assert "standardised" in out


@pytest.mark.parametrize(
    ("values", "name"),
    [
        ([0.0, 1.0], "bernoulli"),
        ([0.0, 0.5, 1.0], "continuous-bernoulli"),
        ([0.0, 3.0, 12.0], "negative-binomial"),
        ([-1.0, 0.0], "gaussian"),
        ([18.0, 79.0], "gaussian"),
    ],
)
def test_the_likelihood_follows_the_values(values, name):
    assert default_likelihood(torch.tensor([values])) == name


def test_the_likelihood_that_was_chosen_is_said_and_kept(run, table):  # noqa: F811
    code, out, _ = run(*FIT, "--standardise")
    assert code == 0
    assert "Likelihood: gaussian" in out
    assert run("compare", "r", *QUICK)[0] == 0
    code, _, err = run(*FIT, "--standardise", "--likelihood", "bernoulli", "--existing", "resume")
    assert code == 2
    assert "likelihood was 'gaussian' and is 'bernoulli'" in err
    assert "`--existing overwrite`" in err


def test_how_a_file_is_read_can_be_said(run, tmp_path):  # noqa: F811
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(40, 3)), columns=["a", "b", "c"])
    frame.assign(who=np.arange(40)).to_csv(tmp_path / "rows.csv", index=False)
    code, out, _ = run(*FIT, "--ids", "who", "--header")
    assert code == 0
    assert "(28, 3)" in out
    assert run("compare", "r", *QUICK)[0] == 0  # reads it in the same way
    code, _, err = run(*FIT, "--labels", "d", "--existing", "overwrite")
    assert (code, "Known: a, b, c, who" in err) == (2, True)


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07\x1b[2Jcolumn", "a\x9bcolumn"])
def test_names_of_columns_cannot_move_the_cursor(run, tmp_path, name):  # noqa: F811
    (tmp_path / "rows.csv").write_text(f"{name},b\n" + "x,1\n" * 20)
    for words in (FIT, (*FIT, "--labels", "c")):
        code, out, err = run(*words)
        assert code == 2
        assert "column" in err
        assert all(letter.isprintable() or letter == "\n" for letter in out + err)


def test_code_that_the_user_has_not_named_is_not_run(run, table, tmp_path):  # noqa: F811
    assert run(*FIT, "--model", "gaussian-vae", "--standardise")[0] == 0
    planted = tmp_path / "r" / "planted.py"
    for file in (planted, tmp_path / "beside.py"):
        file.write_text(f"raise SystemExit('it ran: {file.name}')")
        command = tmp_path / "r" / "command.json"
        command.write_text(re.sub('"model": "[^"]*"', f'"model": "{file}:Model"', command.read_text()))
        code, out, err = run("compare", "r", *QUICK)
        assert code == 2
        assert re.search(rf"asks to run the code in '.*{file.name}'.*--model {file}:Model`", err)
        assert "it ran" not in out + err


@pytest.mark.parametrize("asked", ["elsewhere/mine.py:MyVAE", "mine.py:planted"])
def test_a_named_file_is_run_where_it_lies_and_for_what_was_named(run, table, tmp_path, asked):  # noqa: F811
    mine = tmp_path / "mine.py"
    mine.write_text(f"{MINE}\ndef planted():\n    raise SystemExit('it ran')\n")
    assert run(*OWN, "--standardise")[0] == 0
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(mine, tmp_path / "elsewhere")  # its neighbours are others
    command = tmp_path / "r" / "command.json"
    before = command.read_text()
    command.write_text(re.sub('"model": "[^"]*"', f'"model": "{tmp_path / asked}"', before))
    code, out, err = run("compare", "r", *QUICK)
    assert code == 2
    assert re.search(rf"asks to run the code in '.*mine.py', .* for '{asked.partition(':')[2]}'", err)
    assert "it ran" not in out + err
    command.write_text(before)
    assert run("compare", "r", *QUICK)[0] == 0


@pytest.mark.filterwarnings("always::pplvae.errors.PplvaeWarning")
def test_a_model_that_has_been_edited_since_is_noticed(run, table, tmp_path):  # noqa: F811
    mine = tmp_path / "mine.py"
    mine.write_text(MINE)
    assert run(*OWN, "--standardise")[0] == 0
    assert run("compare", "r", *QUICK)[0] == 0
    mine.write_text(MINE.replace("0.5).to_event", "0.6).to_event"))
    for words in (("compare", "r", *QUICK), (*OWN, "--standardise", "--existing", "resume")):
        code, _, err = run(*words)
        assert code == 2
        assert re.search(r"mine\.py' has changed since 'r' was fitted", err)
    code, _, err = run("compare", "r", "--model", "mine.py:MyVAE", *QUICK)
    assert (code, "add `--force`" in err) == (2, True)
    code, _, err = run("compare", "r", "--force", *QUICK)
    assert code == 0
    assert "the figures are those of the new model" in err
    mine.write_text(MINE)
    mine.rename(tmp_path / "moved.py")
    code, _, err = run("compare", "r", *QUICK)
    assert (code, "not there any more" in err) == (2, True)
    code, _, err = run("compare", "r", "--model", "moved.py:MyVAE", *QUICK)
    assert (code, err) == (0, "")
    code, _, err = run("compare", "r", "--model", "vae", *QUICK)
    assert (code, "was fitted with" in err) == (2, True)


def test_a_page_of_older_figures_goes(run, table, tmp_path):  # noqa: F811
    assert run(*FIT, "--standardise")[0] == run("compare", "r", *QUICK)[0] == run("report", "r")[0] == 0
    assert run("compare", "r", *QUICK, "--seed", 5)[0] == 0
    assert not (tmp_path / "r" / "report.html").exists()


def test_runs_that_are_not_there_not_ended_or_made_by_python(run, table, tmp_path):  # noqa: F811
    assert run(*FIT, "--standardise")[0] == 0
    folder = tmp_path / "r"
    record = (folder / "run.json").read_bytes()
    (folder / "run.json").unlink()
    for command in ("compare", "report"):
        code, _, err = run(command, "r")
        assert (code, "has not ended" in err, "`--existing resume`" in err) == (2, True, True)
    (folder / "run.json").write_bytes(record)
    asked = (folder / "command.json").read_text()
    (folder / "command.json").write_text(asked.replace('"latent": 1', '"latent": [1]'))
    code, _, err = run("compare", "r")
    assert (code, "damaged (its 'latent' is [1])" in err) == (2, True)
    (folder / "command.json").unlink()
    code, _, err = run("compare", "r")
    assert (code, "pplvae.load_fit('r', model, guide, rows)" in err) == (2, True)
    (folder / "run.json").unlink()
    code, _, err = run("compare", "r")
    assert (code, "is no run folder" in err) == (2, True)


def test_a_folder_that_cannot_be_written_is_refused_before_the_fit(run, table, tmp_path):  # noqa: F811
    (tmp_path / "file").write_text("no folder")
    for folder in ("file/run", "file/deeper/run", "x" * 300):
        code, _, err = run(*FIT[:-1], folder, "--standardise")
        assert code == 2
        assert folder in err
        assert len(err.strip().splitlines()) == 1


def test_the_hint_of_an_interrupted_fit_works_as_printed(tmp_path):
    save_rows(tmp_path / "rows.npy")
    command = [sys.executable, "-m", "pplvae"]
    words = ["fit", "--existing=refuse", "--data", "rows.npy", "--model", "ppca", "--epochs", "150", "--run", "my run"]
    fit = subprocess.Popen([*command, *words], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 60
    while not (tmp_path / "my run" / "checkpoint.safetensors").exists() and time.monotonic() < until:
        time.sleep(0.01)
    fit.send_signal(signal.SIGINT)
    said = fit.communicate(timeout=60)[0]
    assert fit.returncode == 130
    again = shlex.split(re.search("`pplvae ([^`]*)`", said)[1])
    done = subprocess.run([*command, *again], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "150 epochs" in done.stdout
