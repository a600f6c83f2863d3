"""What a comparison says, in plain sentences with its numbers."""

from collections.abc import Sequence

import xarray as xr

from pplvae.errors import printable

_USUAL = 2  # standard errors: so far apart are equal parts by chance, one time in twenty
_CLEAR = 3  # standard errors
_HELD_OUT = {"train": "training rows", "test": "held-out rows", "valid": "validation rows"}


def part_in_words(part: xr.Dataset) -> str:
    """The name of a part, as it may stand in a sentence."""
    return printable(str(part["part"].values))


def cost_of(part: xr.Dataset) -> str:
    """What one shared encoder costs on the rows of a part, and about what share of the whole that is."""
    gap = part.sel(term="amortisation_gap")
    mean, stderr = float(gap["mean"]), float(gap["stderr"])
    text = f"On {_rows_in_words(part)}, one shared encoder costs {mean:.3f} ± {stderr:.3f} nats per row"
    if not abs(mean) > _CLEAR * stderr:
        return text + ", which is not clear of zero (3 standard errors)."
    if "approximation_gap" in part["term"].values:
        family, whole = part.sel(term="approximation_gap"), float(part.sel(term="inference_gap")["mean"])
        text += (
            f". That is about {100 * mean / whole:.0f} % of the {whole:.3f} nats between its ELBO and the estimate of "
            f"log p(v), which is a lower bound; the other {float(family['mean']):.3f} ± {float(family['stderr']):.3f} "
            "are what the family of guides costs"
            if whole > 0
            else ""
        )
    median, tail = (float(gap["quantiles"].sel(quantile=q)) for q in (0.5, 0.95))
    return text + f". Half of the rows lose more than {median:.3f}, one in twenty more than {tail:.3f}."


def _rows_in_words(part: xr.Dataset) -> str:
    """The rows that means are taken over: without those that a screen skipped, or that are not finite."""
    name, count = str(part["part"].values), int(part["count"])
    kind = _HELD_OUT.get(name, f"rows of “{printable(name)}”")
    counted = count - int(part["nonfinite"]) - int(part["skipped"])
    return f"the {count} {kind}" if counted == count else f"{counted} of the {count} {kind}, without those named below"


def remedy_of(parts: Sequence[xr.Dataset], *, attributed: bool = False) -> str:
    """Where to look next, as far as these numbers say; without a word on `attribute` where it has been asked."""
    ask = "" if attributed else _ASK
    by_name = {str(part["part"].values): part for part in parts}
    if len(by_name) == 1 and not by_name.keys() & _HELD_OUT.keys():
        return (
            "It was not said whether these rows are training or held-out rows; the gap differs between the two. "
            "Pass `{'train': ..., 'test': ...}` to see both."
        )
    if not {"train", "test"} <= by_name.keys():
        return ask
    (train, its_error), (test, other_error) = (_gap(by_name[name]) for name in ("train", "test"))
    difference, error = test - train, (its_error**2 + other_error**2) ** 0.5
    if difference > _CLEAR * error:
        return (
            f"The encoder costs {difference:.3f} ± {error:.3f} nats more on rows that it was not trained on, as an "
            f"encoder does that overfits. {ask}"
        ).rstrip()
    if abs(difference) <= _CLEAR * error:
        size = f"{difference:+.3f} ± {error:.3f}"
        if abs(difference) <= _USUAL * error:
            return f"No clear difference between training and held-out rows ({size}). {ask}".rstrip()
        return (
            f"Held-out rows lose {'more' if difference > 0 else 'less'} than training rows ({size}), by "
            f"{abs(difference) / error:.1f} standard errors: that may be chance. {ask}"
        ).rstrip()
    return ask


_ASK = "Which remedy helps, `attribute` measures: longer training, a larger encoder, a richer family."


def _gap(part: xr.Dataset) -> tuple[float, float]:
    line = part.sel(term="amortisation_gap")
    return float(line["mean"]), float(line["stderr"])
