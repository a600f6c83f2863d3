"""Whether the second of two runs is worse, in a sentence."""

from pplvae.results.paired import PairedRuns

_TERM, _SIZE = "elbo_amortised", 0.01  # as `PairedRuns.worse` has them


def verdict_on(pair: PairedRuns, first: str, second: str, margin: float) -> tuple[bool, str]:
    """Whether the second run is worse by more than a margin in any part, and why one thinks so.

    Args:
        pair: the two.
        first: name of the first.
        second: name of the second.
        margin: nats per row that may be lost.
    """
    share = _SIZE / len(pair.parts)
    worse = [part for part in pair.parts if pair.worse(margin, share, part=part)]
    if not worse:
        changes = ["{:+.3g} ± {:.2g} on {} rows".format(*_mean_of(pair, part), part) for part in pair.parts]
        return False, (
            f"{second} is not shown to be worse than {first} by more than the margin of {margin:g}: its ELBO changes "
            f"by {' and '.join(changes)}, in nats per row."
        )
    return True, " ".join(_reason(pair, part, first, second, margin) for part in worse)


def _reason(pair: PairedRuns, part: str, first: str, second: str, margin: float) -> str:
    lost = int(pair.summary()["lost"].sel(part=part))
    if lost:
        return f"{second} is worse on {part} rows: {lost} that {first} could measure ended nonfinite."
    mean, stderr = _mean_of(pair, part)
    return (
        f"{second} is worse by {-mean:.3g} ± {stderr:.2g} nats per row on {part} rows, more than the margin of "
        f"{margin:g}."
    )


def _mean_of(pair: PairedRuns, part: str) -> tuple[float, float]:
    line = pair.summary().sel(part=part, term=_TERM)
    return float(line["mean"]), float(line["stderr"])
