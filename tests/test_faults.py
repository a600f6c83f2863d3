"""Kills, at random moments and wherever a file comes to its place: what is left is whole, and the end the same bits."""

import json
import os
import subprocess
import sys

import pytest

# In a process of its own: to fork one with threads is not safe.
COUNTS = """
import json, tempfile
from pathlib import Path
from benchmarks import faults

with tempfile.TemporaryDirectory() as folder:
    print(json.dumps([[count.task, count.happened, count.wrong] for count in faults.few(Path(folder))]))
"""


@pytest.mark.statistical
@pytest.mark.skipif(not hasattr(os, "fork"), reason="children are forked")
def test_nothing_is_lost_or_mixed_up_when_a_process_is_killed():
    done = subprocess.run([sys.executable, "-c", COUNTS], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout.splitlines()[-1])
    assert [task for task, *_ in counts] == ["fit", "compare", "fit that replaces another", "compare"]
    assert all(happened >= 3 and wrong == [] for _, happened, wrong in counts), counts
