"""What the doors of `fit` and `compare` say of a pair: their refusals and warnings, as findings."""

from collections.abc import Iterable, Iterator
from typing import Any

import pyro
from torch import Tensor

from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair
from pplvae.errors import PplvaeError, PplvaeWarning
from pplvae.isolate import root_modules


def refused(pair: Pair) -> Iterator[Finding]:
    """What `fit` or `compare` would raise."""
    for error in pair.refusals:
        elsewhere = _elsewhere(pair, error) if error.code in ("", "PV201") else ""
        if elsewhere:
            yield Finding("PV203", elsewhere, *error.at)
        else:
            yield found_in(error, pair)


def failing(pair: Pair) -> Iterator[Finding]:
    """Programs that run at the doors, which need no gradients, and not with them."""
    try:
        if pair.layout is not None:
            _ = pair.run
    except PplvaeError as error:
        yield found_in(error, pair)


def found_in(told: PplvaeError | PplvaeWarning, pair: Pair) -> Finding:
    """A finding of a refusal, or of a warning."""
    program, name = told.at
    program = program if program in ("model", "guide") else ""  # both were at work
    place = pair.seen.place_of(program, name, told.__cause__)
    return Finding(told.code or "PV201", str(told), program, name, told.instead, *place)


def warned(said: Iterable[Any], pair: Pair) -> Iterator[Finding]:
    """What they would warn of.

    Args:
        said: warnings, as they were caught.
        pair: of which.
    """
    for each in said:
        if isinstance(each.message, PplvaeWarning) and each.message.code:
            yield found_in(each.message, pair)


def _elsewhere(pair: Pair, error: PplvaeError) -> str:
    """Devices of the rows and of the weights, where they differ, or where torch says that they do."""
    rows = {str(tensor.device) for tensor in pair.tensors}
    modules = [*pair.called, *root_modules(pair.model, pair.guide)]
    weights: list[Tensor] = [weight for module in modules for weight in module.parameters()]
    store = pyro.get_param_store()
    weights += [store[name] for name in store.keys()]
    others = {str(weight.device) for weight in weights}
    if others <= rows and "same device" not in str(error):
        return ""
    program = f"The {error.at[0]} failed. " if error.at[0] else ""
    ours, theirs = (", ".join(sorted(some)) or "no device" for some in (rows, others))
    return (
        f"{program}The rows lie on {ours}, the weights on {theirs}. Bring both to one device: "
        "`network.to(v.device)`, `rows.to(...)`; and make tensors in a program where its rows are, `v.new_zeros(2)`. "
        f"Torch says: {error.__cause__ or error}"
    )
