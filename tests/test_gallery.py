"""The gallery's pictures are made by the code that it shows, and each is there."""

import re
from pathlib import Path

from scripts import script_in_this_process  # noqa: F401 - a fixture

DOCS = Path(__file__).parent.parent / "docs"
PICTURES = re.findall(r"!\[[^]]*\]\((figures/[^)]+)\)", (DOCS / "gallery.md").read_text())


def test_the_blocks_run_and_draw_every_picture(tmp_path, script):
    script(DOCS / "gallery.py", "--quick", "--to", tmp_path)
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.png")} == set(PICTURES)


def test_the_pictures_are_there_and_small():
    assert len(PICTURES) > 15
    for picture in PICTURES:
        assert 1000 < (DOCS / picture).stat().st_size < 60_000, picture
