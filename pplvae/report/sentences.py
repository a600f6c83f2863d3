"""What a comparison says, in plain sentences with its numbers."""

from collections.abc import Sequence

import xarray as xr

from pplvae.errors import printable

_CLEAR = 3  # standard errors
_HELD_OUT = {"train": "training rows", "test": "held-out rows", "valid": "validation rows"}


def part_in_words(part: xr.Dataset) -> str:
    """The name of a part, as it may stand in a sentence."""
    return printable(str(part["part"].values))


def cost_of(part: xr.Dataset) -> str:
    """What one shared encoder costs on the rows of a part, and of how much that is a share."""
    name, gap = str(part["part"].values), part.sel(term="amortisation_gap")
    rows = f"{int(part['count'])} {_HELD_OUT.get(name, 'rows')}" + (
        "" if name in _HELD_OUT else f" of “{printable(name)}”"
    )
    mean, stderr = float(gap["mean"]), float(gap["stderr"])
    text = f"On the {rows}, one shared encoder costs {mean:.3f} ± {stderr:.3f} nats per row"
    if abs(mean) <= _CLEAR * stderr:
        return text + ", which is not clear of zero (3 standard errors)."
    if "approximation_gap" in part["term"].values:
        family = part.sel(term="approximation_gap")
        whole = mean + float(family["mean"])
        text += (
            f": of the {whole:.3f} nats between its ELBO and log p(v), that is {100 * mean / whole:.0f} %. The other "
            f"{float(family['mean']):.3f} ± {float(family['stderr']):.3f} are what the family of guides costs at least"
            if whole > 0
            else ""
        )
    median, tail = (float(gap["quantiles"].sel(quantile=q)) for q in (0.5, 0.95))
    return text + f". Half of the rows lose more than {median:.3f}, one in twenty more than {tail:.3f}."


def remedy_of(parts: Sequence[xr.Dataset]) -> str:
    """Where to look next, as far as these numbers say."""
    by_name = {str(part["part"].values): part for part in parts}
    if "train" in by_name and "test" in by_name:
        (train, its_error), (test, other_error) = (_gap(by_name[name]) for name in ("train", "test"))
        difference, error = test - train, (its_error**2 + other_error**2) ** 0.5
        if difference > _CLEAR * error:
            return (
                f"The encoder costs {difference:.3f} ± {error:.3f} nats more on rows that it was not trained on: it "
                "overfits. `attribute` measures which remedy helps."
            )
        said = (
            "is the same on training and held-out rows within the errors" if abs(difference) <= _CLEAR * error else ""
        )
        return f"The cost {said}. `attribute` measures which remedy helps." if said else _ASK
    if len(by_name) == 1 and next(iter(by_name)) not in _HELD_OUT:
        return (
            "It was not said whether these rows are training or held-out rows; the gap differs between the two. "
            "Pass `{'train': ..., 'test': ...}` to see both."
        )
    return _ASK


_ASK = "Which remedy helps, `attribute` measures: longer training, a larger encoder, a richer family."


def _gap(part: xr.Dataset) -> tuple[float, float]:
    line = part.sel(term="amortisation_gap")
    return float(line["mean"]), float(line["stderr"])
