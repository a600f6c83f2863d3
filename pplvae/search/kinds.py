"""Rows whose latents all count, and rows of which a program masks some: each kind has a search of its own.

A row's answer must not depend on the rows beside it, so one that is masked does not choose the method for others.
"""

import torch
from jaxtyping import Bool
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.chunking import rows_at_once
from pplvae.programs.latents import whole_rows
from pplvae.search.own_guides import OwnGuides


def decide(own: OwnGuides, batch: Batch) -> None:
    """Find out if the second-order method applies, on the first row whose latents all count."""
    for rows in _pieces(own, batch):
        whole = torch.nonzero(_whole(own, batch.take(rows))).flatten()
        if len(whole):
            own.encoded(batch.take(rows[whole[:1]]))
            return


def by_kind(own: OwnGuides, batch: Batch) -> list[tuple[Tensor, OwnGuides]]:
    """Positions of rows, with the search for them.

    Args:
        own: the search for rows whose latents all count.
        batch: the rows.
    """
    everyone = torch.arange(len(batch))
    whole = torch.cat([_whole(own, batch.take(rows)) for rows in _pieces(own, batch)])
    some, others = everyone[whole], everyone[~whole]
    if len(others) == 0:
        return [(everyone, own)]
    if len(some) == 0:
        return [(everyone, own.of_masked)]
    first = batch.take(some[:1])
    if own.encoded(first) is None and own.posterior(first) is None:  # nothing that the others would not have
        return [(everyone, own)]
    return [(some, own), (others, own.of_masked)]


def _pieces(own: OwnGuides, batch: Batch) -> tuple[Tensor, ...]:
    return torch.arange(len(batch)).split(rows_at_once(batch.tensors, 1, own.layout.observed))


def _whole(own: OwnGuides, batch: Batch) -> Bool[Tensor, " row"]:
    return whole_rows(own.model, own.guide, own.layout, batch)
