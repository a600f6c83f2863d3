"""The gallery's pictures are made by the code that it shows, and each is there."""

import re
import subprocess
import sys
from pathlib import Path

DOCS = Path(__file__).parent.parent / "docs"
PICTURES = re.findall(r"!\[[^]]*\]\((figures/[^)]+)\)", (DOCS / "gallery.md").read_text())


def test_the_blocks_run_and_draw_every_picture(tmp_path):
    command = [sys.executable, "-W", "error::UserWarning", DOCS / "gallery.py", "--quick", "--to", tmp_path]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")} == set(PICTURES)


def test_the_pictures_are_there_and_small():
    assert len(PICTURES) > 15
    for picture in PICTURES:
        assert 1000 < (DOCS / picture).stat().st_size < 60_000, picture
