"""Which objectives a pair can be fitted with, why not the others, and one that was asked for."""

from collections.abc import Iterator
from typing import Any

from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair
from pplvae.errors import PplvaeError
from pplvae.objectives import OBJECTIVES, Objective
from pplvae.programs.dependence import drawn_in_order
from pplvae.programs.sites import latents_of

_FEW = 3  # rows


def unsuited(pair: Pair) -> Iterator[Finding]:
    """The objective that was asked for, if the pair does not suit it."""
    if pair.objective is None or pair.layout is None:
        return
    reason = reason_against(pair.objective, pair)
    if reason:
        usable = [name for name, why in suited(pair).items() if not why]
        yield Finding("PV252", f"{reason} These programs suit {', '.join(usable) or 'no objective'}.", "guide")


def suited(pair: Pair) -> dict[str, str]:
    """Why each of the known objectives cannot be used; "" where it can."""
    return {name: reason_against(name, pair) for name in OBJECTIVES}


def reason_against(objective: Any, pair: Pair) -> str:
    """Why an objective cannot be used, in sentences.

    Args:
        objective: as `fit` takes it.
        pair: to be fitted.
    """
    batch = pair.batch.take(slice(_FEW))
    try:
        made = Objective(objective)
        if not made.reason_for_pyro(pair.model, pair.guide, pair.layout, batch):
            made.loss(pair.model, pair.guide, pair.layout, batch, 1 / len(batch), 1.0)
    except PplvaeError as error:
        return str(error)
    except Exception as error:  # of an objective on a program that it was not written for
        return f"It raises {type(error).__name__}: {error}"
    return ""


def out_of_order(pair: Pair) -> Iterator[Finding]:
    """Latents that the guide draws before others that precede them in the model."""
    guide, model = latents_of(pair.run.guide), latents_of(pair.run.model)
    shared = [name for name in model if name in guide]
    late = [name for name in shared if name not in drawn_in_order(guide, model)]
    if late and not reason_against("TraceMeanField_ELBO", pair):
        ours = [name for name in guide if name in shared]
        yield Finding(
            "PV253",
            f"The guide draws its latents in the order {', '.join(ours)}, the model in the order {', '.join(shared)}. "
            f"Pyro's own `TraceMeanField_ELBO` would be wrong at {', '.join(map(repr, late))}: use `Trace_ELBO` with "
            "Pyro's `SVI`. (`fit` takes closed forms only where they are right.)",
            "guide",
            late[0],
        )
