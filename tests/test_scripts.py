"""The scripts of a page have none of the mistakes that eslint finds, where that is installed."""

import shutil
import subprocess
from pathlib import Path

import pytest

from pplvae.report.page import SCRIPTS
from pplvae.report.template import text_of

ROOT = Path(__file__).parent.parent
ESLINT = shutil.which("eslint")


@pytest.mark.skipif(ESLINT is None, reason="eslint is not installed: `npm install -g eslint`")
@pytest.mark.parametrize("broken", ["", "\nlet forgotten = unknown == 1;\n"])
def test_the_script_of_the_page_has_no_mistakes(broken, tmp_path):
    script = tmp_path / "page.js"  # a page has them as one
    script.write_text("".join(text_of(name) for name in SCRIPTS) + broken)
    shutil.copy(ROOT / ".ci/eslint.config.mjs", tmp_path)
    command = [ESLINT, "-c", "eslint.config.mjs", "page.js"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (done.returncode != 0) == bool(broken), done.stdout + done.stderr
    for rule in ("no-undef", "no-unused-vars", "prefer-const", "eqeqeq") if broken else ():
        assert rule in done.stdout
