"""`Advice`: what to change, given what each cause costs."""

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
import xarray as xr


@dataclass(frozen=True)
class Advice:
    """One thing to change.

    Attributes:
        remedy: "larger encoder", "longer training", "regularise the encoder", "richer family", "iterative guide", or
            "nothing to gain".
        nats: per row, what it is worth on the evidence of `sentence`.
        stderr: its standard error.
        sentence: why.
    """

    remedy: str
    nats: float
    stderr: float
    sentence: str


_REMEDIES = {
    "under_training": (
        "longer training",
        "training the encoder on, the decoder held fixed, closed {} of the gap on training rows",
    ),
    "capacity": ("larger encoder", "a larger encoder closed a further {} of the gap on training rows"),
    "remainder": (
        "iterative guide",
        "{} of the gap on training rows were closed neither by more training nor by a larger encoder: refine "
        "lambda for each row",
    ),
    "generalisation": ("regularise the encoder", "{} more are lost on held-out rows than on training rows"),
    "approximation": ("richer family", "the family itself costs held-out rows at least {}"),
}


def advice_on(causes: xr.Dataset, named: Collection[str], worth: float) -> list[Advice]:
    """What to change, most nats first; never empty.

    Args:
        causes: `Attribution.causes`.
        named: the causes whose remedies are worth it.
        worth: nats that a remedy has to be worth.
    """
    found = []
    for cause, (remedy, sentence) in _REMEDIES.items():
        nats, stderr = (float(causes[name].sel(cause=cause)) for name in ("nats", "stderr"))
        if cause in named:
            text = sentence.format(f"{nats:.3f} ± {stderr:.3f} nats per row")
            found.append(
                Advice(remedy, nats, stderr, text + _condition(named, cause) + _covariances(causes, cause) + ".")
            )
    if not found:
        gaps = causes.isel(cause=slice(0, len(_REMEDIES)))
        most = gaps.isel(cause=int(np.argmax(gaps["nats"].values)))
        nats, stderr = float(most["nats"]), float(most["stderr"])
        text = f"no remedy is worth more than {worth:g} nats per row by 2 standard errors; the largest cause is "
        text += f"{str(most['cause'].values).replace('_', ' ')} with {nats:.3f} ± {stderr:.3f}."
        found.append(Advice("nothing to gain", nats, stderr, text))
    return sorted(found, key=lambda advice: -advice.nats)


def _condition(named: Collection[str], cause: str) -> str:
    """That a difference between parts was taken after the training that is advised, too."""
    is_after = cause == "generalisation" and not {"under_training", "capacity"}.isdisjoint(named)
    return ", also after that training" if is_after else ""


def _covariances(causes: xr.Dataset, cause: str) -> str:
    """Which richer family, for the cause that calls for one."""
    if cause != "approximation":
        return ""
    nats, stderr = (float(causes[name].sel(cause="full_covariance")) for name in ("nats", "stderr"))
    return f", of which full covariances win {nats:.3f} ± {stderr:.3f}"
