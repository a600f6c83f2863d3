"""The summary of a comparison: means over rows with both errors, and the text."""

from typing import Any

import numpy as np
import xarray as xr

from pplvae.statistics.findings import K_HATS, is_below

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TERMS = ("elbo_amortised", "elbo_local", "amortisation_gap", "log_evidence", "approximation_gap", "inference_gap")


def parts_of(rows: xr.Dataset) -> list[str]:
    """Names of the sets of rows, in order."""
    return list(dict.fromkeys(rows["part"].values.tolist()))


def part_of(rows: xr.Dataset, name: str) -> xr.Dataset:
    """The rows of one part."""
    return rows.isel(row=np.flatnonzero(rows["part"].values == name))


def worst_of(rows: xr.Dataset, part: str, count: int) -> xr.Dataset:
    """The rows of a part with the largest amortisation gaps, largest first."""
    rows = part_of(rows, part)
    return rows.isel(row=np.argsort(-rows["amortisation_gap"].values, kind="stable")[:count])


def summary_of(rows: xr.Dataset) -> xr.Dataset:
    """What `Comparison.summary` returns.

    Args:
        rows: `Comparison.rows`.
    """
    everything = [part_of(rows, name) for name in parts_of(rows)]
    parts = [part.isel(row=np.flatnonzero(_is_counted(part))) for part in everything]
    ladder = [str(name) for name in rows if str(name).startswith(_LADDER) and not str(name).endswith("_stderr")]
    terms = [term for term in _TERMS if term in rows] + sorted(ladder, key=_family_first)

    def table(statistic: Any) -> np.ndarray:
        return np.array([[statistic(part, term) for term in terms] for part in parts])

    def share(condition: Any) -> tuple[str, list[float]]:
        return "part", [float(np.mean(condition(part))) if part.sizes["row"] else np.nan for part in parts]

    columns = {
        "mean": (("part", "term"), table(_mean)),
        "stderr": (("part", "term"), table(_stderr_over_rows)),
        "mc_stderr": (("part", "term"), table(_monte_carlo_stderr)),
        "quantiles": (("part", "term", "quantile"), table(_quantiles)),
        "count": ("part", [part.sizes["row"] for part in everything]),
        "nonfinite": ("part", [int((part["status"] == "nonfinite").sum()) for part in everything]),
        "skipped": ("part", [int((part["status"] == "skipped").sum()) for part in everything]),
        "unconverged": share(lambda part: ~part["status"].isin(["converged", "untested", "imprecise"])),
        "imprecise": share(lambda part: part["status"] == "imprecise"),
        "untested": share(lambda part: part["status"] == "untested"),
        "negative": share(lambda part: is_below(part, "amortisation_gap")),
    }
    k_hat = next((name for name in K_HATS if name in rows), None)
    if k_hat is not None:
        columns["unreliable"] = share(lambda part: part[k_hat] > 0.7)
    if "amortisation_gap_bound" in rows:
        columns["gap_at_most"] = ("part", [_gap_at_most(part) for part in everything])
    for term in terms:
        if term.startswith("family_gap_"):
            name = term.removeprefix("family_gap_")
            columns[f"unnested_{name}"] = share(lambda part, term=term: is_below(part, term))
    coordinates = {"part": parts_of(rows), "term": terms, "quantile": list(QUANTILES)}
    return xr.Dataset(columns, coords=coordinates, attrs=dict(rows.attrs))


_LADDER = ("elbo_local_", "family_gap_")


def _family_first(term: str) -> str:
    """Sorts the terms of a family together."""
    return term.removeprefix("elbo_local_").removeprefix("family_gap_")


def _is_counted(part: xr.Dataset) -> np.ndarray:
    return ~np.isin(part["status"].values, ("nonfinite", "skipped"))


def _gap_at_most(part: xr.Dataset) -> float:
    """The mean gap over all rows, the skipped ones at their bounds."""
    gaps = np.where(part["status"] == "skipped", part["amortisation_gap_bound"], part["amortisation_gap"])
    return float(np.nanmean(gaps))


def _mean(part: xr.Dataset, term: str) -> float:
    return float(part[term].values.mean()) if part.sizes["row"] else float("nan")


def _quantiles(part: xr.Dataset, term: str) -> np.ndarray:
    return np.quantile(part[term].values, QUANTILES) if part.sizes["row"] else np.full(len(QUANTILES), np.nan)


def _stderr_over_rows(part: xr.Dataset, term: str) -> float:
    values = part[term].values
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _monte_carlo_stderr(part: xr.Dataset, term: str) -> float:
    count = part.sizes["row"]
    return error_of_sum(part, f"{term}_stderr") / count if count else float("nan")


def error_of_sum(rows: xr.Dataset, errors: str) -> float:
    """Monte Carlo standard error of a sum over rows.

    Rows of the same content, the coordinate "key", share their noise, so that their errors add up.

    Args:
        rows: of a result.
        errors: the column of their standard errors.
    """
    groups = np.arange(rows.sizes["row"])
    if "key" in rows.coords:
        _, groups = np.unique(rows["key"].values, return_inverse=True)
    if rows.attrs.get("held"):
        groups = np.zeros_like(groups)  # a latent that belongs to all rows is drawn for all of them at once
    return float(np.sqrt((np.bincount(groups, weights=rows[errors].values) ** 2).sum()))


def lines_of(summary: xr.Dataset) -> list[str]:
    """The summary as text without warnings, a line each."""
    width = max(len(str(term)) for term in summary["term"].values)
    lines = ["Nats per row (mean ± standard error over rows | Monte Carlo error | quantiles over rows)"]
    for name in summary["part"].values:
        part = summary.sel(part=name)
        lines += [
            "",
            f"{name}: {int(part['count'])} rows",
            " " * (width + 24) + "| ± MC   |" + "".join(f"{100 * q:>8.0f}%" for q in summary["quantile"].values),
        ]
        for term in summary["term"].values:
            line = part.sel(term=term)
            spread = "".join(f"{float(q):>9.3f}" for q in line["quantiles"])
            lines.append(
                f"{term:<{width}}  {float(line['mean']):>9.3f} ± {float(line['stderr']):<8.3f}  "
                f"| {float(line['mc_stderr']):<7.4f}|{spread}"
            )
    return lines
