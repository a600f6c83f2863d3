"""Section: how long `pplvae demo` takes, the start of Python included."""

import subprocess
import sys
import tempfile

from benchmarks.measure import Quartiles, Settings, timed
from benchmarks.record import Line

_QUICK_EPOCHS = 20


def measure(settings: Settings) -> list[list[Line]]:
    """Seconds of one run in a process of its own."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pplvae", "demo", "--run", f"{folder}/demo"]
        if settings.quick:
            command += ["--epochs", str(_QUICK_EPOCHS)]

        def run() -> None:
            subprocess.run(command, check=True, capture_output=True)

        seconds = timed(run)
    note = f"{_QUICK_EPOCHS} epochs instead of its own" if settings.quick else ""
    return [[Line("demo", "digits", "pplvae demo", Quartiles(seconds, seconds, seconds), "s", note=note)]]
