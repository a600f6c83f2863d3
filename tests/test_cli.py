"""The command line, as its user meets it."""

import json
import re
import shlex
import shutil
import subprocess
import sys

import numpy as np
import pytest
from sklearn.datasets import load_digits

import pplvae
from pplvae.cli import main

MINE = """
import pyro, torch
import pyro.distributions as dist
from torch import nn

class MyVAE(nn.Module):
    def __init__(self, visible, latent=2):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(visible, latent), nn.Linear(latent, visible)

    def model(self, v):
        pyro.module("mine", self)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(self.encoder.out_features), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(self.decoder(h), 1.0).to_event(1), obs=v)

    def guide(self, v):
        pyro.module("mine", self)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(self.encoder(v), 0.5).to_event(1))

class NoPrograms(nn.Module):
    pass
"""


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run a command in a folder of its own; exit status, output, errors."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["pplvae", *map(str, words)])
        try:
            main()
            code = 0
        except SystemExit as leaving:
            code = leaving.code or 0
        printed = capsys.readouterr()
        return code, printed.out, printed.err

    return run


def test_fit_compare_report_of_a_model_of_ones_own(run, tmp_path):
    (tmp_path / "my_file.py").write_text(MINE)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(60, 4)))
    common = ("--model", "my_file.py:MyVAE", "--data", "rows.npy", "--epochs", 2, "--latent", 3, "--run", "r")
    code, out, _ = run("fit", *common)
    assert code == 0
    assert "Run folder: r" in out
    assert run("fit", *common)[0] == 2  # occupied
    assert run("fit", *common, "--existing", "overwrite")[0] == 0
    code, out, _ = run("compare", "r", "--particles", 20, "--max-steps", 25, "--evidence", "none")
    assert code == 0
    assert "train: 42 rows" in out
    assert "test: 12 rows" in out
    code, out, _ = run("report", "r")
    assert code == 0
    assert "<html" in (tmp_path / "r" / "report.html").read_text()
    names = {path.name for path in (tmp_path / "r").iterdir()}
    assert names == {
        "checkpoint.safetensors", "weights.safetensors", "history.nc", "run.json",
        "command.json", "comparison.nc", "report.html", ".lock",
    }  # fmt: skip


def test_demo(run, tmp_path, monkeypatch):
    few = load_digits()
    few.images, few.target = few.images[:200], few.target[:200]
    monkeypatch.setattr("sklearn.datasets.load_digits", lambda: few)
    code, out, _ = run("demo", "--epochs", 2, "--run", "demo")
    assert code == 0
    assert "train: 140 rows" in out
    assert "amortisation_gap" in out
    assert (tmp_path / "demo" / "report.html").stat().st_size > 50_000


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("fit", "--model", "bernouli-vae"), "Did you mean 'bernoulli-vae'"),
        (("fit", "--model", "none.py:VAE"), "no file 'none.py'"),
        (("fit", "--model", "my_file.py:Other"), "Did you mean|Known: MyVAE"),
        (("fit", "--model", "my_file.py:NoPrograms"), "no method `model"),
        (("fit", "--data", "none.csv"), "no file 'none.csv'"),
        (("fit", "--objective", "Elbo"), "Unknown objective"),
        (
            ("fit", "--binarise", "none", "--likelihood", "bernoulli"),
            "`--likelihood continuous-bernoulli`.*`--binarise thr",
        ),
        (("compare", "none"), r"no run 'none'.*`pplvae fit`"),
        (("report", "none"), "no run 'none'"),
        (("compare", "none", "none"), "no run 'none'"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_refused_input_is_one_line_and_status_2(run, tmp_path, words, text):
    import re

    (tmp_path / "my_file.py").write_text(MINE)
    code, out, err = run(*words)
    assert code == 2
    assert re.search(text, err)
    assert "Traceback" not in out + err


def test_damaged_run(run, tmp_path):
    (tmp_path / "r").mkdir()
    (tmp_path / "r" / "command.json").write_text("{")
    code, _, err = run("compare", "r")
    assert code == 2
    assert "damaged" in err


@pytest.mark.parametrize("command", ["demo", "fit", "compare", "report"])
def test_help(run, command):
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "Usage" in out
    assert f"pplvae {command}" in out


def test_as_a_module():
    done = subprocess.run([sys.executable, "-m", "pplvae", "fit", "--help"], capture_output=True, text=True, check=True)
    assert "Usage" in done.stdout


def test_two_runs_on_the_same_rows(run, tmp_path):
    """The second is fitted for longer: better one way round, worse the other."""
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(200, 4)) @ np.full((4, 4), 0.7))
    for name, epochs in (("a", 1), ("b", 25)):
        assert (
            run("fit", "--model", "ppca", "--data", "rows.npy", "--epochs", epochs, "--latent", 1, "--run", name)[0]
            == 0
        )
        quick = (
            "--particles",
            50,
            "--max-steps",
            25,
            "--families",
            "full_covariance",
            "--screen",
            0.01,
            "--simulated",
            2,
        )
        code, out, said = run("compare", name, *quick)
        assert code == 0, said
        assert "elbo_local_full_covariance" in out
    code, out, _ = run("compare", "a", "b")
    assert code == 0
    assert "elbo_amortised" in out
    assert run("compare", "b", "a")[0] == 4
    assert run("compare", "b", "a", "--margin", 1000)[0] == 0
    assert run("compare", "a", "c")[0] == 2
    assert run("report", "b")[0] == 0


QUICK = ("--particles", 10, "--max-steps", 3, "--evidence", "none", "--simulated", 2)


def save_rows(path, seed=0, columns=4):
    path.parent.mkdir(exist_ok=True)
    np.save(path, np.random.default_rng(seed).normal(size=(60, columns)))


@pytest.mark.parametrize("existing", ["overwrite", "resume"])
def test_results_of_the_old_run_go(run, tmp_path, existing):
    save_rows(tmp_path / "rows.npy")
    fit = ("fit", "--model", "ppca", "--data", "rows.npy", "--latent", 1, "--run", "r", "--epochs")
    assert run(*fit, 1)[0] == run("compare", "r", *QUICK)[0] == run("report", "r")[0] == 0
    results = [tmp_path / "r" / name for name in ("comparison.nc", "report.html")]
    command = (tmp_path / "r" / "command.json").read_text()
    assert run(*fit, 2, "--seed", 1)[0] == 2  # refused, it leaves all as it was
    assert all(path.exists() for path in results)
    assert (tmp_path / "r" / "command.json").read_text() == command
    assert run(*fit, 2, "--existing", existing)[0] == 0
    assert not any(path.exists() for path in results)
    code, _, err = run("report", "r")
    assert code == 2
    assert "has not been compared: `pplvae compare r` comes first" in err


@pytest.mark.parametrize("existing", ["refuse", "resume", "overwrite"])
def test_a_fit_that_is_refused_leaves_no_trace(run, tmp_path, existing):
    """Real numbers do not fit a Bernoulli likelihood; the corrected command then works as it stands."""
    save_rows(tmp_path / "rows.npy")
    fit = ("fit", "--data", "rows.npy", "--latent", 1, "--epochs", 1, "--run", "deep/r", "--existing", existing)
    assert run(*fit, "--model", "bernoulli-vae")[0] == 2
    assert not (tmp_path / "deep").exists()
    assert run(*fit, "--model", "gaussian-vae")[0] == 0
    assert run("compare", "deep/r", *QUICK)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "deep/r").iterdir()}
    assert run(*fit, "--model", "bernoulli-vae")[0] == 2
    assert {path.name: path.read_bytes() for path in (tmp_path / "deep/r").iterdir()} == before


def test_resuming_with_another_model_is_refused(run, tmp_path):
    save_rows(tmp_path / "rows.npy")
    fit = ("fit", "--data", "rows.npy", "--likelihood", "gaussian", "--latent", 2, "--run", "r")
    assert run(*fit, "--prior", "standard-normal", "--epochs", 1)[0] == 0
    command = tmp_path / "r" / "command.json"
    written = command.read_text()
    code, _, err = run(*fit, "--prior", "laplace", "--epochs", 2, "--existing", "resume")
    assert code == 2
    assert "prior was 'standard-normal' and is 'laplace'" in err
    assert command.read_text() == written
    older = json.loads(written)
    del older["spec"]["guide"], older["spec"]["missing"]  # options that came later
    command.write_text(json.dumps(older))
    assert run(*fit, "--prior", "standard-normal", "--epochs", 2, "--existing", "resume")[0] == 0
    assert command.read_text() == written


def test_what_was_asked_for_is_written_before_the_fit(run, tmp_path, monkeypatch):
    save_rows(tmp_path / "rows.npy")

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pplvae.fit", killed)
    assert run("fit", "--data", "rows.npy", "--prior", "laplace", "--run", "r")[0] == 130
    assert json.loads((tmp_path / "r" / "command.json").read_text())["spec"]["prior"] == "laplace"


def test_a_run_can_be_used_from_elsewhere(run, tmp_path, monkeypatch):
    save_rows(tmp_path / "here" / "rows.npy")
    save_rows(tmp_path / "there" / "rows.npy", seed=1)  # another file of the same name
    monkeypatch.chdir(tmp_path / "here")
    (tmp_path / "here" / "digits").touch()  # no file of this name hides the data set
    assert run("fit", "--model", "ppca", "--data", "rows.npy", "--epochs", 1, "--run", "../r")[0] == 0
    assert run("fit", "--model", "bernoulli-vae", "--data", "digits", "--epochs", 1, "--run", "../d")[0] == 0
    monkeypatch.chdir(tmp_path / "there")
    assert run("compare", "../r", *QUICK)[0] == 0
    written = json.loads((tmp_path / "r" / "command.json").read_text())["spec"]
    assert written["data"] == str(tmp_path / "here" / "rows.npy")


@pytest.mark.parametrize("columns", [4, 5])
def test_comparing_on_other_rows_is_refused(run, tmp_path, columns):
    save_rows(tmp_path / "rows.npy")
    assert run("fit", "--model", "ppca", "--data", "rows.npy", "--epochs", 1, "--latent", 1, "--run", "r")[0] == 0
    save_rows(tmp_path / "rows.npy", seed=1, columns=columns)
    code, _, err = run("compare", "r", *QUICK)
    assert code == 2
    assert "other training rows" in err
    save_rows(tmp_path / "rows.npy")
    older = json.loads((tmp_path / "r" / "run.json").read_text())
    del older["settings"]["rows_digest"]
    (tmp_path / "r" / "run.json").write_text(json.dumps(older))
    assert run("compare", "r", *QUICK)[0] == 0


def test_interrupted_at_its_start_a_fit_leaves_the_run_that_is_there(run, tmp_path, monkeypatch):
    save_rows(tmp_path / "rows.npy")
    fit = ("fit", "--data", "rows.npy", "--model", "ppca", "--epochs", 1, "--run", "r")
    assert run(*fit, "--latent", 1)[0] == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()}

    def killed(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("pplvae.fit", killed)
    assert run(*fit, "--latent", 2, "--existing", "overwrite")[0] == 130
    assert {path.name: path.read_bytes() for path in (tmp_path / "r").iterdir()} == before


def test_an_interrupted_comparison_goes_on_as_it_says(run, tmp_path, monkeypatch):
    save_rows(tmp_path / "rows.npy")
    assert run("fit", "--data", "rows.npy", "--model", "ppca", "--epochs", 1, "--run", "my run")[0] == 0
    words = ("compare", "my run", *QUICK, "--evidence", "none")
    assert run(*words)[0] == 0
    whole = pplvae.load_comparison(tmp_path / "my run" / "comparison.nc")
    shutil.rmtree(tmp_path / "my run" / "comparison.zarr", ignore_errors=True)
    with monkeypatch.context() as patch:
        patch.setattr("pplvae.scoring.chunks.look_for_missed", interrupted)
        code, _, err = run(*words)
    assert code == 130
    assert err.count("\n") == 1
    again = shlex.split(re.search("Go on with `pplvae ([^`]*)`", err)[1])
    code, _, err = run(*again, "--seed", 1)
    assert (code, "seed was 0 and is 1" in err) == (2, True)
    code, out, _ = run(*again)
    assert code == 0
    assert "42 of 54 rows were there." in out
    assert pplvae.load_comparison(tmp_path / "my run" / "comparison.nc") == whole
    assert not (tmp_path / "my run" / "comparison.zarr").exists()


def interrupted(*_, **__):
    raise KeyboardInterrupt


def test_what_could_not_be_written_is_refused_before_the_work(run, tmp_path, monkeypatch):
    values = np.random.default_rng(0).normal(size=(60, 4))
    np.savez(tmp_path / "rows.npz", x=values, y=np.array(["a\0b", "c"] * 30))
    fit = ("fit", "--data", "rows.npz", "--model", "ppca", "--epochs", 1, "--run", "r")
    assert run(*fit)[0] == 0
    monkeypatch.setattr(pplvae, "compare", pytest.fail)
    code, _, err = run("compare", "r", *QUICK)
    assert (code, "with a NUL character" in err) == (2, True)


def test_parts_of_another_run_are_refused(run, tmp_path):
    save_rows(tmp_path / "rows.npy")
    for name, latent in (("a", 1), ("b", 2)):
        fit = ("fit", "--data", "rows.npy", "--model", "ppca", "--epochs", 1, "--latent", latent, "--run", name)
        assert run(*fit)[0] == run("compare", name, *QUICK)[0] == 0
    for file, words in (
        ("command.json", ("report", "a")),
        ("command.json", ("compare", "a")),
        ("comparison.nc", ("report", "a")),
        ("comparison.nc", ("compare", "b", "a")),
    ):
        own = (tmp_path / "a" / file).read_bytes()
        (tmp_path / "a" / file).write_bytes((tmp_path / "b" / file).read_bytes())
        code, _, err = run(*words)
        assert (code, f"a/{file}' is" in err, "another run" in err) == (2, True, True), (file, words)
        (tmp_path / "a" / file).write_bytes(own)
    assert run("report", "a")[0] == 0
