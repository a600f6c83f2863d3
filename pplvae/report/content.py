"""What a page of a comparison draws from: numbers and names, as one object that a browser reads."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from pplvae.errors import printable
from pplvae.plots.ladder import rungs_of
from pplvae.statistics.findings import concerned, findings_of
from pplvae.statistics.groups import mean_interval
from pplvae.statistics.summary import part_of

_DIGITS = 5  # significant ones of a number in a page
_FEW = {"_stderr": 2, "shortfall": 3, "pareto_k": 3, "effective_sample_size": 3, "log_evidence_bias": 2}  # of such
_MOST_GROUPS = 100
_MOST_POINTS = 5000  # of a chart: more cover each other
_MOST_LAMBDA = 200_000  # numbers of lambda that a page takes
_LEVEL = 0.95


def content_of(
    rows: xr.Dataset,
    summary: xr.Dataset,
    parameters: xr.Dataset,
    shown: xr.Dataset,
    history: xr.Dataset | None,
) -> dict[str, Any]:
    """All that the charts, the table and the explorer of a page need.

    Args:
        rows: `Comparison.rows`.
        summary: of these.
        parameters: `Comparison.parameters`.
        shown: `Comparison.shown`.
        history: of the fit, or None.
    """
    parts = [str(part) for part in summary["part"].values]
    places = _places_of(shown, rows)
    lam, chosen = _lambda_of(parameters, places)
    return {
        "parts": [printable(part) for part in parts],
        "rows": _rows_of(rows, parts),
        "drawn": _points(rows, "elbo_amortised", "elbo_local"),
        "drawn_k": _points(rows, "pareto_k_amortised", "amortisation_gap") if "pareto_k_amortised" in rows else [],
        "ladders": [_ladder(rows, part) for part in parts],
        "labels": means_by_label(rows, parts, "amortisation_gap"),
        "lambda": lam,
        "lambda_rows": chosen,
        "lambda_drawn": _lambda_points(parameters),
        "shown": _shown(shown, places),
        "history": _history(history),
        "findings": [
            {"code": finding.code, "rows": np.flatnonzero(concerned(rows, finding)).tolist()}
            for finding in findings_of(summary)
        ],
    }


def numbers(values: Any, count: int = _DIGITS) -> list[float | None]:
    """Numbers to `count` significant digits; None where they are not finite, which JSON does not know."""
    array = np.asarray(values, dtype=float)
    finite = np.isfinite(array)
    with np.errstate(divide="ignore", invalid="ignore"):
        digits = count - 1 - np.floor(np.log10(np.abs(array)))
    places = np.where(finite & (array != 0), digits, 0).clip(-20, 20)
    scale = 10.0**places
    rounded = np.where(finite, np.round(array * scale) / scale, 0.0)
    return [
        float(f"{value:.{count}g}") if is_finite else None for value, is_finite in zip(rounded, finite, strict=True)
    ]


def _rows_of(rows: xr.Dataset, parts: Sequence[str]) -> dict[str, Any]:
    """Columns by name: numbers as such, words as places in a list of them."""
    found: dict[str, Any] = {
        "id": [printable(str(name)) for name in rows["row"].values],
        "part": [parts.index(str(part)) for part in rows["part"].values],
        "columns": {
            str(name): numbers(column, _digits_of(str(name)))
            for name, column in rows.items()
            if column.dtype.kind in "fiu"
        },
        "words": {str(name): _words(column.values) for name, column in rows.items() if column.dtype.kind in "OU"},
    }
    if "label" in rows.coords:
        found["words"]["label"] = _words(rows["label"].values)
    return found


def _digits_of(name: str) -> int:
    return next((few for part, few in _FEW.items() if part in name), _DIGITS)


def _words(values: np.ndarray) -> dict[str, Any]:
    texts = ["" if value is None or value != value else printable(str(value)) for value in values]
    names = list(dict.fromkeys(texts))
    places = {name: place for place, name in enumerate(names)}
    return {"names": names, "of": [places[text] for text in texts]}


def _points(rows: xr.Dataset, x: str, y: str) -> list[int]:
    """Which rows a chart draws a point for: all, or so many that none is missed by eye."""
    return thinned(rows[x].values, rows[y].values)


def thinned(x: np.ndarray, y: np.ndarray, most: int = _MOST_POINTS) -> list[int]:
    """Positions of the points that a chart of many shows: one of each small cell, so that those apart are all there.

    >>> import numpy as np
    >>> thinned(np.arange(3.0), np.array([1.0, np.nan, 2.0]))
    [0, 2]
    """
    finite = np.flatnonzero(np.isfinite(x) & np.isfinite(y))
    if len(finite) <= most:
        return finite.tolist()
    order = np.random.default_rng(0).permutation(finite)  # so that those of a cell that are kept are any of them
    for side in (150, 100, 70, 50, 30, 15):
        cells = np.zeros(len(order), dtype=np.int64)
        for values in (x[order], y[order]):
            low, high = np.quantile(values, (0.005, 0.995))
            place = np.floor((values - low) / max(high - low, np.finfo(float).tiny) * side)
            cells = cells * 4 * side + place.clip(-side, 2 * side).astype(np.int64) + side
        _, chosen = np.unique(cells, return_index=True)
        if len(chosen) <= most:
            break
    return sorted(order[chosen].tolist())


def _ladder(rows: xr.Dataset, part: str) -> list[dict[str, Any]]:
    """The rungs above the encoder's guide, in nats, each with the standard error of its distance from it."""
    found = []
    for name, gain in rungs_of(rows, part).items():
        nats, stderr = numbers(gain)
        found.append({"name": printable(name), "nats": nats, "stderr": stderr})
    return found


def means_by_label(rows: xr.Dataset, parts: Sequence[str], column: str) -> list[dict[str, Any]] | None:
    """Means by label, part by part; None where rows have no labels, or nearly one for each."""
    if "label" not in rows.coords or not 1 < len(np.unique(rows["label"].values.astype(str))) <= _MOST_GROUPS:
        return None
    found = []
    for part in parts:
        some = part_of(rows, part)
        found_there, labels = some[column].values, some["label"].values.astype(str)
        used = np.isfinite(found_there) & (some["status"].values != "nonfinite")
        groups = {name: found_there[(labels == name) & used] for name in np.unique(labels)}
        intervals = [
            mean_interval(values, _LEVEL) if len(values) > 1 else (np.nan, np.nan) for values in groups.values()
        ]
        found.append(
            {
                "names": [printable(name) for name in groups],
                "mean": numbers([values.mean() if len(values) else np.nan for values in groups.values()]),
                "low": numbers([low for low, _ in intervals]),
                "high": numbers([high for _, high in intervals]),
            }
        )
    return found


def _places_of(shown: xr.Dataset, rows: xr.Dataset) -> list[int]:
    """Where the rows that are shown stand among all of them: ids may be equal."""
    if "place" not in shown.coords:
        return []
    of_part = {
        part: np.flatnonzero(rows["part"].values == part) for part in dict.fromkeys(shown["part"].values.tolist())
    }
    return [int(of_part[part][place]) for part, place in zip(shown["part"].values, shown["place"].values, strict=True)]


def _lambda_of(parameters: xr.Dataset, shown: Sequence[int]) -> tuple[list[dict[str, Any]], list[int]]:
    """Lambda of the rows, or of those that are shown if it would be too much for a page; and of which these are."""
    if not parameters.data_vars:
        return [], []
    size = sum(variable.size for variable in parameters.data_vars.values())
    count = parameters.sizes["row"]
    most = max(1, int(count * min(1.0, _MOST_LAMBDA / size)))
    chosen = list(range(count)) if size <= _MOST_LAMBDA else list(shown)[:most]
    found = []
    for name, variable in parameters.data_vars.items():
        some = variable.transpose("row", "guide", ...).isel(row=chosen)
        values = {
            str(guide): [numbers(line) for line in some.sel(guide=guide).values.reshape(len(chosen), -1)]
            for guide in some["guide"].values
        }
        found.append({"name": printable(str(name)), **values})
    return found, chosen


def _lambda_points(parameters: xr.Dataset) -> list[dict[str, Any]]:
    """Lambda of the encoder and of the row's own guide, some points of each parameter."""
    found = []
    for name, variable in list(parameters.data_vars.items())[:4]:
        pair = [variable.sel(guide=guide).values.reshape(variable.sizes["row"], -1) for guide in ("amortised", "local")]
        rows = np.broadcast_to(np.arange(len(pair[0]))[:, None], pair[0].shape).ravel()
        amortised, own = (values.ravel().astype(float) for values in pair)
        some = thinned(amortised, own, _MOST_POINTS // 2)
        found.append(
            {
                "name": printable(str(name)),
                "amortised": numbers(amortised[some]),
                "local": numbers(own[some]),
                "rows": rows[some].tolist(),
                "of": len(rows),
            }
        )
    return found


def _shown(shown: xr.Dataset, places: Sequence[int]) -> dict[str, Any] | None:
    """The data of some rows, and what the decoder makes of them under both guides."""
    if "value" not in shown:
        return None
    found: dict[str, Any] = {
        "rows": places,
        "columns": [printable(str(name)) for name in shown["column"].values],
        "named": bool(shown.attrs.get("named", 0)),
        "shape": [int(side) for side in np.atleast_1d(shown.attrs.get("image_shape", []))],
        "value": [numbers(line) for line in shown["value"].values],
    }
    if "reconstruction" in shown:
        for guide in ("amortised", "local"):
            found[guide] = [numbers(line) for line in shown["reconstruction"].sel(guide=guide).values]
    return found


def _history(history: xr.Dataset | None) -> Mapping[str, Any] | None:
    if history is None or not history.sizes.get("epoch"):
        return None
    names = ["epoch", "objective", "elbo_validation", "elbo_validation_stderr"]
    names += [f"{part}_gap{error}" for part in ("train", "validation") for error in ("", "_stderr")]
    return {name: numbers(history[name].values) for name in names if name in history}
