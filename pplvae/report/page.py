"""From a comparison to the page. Everything printed was measured; text from outside is escaped by the template."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from pplvae import plots
from pplvae.report.images import image_of
from pplvae.report.template import write_page
from pplvae.statistics.groups import group_means, grouped_rows, sentences_of
from pplvae.statistics.summary import part_of, parts_of, summary_of, warnings_of, worst_of

_SHOWN = 10  # rows listed per part
_MOST_GROUPS = 100


def write_report(
    path: Path,
    *,
    rows: xr.Dataset,
    pictures: xr.Dataset,
    parameters: xr.Dataset,
    history: xr.Dataset | None = None,
    settings: Mapping[str, Any] | None = None,
    title: str = "What amortisation costs",
) -> Path:
    """Write the page as one file: pictures inside, no scripts, nothing fetched.

    Args:
        path: of the page.
        rows: what to report: `Comparison.rows`.
        pictures: `Comparison.pictures`.
        parameters: `Comparison.parameters`.
        history: of the fit, for the learning curves.
        settings: of the fit, printed as they are.
        title: of the page.
    """
    summary, parts = summary_of(rows), parts_of(rows)
    groups = _by_label(rows) if _is_grouped(rows) else None
    run = {f"fit: {name}": value for name, value in (settings or {}).items()}
    run |= {f"comparison: {name}": value for name, value in rows.attrs.items()}
    figures = {
        "decomposition": image_of(plots.decomposition(summary)),
        "histogram": image_of(plots.gap_histogram(rows)),
        "scatter": image_of(plots.elbo_scatter(rows)),
        "ladders": [image_of(plots.ladder(rows))] if _has_families(summary) else [],
        "parameters": image_of(plots.lambda_scatter(parameters)) if parameters.data_vars else None,
        "groups": None if groups is None else image_of(plots.gaps_by_group(groups)),
        "curves": None
        if history is None or not history.sizes.get("epoch")
        else image_of(plots.learning_curves(history)),
    }
    return write_page(
        path,
        "page.html",
        title=title,
        sentences=[_sentence(summary.sel(part=part)) for part in parts],
        warnings=_warnings(summary),
        tables=[_table(summary.sel(part=part)) for part in parts],
        galleries=[_gallery(rows, pictures, part) for part in parts],
        figures=figures,
        groups=[] if groups is None else sentences_of(groups),
        run=run.items(),
        has_evidence="log_evidence" in rows,
        evidence={"ais": "by annealed importance sampling"}.get(
            rows.attrs.get("evidence", ""), "by importance weighting"
        ),
    )


def _has_families(summary: xr.Dataset) -> bool:
    return any(str(term).startswith("family_gap_") for term in summary["term"].values)


def _by_label(rows: xr.Dataset) -> xr.Dataset:
    return group_means(grouped_rows(rows, None, part=None, term="amortisation_gap"), level=0.95, seed=0)


def _is_grouped(rows: xr.Dataset) -> bool:
    """Whether the rows have labels, and not one for each."""
    if "label" not in rows.coords:
        return False
    return 1 < len(np.unique(rows["label"].values.astype(str))) <= _MOST_GROUPS


def _sentence(part: xr.Dataset) -> str:
    """The decomposition of one part in words."""

    def amount(term: str) -> str:
        line = part.sel(term=term)
        return f"{float(line['mean']):.3f} ± {float(line['stderr']):.3f}"

    name, count = str(part["part"].values), int(part["count"])
    gap = part.sel(term="amortisation_gap")
    clear = abs(float(gap["mean"])) > 3 * float(gap["stderr"])
    text = f"On the {count} rows of “{name}”, one shared encoder costs {amount('amortisation_gap')} nats per row"
    text += "." if clear else ", which is not clear of zero (3 standard errors)."
    median, tail = (float(gap["quantiles"].sel(quantile=q)) for q in (0.5, 0.95))
    text += f" Half of the rows lose more than {median:.3f}, one in twenty more than {tail:.3f}."
    if "approximation_gap" in part["term"].values:
        text += f" The family costs at least {amount('approximation_gap')} nats beyond that."
    return text


def _warnings(summary: xr.Dataset) -> list[str]:
    found = warnings_of(summary)
    if len(summary["part"]) == 1 and str(summary["part"].values[0]) not in ("train", "test", "valid"):
        found.append(
            "It was not said whether these rows are training or held-out rows; the gap differs between the two."
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
    return {"name": str(part["part"].values), "count": int(part["count"]), "lines": lines, "quantiles": quantiles}


def _gallery(rows: xr.Dataset, pictures: xr.Dataset, part: str) -> dict[str, Any]:
    worst = worst_of(rows, part, _SHOWN)
    labels = worst["label"].values if "label" in worst.coords else None
    lines = []
    for i in range(worst.sizes["row"]):
        row = worst.isel(row=i)
        numbers = ("amortisation_gap", "amortisation_gap_stderr", "elbo_amortised", "elbo_local")
        lines.append(
            [
                str(row["row"].values),
                *([] if labels is None else [_label(labels[i])]),
                *(f"{float(row[name]):.3f}" for name in numbers),
                str(row["status"].values),
                int(row["steps"]),
            ]
        )
    return {
        "name": part,
        "lines": lines,
        "labelled": labels is not None,
        "figure": _pictures(part_of(rows, part), pictures, part),
    }


def _pictures(rows: xr.Dataset, pictures: xr.Dataset, part: str) -> str | None:
    if "image" not in pictures:
        return None
    mine = pictures.isel(picture=np.flatnonzero(pictures["part"].values == part))
    if not mine.sizes["picture"]:
        return None
    gaps = dict(zip(rows["row"].values.tolist(), rows["amortisation_gap"].values.tolist(), strict=True))
    titles = [f"{i}: {gaps[i]:.2f}" for i in mine["id"].values.tolist()]
    return image_of(plots.picture_grid(mine["image"].values, titles))


def _label(label: Any) -> str:
    """A label, or nothing where it is missing."""
    return "" if label is None or label != label else str(label)  # only NaN differs from itself
