"""What a reader of a comparison must know before believing it: a code, a sentence, and the rows that it concerns."""

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
import xarray as xr

K_HATS = ("pareto_k_ais", "pareto_k_importance")  # of the weights that the evidence rests on
_RARE = 0.01  # share of rows: so many are below zero, or unreliable, by chance

# Of each code: what it means, and what helps. `docs/findings.py` writes the pages of `docs/findings` from it.
EXPLANATIONS: dict[str, tuple[str, str]] = {
    "PV101": (
        "A latent of the model belongs to all rows at once, such as a global weight. No row has a guide of its own for "
        "it: it is drawn from the guide as that is, and only the other latents are optimised row by row.",
        "Nothing needs to be done. To see what the guide of that latent costs, fit it longer or in a richer family, "
        "and compare the ELBOs of the two fits.",
    ),
    "PV102": (
        "For some rows log p or log q, or a slope of them, is infinite or not a number. These rows have no ELBO, and "
        "means leave them out.",
        "Look at these rows: values outside the likelihood's support, all zeros, or a scale that the decoder drives to "
        "zero or infinity. Bound the decoder's scale, or mend the rows.",
    ),
    "PV103": (
        "A screen was asked for. Rows whose gap is surely below its bound were not optimised, and means leave them "
        "out. The bound rests on log p(v), so it holds unless a mode of the posterior is missed.",
        "Compare without `screen` for the gap of every row.",
    ),
    "PV104": (
        "A richer family contains the guide's own, so its optimum cannot lie lower. Where it does, the search in the "
        "richer family has not arrived.",
        "Give that search more steps (`max_steps`). The row's own guide, and the amortisation gap, are not touched by "
        "it; the gap of the family is too small.",
    ),
    "PV105": (
        "By draws that the search has not seen, more may be left to the optimum of these rows than the tolerance. "
        "Their own guide is at least as good as the encoder's, so their gap is a lower bound.",
        "Raise `max_steps`, or accept a larger `tolerance`. Rows that stay short often have a posterior with a kink, a "
        "funnel or several modes: a richer family describes them better.",
    ),
    "PV106": (
        "Discrete latents are drawn, not summed over. The ELBO of a sample then has no slope in their parameters, and "
        "what is left to the optimum cannot be tested.",
        "Let them be summed over, where their states are few: declare them in a plate or leave them out of the guide.",
    ),
    "PV107": (
        "A row's own guide lies clearly below the encoder's. It is the best of its family only if the search arrived, "
        "so here the search failed.",
        "Raise `max_steps`, and look at `status` and `shortfall` of these rows. Please report it, with the pair.",
    ),
    "PV108": (
        "k-hat is the tail index of the importance weights. Above 0.7 their mean is ruled by a few draws: log p(v) may "
        "be too low by more than its standard error says, and with it what the family costs.",
        "Ask for `evidence='ais'`, or for more draws. The amortisation gap does not rest on these weights.",
    ),
    "PV109": (
        "Rows were simulated from the model, so that their latents are known. On each the search began once at the "
        "encoder's guide, as on your rows, and once at the known latents. Where the second ends clearly higher, the "
        "first has missed a mode. Estimates of log p(v) look for further modes, unless latents are discrete, and it is "
        "counted how often none that they found is that of the known latents.",
        "If modes were missed: gaps and log p(v) of your rows may be too low by about as much. A mixture family or an "
        "encoder that knows both modes helps. If none was missed, nothing needs to be done.",
    ),
    "PV110": (
        "Better modes are looked for on rows simulated from the model. That was not possible here, for the reason "
        "given, so that nothing is known of missed modes.",
        "Give the model latents and observations that it can draw itself, and a plate that follows the rows.",
    ),
    "PV111": (
        "Float32 has the ELBO of these rows wrong by more than five times the tolerance: at the same draws, float64 "
        "gives another number. A guide that had won by this alone is taken back, and the encoder's stands in for it.",
        "Run in float64: `rows.double()` and `network.double()`. `pplvae.check` says at which site the digits are "
        "lost.",
    ),
}


class Finding(NamedTuple):
    """One thing to know.

    Attributes:
        code: stays the same from version to version; `docs/findings` explains it and says what helps.
        sentence: with the numbers.
        part: whose rows it is about; empty for all.
        family: the richer family that it is about, if it is about one.
        is_caution: False for what is good to know and no reason for doubt.
    """

    code: str
    sentence: str
    part: str = ""
    family: str = ""
    is_caution: bool = True

    @property
    def explanation(self) -> tuple[str, str]:
        """What it means, and what helps."""
        return EXPLANATIONS[self.code]


def findings_of(summary: xr.Dataset) -> list[Finding]:
    """What is to be known of a comparison, from its summary."""
    found = []
    if summary.attrs.get("held"):
        sentence = (
            f"The latents {summary.attrs['held']} belong to all rows: they are drawn from their guide as it is, and "
            "the gaps are those of the other latents."
        )
        found.append(Finding("PV101", sentence))
    for name in summary["part"].values:
        found += _of_part(str(name), summary.sel(part=name))
    return found + _of_modes(summary.attrs)


def concerned(rows: xr.Dataset, finding: Finding) -> np.ndarray:
    """Which rows of a comparison a finding is about; none where it is about no rows in particular."""
    status = rows["status"].values
    k_hat = next((name for name in K_HATS if name in rows), None)
    masks = {
        "PV102": lambda: status == "nonfinite",
        "PV103": lambda: status == "skipped",
        "PV104": lambda: is_below(rows, f"family_gap_{finding.family}"),
        "PV105": lambda: ~np.isin(status, ("converged", "untested", "imprecise", "nonfinite", "skipped")),
        "PV106": lambda: status == "untested",
        "PV107": lambda: is_below(rows, "amortisation_gap"),
        "PV108": lambda: rows[k_hat].values > 0.7,
        "PV111": lambda: status == "imprecise",
    }
    mask = masks[finding.code]() if finding.code in masks else np.zeros(len(status), dtype=bool)
    return mask & (rows["part"].values == finding.part)


def is_below(rows: xr.Dataset, term: str) -> np.ndarray:
    """Which gaps are below zero by more than noise and the tolerance of the search explain."""
    return rows[term].values < -3 * rows[f"{term}_stderr"].values - float(rows.attrs.get("tolerance", 0.0))


def _of_part(name: str, part: xr.Dataset) -> Iterator[Finding]:
    if int(part["nonfinite"]):
        yield Finding(
            "PV102", f"{name}: {int(part['nonfinite'])} rows have no finite ELBO or gradient and are left out.", name
        )
    if int(part["skipped"]):
        sentence = (
            f"{name}: {int(part['skipped'])} rows were screened out and are not in these means; over all rows the "
            f"mean amortisation gap is at most {float(part['gap_at_most']):.3f}, unless a mode is missed."
        )
        yield Finding("PV103", sentence, name, is_caution=False)
    for term in (str(t) for t in part if str(t).startswith("unnested_")):
        if float(part[term]) > _RARE:
            family = term.removeprefix("unnested_")
            sentence = (
                f"{name}: on {_share(part[term])} of the rows the optimum in the richer family "
                f"{family} lies below that of the guide's own: its search failed there."
            )
            yield Finding("PV104", sentence, name, family)
    if float(part["unconverged"]) > 0:
        sentence = (
            f"{name}: {_share(part['unconverged'])} of the rows did not converge (`status` says why, `shortfall` how "
            "much may be left): their gaps are lower bounds."
        )
        yield Finding("PV105", sentence, name)
    if float(part["imprecise"]) > 0:
        sentence = (
            f"{name}: of {_share(part['imprecise'])} of the rows float32 has the ELBO wrong by several times the "
            "tolerance: run in float64."
        )
        yield Finding("PV111", sentence, name)
    if float(part["untested"]) > 0:
        sentence = (
            f"{name}: of {_share(part['untested'])} of the rows nothing can say how much is left to the optimum, since "
            "discrete latents are drawn: their gaps may be too low."
        )
        yield Finding("PV106", sentence, name)
    if float(part["negative"]) > _RARE:
        sentence = (
            f"{name}: {_share(part['negative'])} of the gaps lie below zero by more than 3 standard errors and the "
            "tolerance: the search failed there."
        )
        yield Finding("PV107", sentence, name)
    if "unreliable" in part and float(part["unreliable"]) > _RARE:
        sentence = (
            f"{name}: {_share(part['unreliable'])} of the rows have k-hat above 0.7: log evidence and approximation "
            "gap may be too low there by more than their standard errors say."
        )
        yield Finding("PV108", sentence, name)


def _of_modes(about: Mapping[str, Any]) -> list[Finding]:
    """What is known of better optima that the search may miss."""
    count, reason = int(about.get("simulated", 0)), about.get("not_simulated_because", "")
    if reason:
        return [Finding("PV110", f"Whether the search misses better modes was not looked for: {reason}.")]
    if count == 0:
        return []
    missed, rows = int(about["missed"]), "row" if count == 1 else "rows"
    sentence = (
        f"On {count} {rows} simulated from the model, whose latents are known, the search from the encoder missed a "
        f"better mode in {missed}" + (": gaps and log evidence may be too low." if missed else ".")
    )
    unseen = int(about.get("unseen", 0)) if about.get("evidence", "none") != "none" else 0
    if unseen:
        sentence += (
            f" In {unseen} the latents lay in a mode that estimates of log p(v) do not start from: these may be too "
            "low by more than their standard errors say."
        )
    return [Finding("PV109", sentence, is_caution=missed > 0 or unseen > 0)]


def _share(share: xr.DataArray) -> str:
    return f"{100 * float(share):.1f} %"
