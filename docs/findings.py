"""Write docs/findings, a page for every code, from the words that the code itself says: `python docs/findings.py`."""

from pathlib import Path

from pplvae.checking.codes import CODES
from pplvae.statistics.findings import EXPLANATIONS

FOLDER = Path(__file__).parent / "findings"
INDEX = """\
# Findings

What the text and the page of a comparison warn of, and what `pplvae check` says of a program, by code. A code keeps its
meaning from version to version. (`python docs/findings.py` writes these pages.)

## Of a comparison

{comparisons}

## Of a program

What `pplvae.check(model, guide, rows)` and `pplvae check FILE.py:NAME --data ROWS` find. An **error**: `fit` or
`compare` would refuse the pair, or be wrong. A **warning**: hardly what was meant. A **note** is good to know; it
leaves the exit status at 0. `# pplvae: ignore[PV272]` on the line of a site, or on that of the program's `def`, leaves
a finding out.

{programs}

```{{toctree}}
:hidden:

{listed}
```
"""
OF_A_COMPARISON = """\
# {code}

{meaning}

**What helps.** {helps}
"""
OF_A_PROGRAM = """\
# {code}

*{severity}.* {meaning}

Instead of

```python
{wrong}
```

write

```python
{right}
```
"""


def pages() -> dict[str, str]:
    """The text of each page, by its name."""
    found = {
        code: OF_A_COMPARISON.format(code=code, meaning=meaning, helps=helps)
        for code, (meaning, helps) in EXPLANATIONS.items()
    }
    for code, (severity, *lines) in CODES.items():
        meaning, wrong, right = lines
        given = {"severity": severity.capitalize(), "meaning": meaning, "wrong": wrong, "right": right}
        found[code] = OF_A_PROGRAM.format(code=code, **given)
    comparisons = [(code, meaning) for code, (meaning, _) in EXPLANATIONS.items()]
    programs = [(code, words.meaning.split(". ")[0].rstrip("."), words.severity) for code, words in CODES.items()]
    tables = {
        "comparisons": _table(("code", "what it says"), comparisons),
        "programs": _table(("code", "what it says", "how bad"), programs),
        "listed": "\n".join(found),
    }
    return found | {"index": INDEX.format(**tables)}


def _table(head: tuple[str, ...], lines: list[tuple[str, ...]]) -> str:
    """A table whose first column links to the pages."""
    rows = [(f"[{code}]({code}.md)", *rest) for code, *rest in lines]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (head, ("---",) * len(head), *rows))


def main() -> None:
    """Write them all."""
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
