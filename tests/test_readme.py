"""The README tells the truth: two commands, an example that runs, a map of files that exist."""

import re
from pathlib import Path

from scripts import script_in_this_process  # noqa: F401 - a fixture

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text()


def test_first_block_is_two_commands():
    block = re.search(r"```\w*\n(.*?)```", TEXT, re.S).group(1)
    demo, tests = block.strip().splitlines()
    assert demo.endswith("pplvae demo")
    assert "pytest" in tests
    assert all("python3 -m venv" in line for line in (demo, tests))
    assert "README.md" in (ROOT / ".ci" / "run").read_text()


def test_example_runs(tmp_path, script):
    code = re.search(r"```python\n(.*?)```", TEXT, re.S).group(1)
    assert len(code.strip().splitlines()) < 45
    quick = code.replace("epochs=100", "epochs=2").replace("fit.guide, data,", "fit.guide, data.test[:20],")
    assert quick.count("epochs=2") == 1
    (tmp_path / "quick.py").write_text(quick)
    assert "amortisation_gap" in script(tmp_path / "quick.py")
    assert {path.name for path in tmp_path.iterdir()} == {"quick.py", "gap.nc", "gap.html"}


def test_files_of_the_map_exist():
    rows = re.findall(r"^\| (`[^|]*`) \|", TEXT.split("## The map")[1].split("## Symbols")[0], re.M)
    named = [name for row in rows for name in re.findall(r"`([^`]+)`", row)]
    assert named
    for name in named:
        assert (ROOT / name).exists() or (ROOT / "pplvae" / name).exists(), name
    for link in re.findall(r"\]\((docs/[^)]+)\)", TEXT):
        assert (ROOT / link).exists(), link
