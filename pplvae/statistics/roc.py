"""How well scores tell two sets of rows apart: the area under the ROC curve, its error, the curve, the text."""

import math
from collections.abc import Sequence

import numpy as np
import xarray as xr
from jaxtyping import Float
from scipy import stats

from pplvae.isolate import generators_kept


def areas_of(rows: xr.Dataset, scores: Sequence[str]) -> xr.Dataset:
    """What `Outliers.summary` returns.

    Args:
        rows: `Outliers.rows`.
        scores: names of their scores.
    """
    with generators_kept():  # the first import of scikit-learn draws from `random`
        from sklearn.metrics import roc_auc_score
    outside = rows["outside"].values
    values = [rows[name].values for name in scores]
    columns = {
        "auc": ("score", [float(roc_auc_score(outside, value)) for value in values]),
        "stderr": ("score", [delong_stderr(value[~outside], value[outside]) for value in values]),
    }
    counts = {"inside_count": int((~outside).sum()), "outside_count": int(outside.sum())}
    return xr.Dataset(columns, coords={"score": list(scores)}, attrs=rows.attrs | counts)


def curve_of(rows: xr.Dataset, score: str) -> xr.Dataset:
    """What `Outliers.roc` returns.

    Args:
        rows: `Outliers.rows`.
        score: the name of one of their scores.
    """
    with generators_kept():
        from sklearn.metrics import roc_curve
    false, true, thresholds = roc_curve(rows["outside"].values, rows[score].values)
    columns = {"false_positives": ("threshold", false), "true_positives": ("threshold", true)}
    return xr.Dataset(columns, coords={"threshold": ("threshold", thresholds, {"units": "nats"})})


def delong_stderr(inside: Float[np.ndarray, " inside"], outside: Float[np.ndarray, " outside"]) -> float:
    """Standard error of the area under the ROC curve of independent rows (DeLong et al., 1988), from ranks.

    Args:
        inside: scores of at least 2 rows.
        outside: the same.
    """
    ranks = stats.rankdata(np.concatenate([inside, outside]))
    # Of each row: the share of the other side's rows that it beats.
    beaten_inside = (ranks[: len(inside)] - stats.rankdata(inside)) / len(outside)
    beaten_outside = (ranks[len(inside) :] - stats.rankdata(outside)) / len(inside)
    return math.sqrt(beaten_inside.var(ddof=1) / len(inside) + beaten_outside.var(ddof=1) / len(outside))


def outlier_lines(summary: xr.Dataset) -> list[str]:
    """The summary as text without warnings, a line each."""
    known = summary.attrs
    width = max(len(str(name)) for name in summary["score"].values)
    lines = [
        f"{known['outside']} ({known['outside_count']} rows) against {known['inside']} ({known['inside_count']} rows)",
        "AUC ± standard error: share of pairs in which the row from outside scores higher",
        "",
    ]
    for name in summary["score"].values:
        line = summary.sel(score=name)
        lines.append(f"{name:<{width}}  {float(line['auc']):.3f} ± {float(line['stderr']):.3f}")
    return lines


def outlier_warnings(summary: xr.Dataset) -> list[str]:
    """What a reader must know, a sentence each."""
    known = summary.attrs
    notes = ["Measured on these two sets of rows; other rows from outside may be told apart better or worse."]
    if summary["auc"].isin([0, 1]).any():
        notes.append("A standard error of 0 says that these rows do not overlap, and nothing about others.")
    for side in ("inside", "outside"):
        if known[f"{side}_left_out"]:
            notes.append(f"{known[side]}: {known[f'{side}_left_out']} rows have no finite score and are left out.")
    if known["shared"]:
        notes.append(f"{known['shared']} rows outside have the content of a row inside.")
    if known["different_settings"]:
        notes.append(f"The two sides were measured under different settings: {known['different_settings']}.")
    return notes
