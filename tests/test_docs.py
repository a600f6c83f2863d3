"""The site tells the truth: equations stand beside lines and tests that exist, every public name has a page."""

import importlib
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scripts import script_in_this_process  # noqa: F401 - a fixture

import pplvae
from pplvae.checking.codes import CODES
from pplvae.statistics.findings import EXPLANATIONS

DOCS = Path(__file__).parent.parent / "docs"
LECTURE = range(6, 57)  # numbers of its equations
OPTION = r"^:{}: '?(.*?)'?$"


def test_every_code_has_a_page_with_its_own_words(monkeypatch):
    monkeypatch.syspath_prepend(str(DOCS))
    pages = importlib.import_module("findings").pages()
    assert set(CODES) | set(EXPLANATIONS) | {"index"} == set(pages)
    assert {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "findings").iterdir()} == pages


def test_outputs_that_are_kept_are_of_the_code_that_stands_there():
    """A notebook that was edited is run again at full size: CONTRIBUTING says how."""
    cell = re.compile(r"^```\{code-cell\}[^\n]*\n(?::[^\n]*\n)*(.*?)^```", re.S | re.M)
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in (DOCS / "kept").glob("executed/*/base.ipynb")]
    run = {tuple("".join(cell["source"]).strip() for cell in notebook["cells"]) for notebook in kept}
    written = {}
    for path in [*DOCS.glob("*.md"), *DOCS.glob("*/*.md")]:
        cells = tuple(code.strip() for code in cell.findall(path.read_text(encoding="utf-8")))
        written |= {cells: path.name} if cells else {}
    assert len(written) >= 10
    assert [name for cells, name in written.items() if cells not in run] == []
    assert len(run) == len(written)


@pytest.fixture
def tools(monkeypatch):
    """Modules of the site that need no Sphinx, by name."""
    monkeypatch.syspath_prepend(str(DOCS / "_sphinx"))
    yield importlib.import_module
    for name in ("places", "check"):
        sys.modules.pop(name, None)


def concepts():
    """Numbers, code, line and test of each equation, and the numbers that are said to have no place."""
    text = (DOCS / "concepts.md").read_text(encoding="utf-8")
    boxes = re.findall(r"^```\{beside\}(.*?)\n(.*?)^```", text, re.S | re.M)
    options = [[re.search(OPTION.format(name), body, re.M) for name in ("code", "line", "test")] for _, body in boxes]
    places = [[found and found[1] for found in each] for each in options]
    left_out = re.findall(r"\d+", text.split("have no place here")[1].split("```")[0])
    return [numbers.split() for numbers, _ in boxes], places, left_out


def test_every_number_of_the_lecture_appears_once():
    numbers, _, left_out = concepts()
    found = sorted(int(number) for group in [*numbers, left_out] for number in group)
    assert found == list(LECTURE)


def test_equations_stand_beside_code_and_tests_that_exist(tools):
    place = tools("places").place
    _, places, _ = concepts()
    assert len(places) > 20
    for code, line, test in places:
        there = place(code)
        assert line is None or len(there.line(line).lines) >= 1
        assert place(test).name.startswith("test_")
        assert test.startswith("tests/")


@pytest.mark.parametrize(
    ("where", "line"),
    [
        ("pplvae/gone.py", None),
        ("pplvae/errors.py:Gone", None),
        ("pplvae/errors.py:PplvaeError.gone", None),
        ("pplvae/errors.py:printable", "no line begins like this"),
        ("pplvae/errors.py", "class"),  # many lines
    ],
)
def test_a_place_that_is_not_there_is_refused(tools, where, line):
    places = tools("places")

    def found():
        return places.place(where).line(line)

    with pytest.raises(places.PlaceError):
        found()


def test_every_public_name_has_a_page():
    pages = "".join(path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md"))
    entries = set(re.findall(r"^   (pplvae\.\S+)$", pages, re.M))
    rooms = ("adapters", "data", "guides", "likelihoods", "models", "objectives", "plots", "priors")
    names = {f"pplvae.{room}.{name}" for room in rooms for name in getattr(pplvae, room).__all__}
    own = {f"pplvae.{name}" for name in pplvae.__all__ if name not in (*rooms, "__version__", "loggers")}
    registers = {name for name in names if f"`{name.split('.')[-1]}`" in pages}
    # What is at home in a room has its page there.
    elsewhere = {name for name in own if any(name.replace("pplvae.", f"pplvae.{room}.") in names for room in rooms)}
    assert (names | own) - registers - elsewhere - entries == set()


def test_pages_of_the_site_are_found_from_its_first():
    """A page that no table of contents has would not be found by readers."""
    listed = {"index"}
    for path in [*DOCS.glob("*.md"), *DOCS.glob("*/*.md")]:
        for block in re.findall(r"^```\{toctree\}\n(.*?)^```", path.read_text(encoding="utf-8"), re.S | re.M):
            entries = [line for line in block.splitlines() if line and not line.startswith(":")]
            listed |= {str((path.parent / entry).resolve().relative_to(DOCS.resolve())) for entry in entries}
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in [*DOCS.glob("*.md"), *DOCS.glob("*/*.md")]}
    assert pages == listed


def test_a_broken_link_and_a_foreign_script_are_found(tools, tmp_path):
    wrong = tools("check").wrong
    (tmp_path / "a.html").write_text('<h1 id="top">a</h1><a href="b.html#there">b</a><a href="https://x.org">x</a>')
    (tmp_path / "b.html").write_text('<p id="there"></p><img src="a.html">')
    (tmp_path / "llms.txt").write_text("- [a](a.html): one.\n")
    assert list(wrong(tmp_path)) == []
    (tmp_path / "b.html").write_text('<script src="https://cdn.org/x.js"></script><a href="gone.html">g</a>')
    (tmp_path / "llms.txt").write_text("- [c](c.html)\n")
    found = list(wrong(tmp_path))
    assert len(found) == 4
    for part in ("#there", "cdn.org", "gone.html", "c.html"):
        assert any(part in sentence for sentence in found), part


LESS = {"fit": "--epochs 1", "compare": "--max-steps 1 --simulated 0 --particles 10", "check": "", "report": ""}
TYPED = """
import sys
from pplvae.cli import main

for words in {commands}:
    sys.argv = ["pplvae", *words]
    try:
        main()
    except SystemExit as left:
        assert not left.code, words
"""


def commands_of(page):
    """Words after "pplvae" of the commands that a page says to type, with less to do; those that are in `LESS`."""
    blocks = re.findall(r"^```sh\n(.*?)^```", page, re.S | re.M)
    words = [line.split()[1:] for block in blocks for line in block.splitlines() if line.startswith("pplvae ")]
    return [[*command, *LESS[command[0]].split()] for command in words if command[0] in LESS]


def test_what_start_says_to_type_works(tmp_path, script):
    """Its own model, its commands and its Python, in one process."""
    page = (DOCS / "start.md").read_text(encoding="utf-8")
    program, in_python = re.findall(r"^```python\n(.*?)^```", page, re.S | re.M)
    (tmp_path / "my_vae.py").write_text(program)
    np.savetxt(tmp_path / "rows.csv", np.random.default_rng(0).normal(size=(40, 13)), delimiter=",")
    commands = commands_of(page)
    assert [words[0] for words in commands] == ["fit", "compare", "report", "check", "fit", "compare", "report"]
    for large, small in (("seed=0)\ngap", "epochs=1, seed=0)\ngap"), ("fit.guide, data", "fit.guide, data.test[:4]")):
        assert in_python.count(large) == 1
        in_python = in_python.replace(large, small)
    typed = TYPED.format(commands=commands) + in_python
    (tmp_path / "typed.py").write_text(typed)
    assert "amortisation_gap" in script(tmp_path / "typed.py")
    assert (tmp_path / "gap.html").exists()
    assert (tmp_path / "runs/a/report.html").exists()


@pytest.mark.parametrize("library", ["numpyro", "pythae", "scvi"])
def test_programs_of_other_libraries_run(library, tmp_path):
    """Beside ours on the page for those who come from there."""
    pytest.importorskip(library)
    page = (DOCS / "coming_from.md").read_text(encoding="utf-8")
    blocks = [code for code in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M) if f"import {library}" in code]
    blocks += [code for code in re.findall(r"^```python\n(.*?)^```", page, re.S | re.M) if f"from {library}." in code]
    done = subprocess.run([sys.executable, "-c", blocks[0]], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "ELBO" in done.stdout
