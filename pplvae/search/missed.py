"""How often the search misses a better optimum, on rows whose latents are known.

Nothing proves of a row that it has no better mode than those that have been looked at. Of rows simulated from the
model the latents are known: a search that begins at them sits in the mode that the row came from. Where it ends higher
than the search that begins at the encoder, that one has missed it, with these settings and on rows like these.
"""

from typing import Any

import torch

from pplvae.errors import ProgramError
from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream
from pplvae.programs.simulation import simulate, told_apart
from pplvae.search.kinds import by_kind, decide
from pplvae.search.own_guides import OwnGuides

_SHARE = 4  # of the rows, one in so many is simulated at most where the search is by first order


def look_for_missed(own: OwnGuides, batch: Batch, count: int) -> dict[str, Any]:
    """Simulate rows, and search each from the encoder and from the latents that it was made from.

    Args:
        own: the search, with its settings.
        batch: templates: their number, covariates and masks are those of the rows.
        count: rows to simulate.

    Returns:
        `simulated`, how many rows that were, and `missed`, in how many the search from the encoder ended lower;
        `unseen`, where estimates of log p(v) look for modes: in how many the latents lay in one that they did not
        find; `not_simulated_because`, why it could not be tried, in a clause, empty where it could.
    """
    if own.layout.points or own.layout.held:
        return _found(0, 0, "the guide has point masses, or latents of all rows")
    index, own = by_kind(own, batch)[0]
    batch = batch.take(index)
    decide(own, batch)
    if own.gaussian is None:  # two searches of each row, and not quick ones
        count = min(count, max(1, len(batch) // _SHARE))
    templates = told_apart(batch.take(torch.arange(len(batch)).repeat(-(-count // len(batch)))[:count]))
    try:
        made = simulate(own.model, own.layout, templates, (own.seed, Stream.SIMULATE))
    except ProgramError as error:
        why = str(error).split(": ")[0].rstrip(".")
        return _found(0, 0, why[:1].lower() + why[1:])
    missed = own.missed(made.batch, made.values)
    found = _found(len(made.batch), int(missed.better.sum()), "")
    return found if missed.unseen is None else found | {"unseen": int(missed.unseen.sum())}


def _found(rows: int, missed: int, reason: str) -> dict[str, Any]:
    return {"simulated": rows, "missed": missed, "not_simulated_because": reason}
