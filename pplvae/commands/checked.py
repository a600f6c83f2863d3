"""What `pplvae check` and `pplvae draw` find of a pair, said to people and to programs."""

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.text import Text

import pplvae
from pplvae.checking.finding import Finding
from pplvae.checking.result import Checked
from pplvae.commands.saying import Voice
from pplvae.errors import printable
from pplvae.training.preparation import follow_rows

_COLOURS = {"error": "red", "warning": "yellow", "note": ""}


def check_pair(voice: Voice, pair: Any, rows: Any, options: dict[str, Any]) -> tuple[bool, dict[str, Any]]:
    """Check a pair; whether it has passed, and what there is to tell in JSON.

    Args:
        voice: that says what was found.
        pair: with its programs `model` and `guide`.
        rows: that they are run on.
        options: of `pplvae.check`.
    """
    follow_rows(pair.model, pair.guide, rows)  # as a fit would
    found = pplvae.check(pair.model, pair.guide, rows, **options)
    voice.result(str(found), lambda: _coloured(found))
    return found.passed, {
        "rows": found.looked_at,
        "findings": [_told(finding) for finding in found],
        "sites": [asdict(site) for site in found.sites],
        "objectives": {name: reason or None for name, reason in found.objectives.items()},
        "unchecked": dict(found.unchecked),
        "ignored": [_told(finding) for finding in found.ignored],
    }


def draw_pair(voice: Voice, pair: Any, rows: Any, to: Path | None, program: str) -> dict[str, Any]:
    """Say what a pair's graphical model is, and make a picture of it; what there is to tell in JSON.

    Args:
        voice: that says it.
        pair: with its programs `model` and `guide`.
        rows: that they are run on.
        to: path of the picture, or None.
        program: "model" or "guide", for the picture.
    """
    follow_rows(pair.model, pair.guide, rows)
    graph = pplvae.draw(pair.model, pair.guide, rows)
    voice.result(str(graph), list)
    if to is not None:
        voice.line(f"Picture of the {program}: {graph.save(to, program)}")
    sites = [asdict(site) | {"given": graph.given(site.program, site.name)} for site in graph.sites]
    return {"sites": sites, "picture": None if to is None else str(to)}


def _told(finding: Finding) -> dict[str, Any]:
    meaning, right = finding.explanation
    return {"severity": finding.severity, **asdict(finding), "meaning": meaning, "instead": finding.instead or right}


def _coloured(found: Checked) -> Iterable[RenderableType]:
    """The text, with the heads of findings in colour."""
    heads = {str(finding).split("\n")[0]: _COLOURS[finding.severity] for finding in found}
    for line in str(found).split("\n"):
        yield Text(printable(line), style=heads.get(line, ""))
