"""The page of a comparison: what it costs in two sentences, charts that are linked, every row, and how it was made."""

import base64
import gzip
import json
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xarray as xr

from pplvae.report.beside import advice_of, sections_of
from pplvae.report.content import content_of
from pplvae.report.sentences import cost_of, part_in_words, remedy_of
from pplvae.report.template import text_of, write_page
from pplvae.statistics.findings import findings_of
from pplvae.statistics.summary import summary_of

_LIBRARIES = ("plotly-basic.min.js", "tabulator.min.js")
SCRIPTS = ("drawing.js", "beside.js", "page.js")  # each needs those before it
_VERSIONS = ("pplvae", "torch", "pyro-ppl", "numpy", "xarray")


def write_report(
    path: Path,
    *,
    rows: xr.Dataset,
    shown: xr.Dataset,
    parameters: xr.Dataset,
    history: xr.Dataset | None = None,
    settings: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
    title: str | None = None,
    beside: Mapping[str, Any] | None = None,
) -> Path:
    """Write the page as one file: scripts and data inside, nothing fetched.

    Args:
        path: of the page.
        rows: what to report: `Comparison.rows`.
        shown: `Comparison.shown`.
        parameters: `Comparison.parameters`.
        history: of the fit, for the learning curves.
        settings: see `Comparison.report`, as for all that follow.
        about: the same.
        title: the same.
        beside: the same.
    """
    sections, advice = sections_of(beside or {}, rows), advice_of(beside or {})
    summary = summary_of(rows)
    parts = [summary.sel(part=part) for part in summary["part"].values]
    content = content_of(rows, summary, parameters, shown, history)
    content["beside"] = [
        {"charts": [chart.kind for chart in section.charts], **section.content} for section in sections
    ]
    named = " and ".join(f"“{part_in_words(part)}”" for part in parts)
    return write_page(
        path,
        "page.html",
        title=title or f"What amortisation costs on {named}",
        sentences=[cost_of(part) for part in parts],
        remedy=remedy_of(parts, attributed=bool(advice)),
        advice=advice,
        sections=sections,
        findings=findings_of(summary),
        unchecked=_unchecked(rows),
        tables=[_table(part) for part in parts],
        run=_provenance(rows, history, settings or {}, about or {}),
        content=_packed(json.dumps(content).encode()),
        libraries=[_packed(text_of("vendor", name).encode()) for name in _LIBRARIES],
        style=text_of("vendor", "tabulator_simple.min.css") + text_of("page.css"),
        script="".join(text_of(name) for name in SCRIPTS),
        has_evidence="log_evidence" in rows,
        evidence={"ais": "by annealed importance sampling"}.get(
            str(rows.attrs.get("evidence", "")), "by importance weighting"
        ),
    )


def _packed(content: bytes) -> str:
    """Bytes as text of letters and digits, which no page can take for anything else."""
    return base64.b64encode(gzip.compress(content, compresslevel=6, mtime=0)).decode()


def _unchecked(rows: xr.Dataset) -> list[str]:
    """What could have been measured and was not."""
    found = []
    if "log_evidence" not in rows:
        found.append("log p(v), and with it what the family of guides costs: `compare` measures it (`evidence`).")
    if not str(rows.attrs.get("families", "")):
        found.append("richer families of guides: `compare` measures those that are asked for (`families`).")
    if not int(rows.attrs.get("simulated", 0)) and not rows.attrs.get("not_simulated_because"):
        found.append(
            "whether the search misses better modes: `compare` looks for them on simulated rows (`simulated`)."
        )
    return found


def _table(part: xr.Dataset) -> dict[str, Any]:
    lines = []
    for term in part["term"].values:
        line = part.sel(term=term)
        lines.append(
            {
                "term": str(term).replace("_", " "),
                "mean": f"{float(line['mean']):.3f}",
                "stderr": f"{float(line['stderr']):.3f}",
                "mc": f"{float(line['mc_stderr']):.4f}",
                "quantiles": [f"{float(q):.3f}" for q in line["quantiles"]],
            }
        )
    quantiles = [f"{100 * float(q):.0f} %" for q in part["quantile"].values]
    return {"name": part_in_words(part), "count": int(part["count"]), "lines": lines, "quantiles": quantiles}


def _provenance(
    rows: xr.Dataset, history: xr.Dataset | None, settings: Mapping[str, Any], about: Mapping[str, Any]
) -> Sequence[tuple[str, Any]]:
    """How the numbers were made, as name and value."""
    found: dict[str, Any] = {"page written": datetime.now().astimezone().isoformat(timespec="minutes")}
    found |= {"commit of this folder": commit} if (commit := _commit()) else {}
    found |= about
    if history is not None and "seconds" in history:
        found["training took"] = f"{float(history['seconds'].sum()):.1f} s, {history.sizes['epoch']} epochs"
    found |= {f"fit: {name}": value for name, value in settings.items()}
    found |= {f"comparison: {name}": value for name, value in rows.attrs.items()}
    found["Python"] = platform.python_version()
    for name in _VERSIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from its source
            continue
    return list(found.items())


def _commit() -> str:
    """Of the repository that the process runs in, if there is one."""
    try:
        said = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=12"],
            capture_output=True,
            text=True,
            timeout=5,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return said.stdout.strip() if said.returncode == 0 else ""
