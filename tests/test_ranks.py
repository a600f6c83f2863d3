"""Several ranks do what one does: fits to rounding, comparisons to the bit; and what cannot be shared is refused."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import ranks_job
import torch
import typer
from torch.distributed.run import get_args_parser
from typer.testing import CliRunner

from pplvae.cli import app
from pplvae.commands import verification
from pplvae.run_folders import WEIGHTS
from pplvae.scoring import chunks
from pplvae.store import read_tensors
from pplvae.training import passing
from pplvae.training import steps as steps_module

HERE = Path(__file__).parent
RANKS = 2
ROUNDING = 1e-11  # nats, and weights; Adam of few steps makes nothing of the last digits
OF_SEARCHES = 1e-6  # nats, of gaps under weights that differ by so little


def torchrun(*words, ranks=RANKS, options=(), **environment):
    """Run something on so many ranks; what it says."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", *options]
    paths = {"PYTHONPATH": os.pathsep.join([str(HERE.parent), str(HERE), os.environ.get("PYTHONPATH", "")])}
    environment = {**os.environ, **paths, **environment}
    return subprocess.run([*command, *map(str, words)], capture_output=True, text=True, timeout=300, env=environment)


@pytest.fixture(scope="module")
def together(tmp_path_factory):
    """What each of two ranks has found, and the folder that it is in."""
    folder = tmp_path_factory.mktemp("ranks")
    done = torchrun(HERE / "ranks_job.py", folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return [torch.load(folder / f"{rank}.pt", weights_only=False) for rank in range(RANKS)], folder


@pytest.fixture
def alone(monkeypatch):
    for module, name in ((steps_module, "_PLAIN_FIRST"), (steps_module, "_SHARE"), (passing, "_STEPS_UNCOMPARED")):
        monkeypatch.setattr(module, name, getattr(module, name))  # put back what `at_once` changes
    ranks_job.at_once()


def same(one, other, tolerance):
    assert one.keys() == other.keys()
    for name, value in one.items():
        if name == "steps":  # when they are replayed depends on how many are to come
            continue
        if isinstance(value, np.ndarray) and value.dtype.kind == "f":
            most = OF_SEARCHES if tolerance and name.startswith("look") else tolerance
            np.testing.assert_allclose(other[name], value, rtol=0, atol=most, equal_nan=True, err_msg=name)
        else:
            assert np.array_equal(value, other[name]), name


@pytest.mark.parametrize("name", ranks_job.FITS)
def test_a_fit_is_that_of_one_process(name, together, alone):
    (first, second), _ = together
    same(first[name], second[name], 0.0)
    by_itself = ranks_job.FITS[name]()
    assert "refused" not in by_itself
    assert by_itself["steps"] == first[name]["steps"]
    same(by_itself, first[name], ROUNDING)


def test_a_fit_of_several_ranks_goes_on_alone(together, alone, tmp_path):
    (first, _), folder = together
    assert len(first["resumed"]["objective"]) == 2
    gone_on = ranks_job.resumed(folder, existing="resume")
    same(ranks_job.resumed(tmp_path), gone_on, ROUNDING)


@pytest.mark.parametrize("name", ranks_job.MEASURED)
def test_rows_are_measured_to_the_same_bits(name, together, tmp_path):
    (first, second), _ = together
    same(first[name], second[name], 0.0)
    same(ranks_job.measured(name, tmp_path), first[name], 0.0)


def test_what_ranks_have_measured_is_not_measured_again(together, monkeypatch):
    (first, _), folder = together
    monkeypatch.setattr(chunks, "_measured", pytest.fail)
    same(first["compare"], ranks_job.measured("compare", folder), 0.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("rows mixed", "cannot be shared by several ranks.*no sum over its rows"),
        ("noise of its own", "random numbers that do not belong to rows"),
        ("rows normalised", "BatchNorm2d.* normalises over the rows"),
        ("latents of a batch", "compares the latents of a whole batch"),
        ("free bits", "decided by the mean KL over a whole batch"),
        ("a batch too small", "A batch of 1 rows cannot be taken in 2 parts"),
        ("other rows", r"must be given the same, but `content of rows` is"),
        ("other settings", "must be given the same, but `lr` is 0.01 on rank 0 and 0.02 on rank 1"),
        ("coming apart", r"come apart in epoch 2, after step \d: '.*encoder.weight' is not the same.*1 of \d tensors"),
    ],
)
def test_what_cannot_be_shared_is_refused_on_all_ranks(name, words, together):
    (first, second), _ = together
    for found in (first, second):
        assert "refused" in found[name], found[name]
        assert re.search(words, found[name]["refused"]), found[name]["refused"]


def test_a_failure_on_one_rank_ends_the_others_with_its_words(together):
    (first, second), _ = together
    assert second["failing on one rank"]["refused"].startswith("ProgramError: The objective raised KeyError")
    assert first["failing on one rank"]["refused"].startswith("RanksError: Rank 1 says: 'no such word'")


def test_a_loss_that_is_no_number_on_one_rank_ends_all_alike(together):
    (first, second), _ = together
    assert first["broken off"]["status"] == "NONFINITE"
    assert first["broken off"]["message"] == second["broken off"]["message"]


DYING = """
import os, signal
from pathlib import Path
import torch
import pplvae

class Dying(pplvae.models.PPCA):
    def guide(self, v):
        mark = Path(__file__).with_name("killed")
        if torch.is_grad_enabled() and os.environ.get("RANK") == "1" and not mark.exists():
            self.calls = getattr(self, "calls", 0) + 1
            if self.calls == 20:
                mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return super().guide(v)
"""


def test_a_rank_that_is_killed_is_started_anew_to_the_same_end(tmp_path):
    """On the command line, whose ranks but the first say nothing; the run goes on where the last epoch has ended."""
    (tmp_path / "dying.py").write_text(DYING)
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(60, 4)))
    fit = ["fit", "--data", tmp_path / "rows.npy", "--model", f"{tmp_path / 'dying.py'}:Dying", "--latent", 2]
    fit += ["--epochs", 8, "--batch-size", 16, "--noise", "rows"]
    words = ["-m", "pplvae", *fit, "--folder", tmp_path / "ranks", "--json"]
    done = torchrun(*words, options=["--max-restarts=1", "--monitor-interval=0.1"])
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "killed").exists()
    last = done.stdout.rindex('{\n  "pplvae"')  # the first start has told that it has lost a rank
    assert json.loads(done.stdout[last:])["fit"]["epochs"] == 8
    alone = [sys.executable, "-m", "pplvae", *map(str, fit), "--folder", str(tmp_path / "alone"), "-q"]
    subprocess.run(alone, check=True, env={**os.environ, "PYTHONPATH": str(HERE.parent)})
    one, other = (read_tensors(tmp_path / run / WEIGHTS)[0] for run in ("alone", "ranks"))
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=0, atol=1e-5)  # single precision


def test_no_option_of_ours_begins_one_of_torchruns():
    """Whose parser takes such an option of the script for its own, also after the name of a module."""
    theirs = {option for action in get_args_parser()._actions for option in action.option_strings}
    for name, command in typer.main.get_command(app).commands.items():
        for option in command.params:
            taken = [word for word in option.opts for their in theirs if word[:2] == "--" and their.startswith(word)]
            assert set(option.opts) - set(taken), f"{name}: {option.opts} cannot be given under torchrun"


def test_other_verbs_run_in_one_process(tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        for variable, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "0", "WORLD_SIZE": "2"}.items():
            patch.setenv(variable, value)
        outcome = CliRunner().invoke(app, ["latents", str(tmp_path)])
    assert outcome.exit_code == 2
    assert "`pplvae latents` runs in one process: start it without torchrun" in " ".join(outcome.stderr.split())


def test_verify_distributed_starts_ranks_and_finds_them_right(tmp_path):
    np.save(tmp_path / "rows.npy", np.random.default_rng(0).normal(size=(60, 4)))
    words = ["verify-distributed", "--data", "rows.npy", "--model", "ppca", "--latent", 2, "--epochs", 2, "--json"]
    words += ["--most-rows", 31, "--batch-size", 16, "--most-compared", 9]
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    command = [sys.executable, "-m", "pplvae", *map(str, words)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)
    told = json.loads(done.stdout)
    assert (done.returncode, told["status"], told["ranks"]) == (0, 0, 2), done.stderr
    rights = {name: found["right"] for name, found in told["found"].items()}
    assert sum(right is True for right in rights.values()) == 8
    assert told["found"]["noise_repeated"]["value"] == 0


FOUND = {
    "weight/a": torch.ones(3),
    "gradient/a": torch.ones(3),
    "noise": torch.randn(8, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64),
    "taken": torch.tensor([1, 0]),
    "elbo_local": torch.zeros(2),
    "compared": torch.tensor([1, 1]),
} | {f"{work}_{name}": torch.ones(()) for work in ("fit", "compare") for name in ("rows", "seconds", "waited")}
WRONG = {
    "ranks_agree": {"weight/a": torch.tensor([1.0, 1.0, 1.0 + 1e-7])},
    "noise_repeated": {"noise": FOUND["noise"]},
    "noise_correlation": {"noise": FOUND["noise"] + 1e-3},
    "rows_fitted": {"taken": torch.tensor([1, 1])},
}
WRONG_FIRST = {
    "parameters": {"weight/a": torch.tensor([1.0, 1.0, 1.0 + 1e-7])},
    "gradient_scale": {"gradient/a": torch.full((3,), 0.5)},
    "rows_compared": {"compared": torch.tensor([2, 0])},
    "comparison": {"elbo_local": torch.tensor([0.0, 1e-12])},
}


@pytest.mark.parametrize("name", ["", *WRONG, *WRONG_FIRST])
def test_what_is_wrong_with_ranks_is_found(name):
    noise = torch.randn(8, 16, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    second = FOUND | {"noise": noise, "taken": torch.tensor([0, 1])} | WRONG.get(name, {})
    first = FOUND | WRONG_FIRST.get(name, {})
    if name == "parameters":
        second |= WRONG_FIRST[name]  # the ranks agree with each other
    lines = {line.name: line.right for line in verification._lines(FOUND, [first, second])}
    wrong = [line for line, right in lines.items() if right is False]
    assert wrong == ([name] if name else []) or (name == "noise_repeated" and wrong == [name, "noise_correlation"])
