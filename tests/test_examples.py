"""Every example runs, at a reduced size; a new one must be listed here."""

import subprocess
import sys
from pathlib import Path

import pytest
from scripts import script_in_this_process  # noqa: F401 - a fixture

EXAMPLES = Path(__file__).parent.parent / "examples"
REDUCED = {
    "01_linear.py": ["--rows", "30"],
    "02_digits.py": ["--epochs", "8", "--rows", "30"],
    "03_your_own_model.py": ["--epochs", "5", "--rows", "60"],
    "04_when_amortisation_can_work.py": [
        "--rows",
        "100",
        "--seeds",
        "1",
        "--epochs",
        "10",
        "--degrees",
        "0",
        "1",
        "--widths",
        "4",
    ],
    "05_outliers.py": ["--epochs", "5", "--rows", "12"],
    "06_inference_suboptimality.py": ["--epochs", "1", "--rows", "3", "--temperatures", "3"],
    "07_sources.py": ["--rows", "300", "--epochs", "4", "--fits", "2"],
    "08_iterative.py": ["--epochs", "2", "--more-epochs", "2", "--rows", "6", "--figure", "paths.png"],
    "09_identities.py": ["--rows", "200", "--epochs", "5"],
    "10_reduced_latents.py": ["--rows", "300", "--epochs", "3"],
    "11_grey_is_not_binary.py": ["--epochs", "1", "--rows", "20"],
    "12_gradient_noise.py": ["--epochs", "3", "--repeats", "5"],
    "13_real_data.py": ["digits", "--epochs", "3", "--rows", "40"],
    "14_from_torch.py": ["--epochs", "3", "--rows", "20"],
}


ALONE = "01_linear.py"  # in a process of its own, with its search as it stands


@pytest.mark.parametrize("name", sorted(REDUCED.keys() - {ALONE}))
def test_runs(name, script):
    assert "±" in script(EXAMPLES / name, *REDUCED[name])


def test_runs_alone(tmp_path):
    command = [sys.executable, "-W", "error::UserWarning", EXAMPLES / ALONE, *REDUCED[ALONE]]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "±" in done.stdout


def test_all_are_listed():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(REDUCED)
