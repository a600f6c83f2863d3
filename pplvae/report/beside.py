"""Other results on the page of a comparison: what each says, as text, and what its charts draw."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from pplvae.errors import DataError, UnknownNameError, printable
from pplvae.report.content import means_by_label, numbers, thinned

_MOST_LINES = 60  # of a chart or a table
_CLEAR = 0.0027  # p of a difference that is said to be one: that of 3 standard errors
_PAIRED = {"elbo_amortised": "amortised ELBO", "amortisation_gap": "amortisation gap"}


class Chart(NamedTuple):
    """Where a chart stands: `kind` is its function in beside.js."""

    kind: str
    title: str
    caption: str


class Section(NamedTuple):
    """What a page has of a result that is not its own."""

    title: str
    sentences: Sequence[str]
    charts: Sequence[Chart]
    head: Sequence[str]
    lines: Sequence[Sequence[str]]
    warnings: Sequence[str]
    content: Mapping[str, Any]


def sections_of(beside: Mapping[str, Any], rows: xr.Dataset) -> list[Section]:
    """A section for each result, in order.

    Args:
        beside: names of results, and the results.
        rows: of the comparison whose page it is.

    Raises:
        UnknownNameError: a result of a kind that has no place on the page.
        DataError: paired runs whose rows are not among these.
    """
    for result in beside.values():
        if getattr(result, "kind", None) not in _MAKERS:
            named = getattr(result, "kind", type(result).__name__)
            raise UnknownNameError("kind of result beside a comparison", named, _MAKERS)
    return [_MAKERS[result.kind](printable(name), result, rows) for name, result in beside.items()]


def advice_of(beside: Mapping[str, Any]) -> list[str]:
    """What to change, of every attribution there is."""
    return [
        f"{advice.remedy.capitalize()}: {printable(advice.sentence)}"
        for result in beside.values()
        if result.kind == "attribution"
        for advice in result.advice
    ]


def _attribution(name: str, result: Any, _rows: xr.Dataset) -> Section:
    causes = result.causes
    names = [str(cause).replace("_", " ") for cause in causes["cause"].values]
    columns = ("nats", "stderr", "held_out", "held_out_stderr")
    lines = [[cause, *(_cell(float(causes[column].values[k])) for column in columns)] for k, cause in enumerate(names)]
    counts = [part["amortisation_gap"].sizes["row"] for part in (result.training.rows, result.comparison.rows)]
    return Section(
        name,
        [f"Measured on {counts[0]} training and {counts[1]} held-out rows, with the decoder held fixed."],
        [
            Chart(
                "causes",
                "Nats per row, by cause",
                "Each cause is what is left of the gap once the remedies of those above it have been applied "
                "(± 2 standard errors over rows). The first three are of the training rows. Full covariances are a "
                "part of the approximation; evidence slack is by how much the estimate of log p(v) exceeds that of "
                "single chains.",
            )
        ],
        ["cause", "nats", "± s.e.", "won on held-out rows", "± s.e."],
        lines,
        result.warnings,
        {"names": names, "nats": numbers(causes["nats"]), "stderr": numbers(causes["stderr"], 2)},
    )


def _latent_use(name: str, result: Any, _rows: xr.Dataset) -> Section:
    summary = result.summary()
    order = np.argsort(-np.nan_to_num(summary["kl"].values, nan=-1.0), kind="stable")
    latents = summary.isel(latent=order)
    names = [printable(str(latent)) for latent in latents["latent"].values]
    active = int(latents["active"].sum())
    terms = {str(term): summary.sel(term=term) for term in summary["term"].values}
    rate, distortion = (
        f"{float(terms[term]['mean']):.3f} ± {float(terms[term]['stderr']):.3f}" for term in ("rate", "distortion")
    )
    sentence = (
        f"On {int(terms['elbo']['count'])} rows, {active} of {len(names)} latents are active. They carry {rate} nats "
        f"per row (the rate); {distortion} are left to be explained (the distortion)."
    )
    shown = latents.isel(latent=slice(0, _MOST_LINES))
    caption = "KL(q ‖ prior) of each latent, mean over rows ± 2 standard errors, the largest first."
    if len(names) > _MOST_LINES:
        caption += f" {_MOST_LINES} of {len(names)} are drawn."
    lines = [
        [
            names[k],
            _cell(float(shown["kl"].values[k])),
            _cell(float(shown["kl_stderr"].values[k])),
            _cell(float(shown["active_variance"].values[k])),
            str(shown["status"].values[k]),
        ]
        for k in range(shown.sizes["latent"])
    ]
    content = {
        "names": names[:_MOST_LINES],
        "kl": numbers(shown["kl"]),
        "stderr": numbers(shown["kl_stderr"], 2),
        "active": shown["active"].values.astype(bool).tolist(),
    }
    head = ["latent", "KL (nats)", "± s.e.", "Var_v E_q[h]", "status"]
    return Section(
        name, [sentence], [Chart("latents", "Use of the latents", caption)], head, lines, result.warnings, content
    )


def _calibration(name: str, result: Any, _rows: xr.Dataset) -> Section:
    latents, outside = result.latents, result.outside
    level, names = latents.attrs["level"], [printable(str(latent)) for latent in latents["latent"].values]
    found = (
        f"{len(outside)} of {len(names)} quantities have ranks that a calibrated guide's would not have"
        if outside
        else f"the ranks of all {len(names)} quantities are such as a calibrated guide's may be"
    )
    sentence = (
        f"On {int(latents['count'].max())} rows that the model made, {found} ({100 * level:.0f} % bands, all at once): "
        "the latents, and log p(v, h) as “log_joint”."
    )
    first = np.argsort(latents["p_value"].values, kind="stable")[:_MOST_LINES]
    shown = latents.isel(latent=first)
    lines = [
        [
            names[place],
            str(shown["verdict"].values[k]),
            f"{float(shown['p_value'].values[k]):.2g}",
            *(f"{100 * float(share):.0f} %" for share in shown["coverage"].values[k]),
            _cell(float(shown["contraction"].values[k])),
        ]
        for k, place in enumerate(first)
    ]
    head = [
        "latent",
        "verdict",
        "p",
        *(f"{100 * float(nominal):.0f} % intervals" for nominal in latents["nominal"].values),
    ]
    content = {
        "names": [names[place] for place in first],
        "point": numbers(latents["point"]),
        "difference": [numbers(line, 3) for line in shown["ecdf_difference"].transpose("latent", "point").values],
        "verdict": [str(verdict) for verdict in shown["verdict"].values],
        "low": numbers(latents["band_lower"].min("latent"), 3),
        "high": numbers(latents["band_upper"].max("latent"), 3),
    }
    caption = (
        "Ranks of the true latents among the guide's draws: their ECDF minus that of uniform ranks, a line per latent, "
        "with the band that holds all of a calibrated guide's. Above zero on the left and below on the right: the "
        "guide is too narrow; the reverse: too wide."
    )
    if len(names) > len(first):
        caption += f" {len(first)} of {len(names)} are drawn, those of the smallest p first."
    charts = [Chart("ecdf", "Calibration", caption)]
    return Section(name, [sentence], charts, [*head, "contraction"], lines, result.warnings, content)


def _paired_runs(name: str, result: Any, rows: xr.Dataset) -> Section:
    summary = result.summary()
    places = _places(result.rows, rows)
    terms = {str(term): str(term).replace("_", " ") for term in summary["term"].values}
    differences = {}
    for term in _PAIRED:
        column = np.full(rows.sizes["row"], np.nan)
        column[places] = result.rows[term].values
        differences[term] = column
    parts = [str(part) for part in summary["part"].values]
    lines = [
        [
            printable(part),
            words,
            f"{float(line['mean']):+.3f}",
            _cell(float(line["stderr"])),
            f"{float(line['p']):.2g}",
            f"{100 * float(line['improved']):.0f} %",
        ]
        for part in parts
        for term, words in terms.items()
        for line in [summary.sel(part=part, term=term)]
    ]
    gaps = rows["amortisation_gap"].values
    content = {
        "name": name,
        "gap": numbers(differences["amortisation_gap"]),
        "drawn": thinned(gaps, gaps + differences["amortisation_gap"]),
        "labels": means_by_label(
            rows.assign(difference=("row", differences["elbo_amortised"])),
            list(dict.fromkeys(rows["part"].values)),
            "difference",
        ),
    }
    caption = f"A point is a row: its gap here, and in {name}. Below the line the gap is smaller there."
    if len(content["drawn"]) < len(gaps):
        caption += (
            f" {len(content['drawn'])} of {len(gaps)} points are drawn: others lie on top of these, or are not finite."
        )
    charts = [Chart("gaps", "Gaps of both", caption)]
    if content["labels"] is not None:
        charts.append(
            Chart(
                "labels",
                "Better for whom",
                f"By how much the amortised ELBO is higher in {name}, by label, with 95 % intervals; open points have "
                "too few rows for one.",
            )
        )
    head = ["rows", "term", f"{name} minus this", "± s.e. (paired)", "p", f"better in {name}"]
    sentences = [_verdict(name, summary.sel(part=part)) for part in parts]
    return Section(f"Against {name}", sentences, charts, head, lines, result.warnings, content)


def _verdict(name: str, part: xr.Dataset) -> str:
    said = []
    for term, words in _PAIRED.items():
        line = part.sel(term=term)
        mean, stderr = float(line["mean"]), float(line["stderr"])
        if float(line["p"]) < _CLEAR:
            way = "higher" if mean > 0 else "lower"
            said.append(f"the {words} is {way} by {abs(mean):.3f} ± {stderr:.3f} nats per row")
        else:
            said.append(f"the {words} does not clearly differ ({mean:+.3f} ± {stderr:.3f})")
    better = 100 * float(part.sel(term="elbo_amortised")["improved"])
    return (
        f"On the rows of “{printable(str(part['part'].item()))}”, {said[0]} in {name}, and {said[1]}. Its amortised "
        f"ELBO is higher on {better:.0f} % of the rows."
    )


def _places(paired: xr.Dataset, rows: xr.Dataset) -> list[int]:
    """Where the rows of paired runs stand among those of the page."""
    known = {pair: place for place, pair in enumerate(_pairs(rows))}
    missing = [row for row in _pairs(paired) if row not in known]
    if missing:
        raise DataError(
            f"{len(missing)} rows of the paired runs are not among those of this comparison, such as {missing[0][1]} "
            f"of {missing[0][0]}. Pass `compare_runs(this, other)`, where `this` is the comparison whose page it is."
        )
    return [known[row] for row in _pairs(paired)]


def _pairs(rows: xr.Dataset) -> list[tuple[Any, Any]]:
    return list(zip(rows["part"].values.tolist(), rows["row"].values.tolist(), strict=True))


def _cell(value: float) -> str:
    return f"{value:.4g}" if np.isfinite(value) else ""


_MAKERS: dict[str, Callable[[str, Any, xr.Dataset], Section]] = {
    "attribution": _attribution,
    "latent use": _latent_use,
    "calibration": _calibration,
    "paired runs": _paired_runs,
}
