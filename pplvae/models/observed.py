"""What models without latents share: the guide that draws nothing, and likelihoods that go column by column."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import distributions as td

from pplvae.errors import ProgramError
from pplvae.likelihoods import LIKELIHOODS, Likelihood
from pplvae.models.parts import part_of


def no_latents(*_rows: Any) -> None:
    """The guide of a model without latents: q over nothing, so that the ELBO is log p(v) itself.

    >>> no_latents(torch.zeros(3, 4))
    """


def likelihood_of(likelihood: str | Likelihood, visible: int) -> Likelihood:
    """A likelihood by name or as an object, for rows or steps of `visible` columns.

    Raises:
        UnknownNameError: a name that is not in `likelihoods.LIKELIHOODS`.
        ProgramError: a likelihood that needs each row's total, which nothing that sees a part of the row knows.
    """
    law: Likelihood = part_of("likelihood", LIKELIHOODS, likelihood, {"visible": visible})
    if law.takes_total:
        raise ProgramError(
            f"{type(law).__name__} needs the total of the whole row, which is not known while a part of it is drawn. "
            "Use a likelihood without totals."
        )
    return law


def columnwise(likelihood: str | Likelihood, visible: int) -> Likelihood:
    """A likelihood, by name or as an object, whose columns are independent given its heads.

    Raises:
        UnknownNameError: see `likelihood_of`.
        ProgramError: the same; or columns that depend on each other, or do not have numbers of their own in each head.
    """
    law = likelihood_of(likelihood, visible)
    if not _columns_stand_alone(law, visible):
        raise ProgramError(
            f"Conditionals p(v_k | v_1, ..., v_k-1) need a likelihood whose columns are independent given its heads, "
            f"each with numbers of its own in them, those of the first column first (`Bernoulli`, `Gaussian`). "
            f"{type(law).__name__} is not one."
        )
    return law


def per_column(law: Likelihood, visible: int) -> list[int]:
    """Numbers per column in each head of a likelihood that goes column by column."""
    return [width // visible for width in law.heads(visible)]


def layers(visible: int, hidden: Sequence[int] | None) -> Sequence[int]:
    """Widths of a masked network's hidden layers: as given, or one of 128 units, of `visible` where that is more."""
    return (max(128, visible),) if hidden is None else hidden


@torch.enable_grad()
def _columns_stand_alone(law: Likelihood, visible: int) -> bool:
    """Whether the log-probability of the first column follows from its own numbers in each head."""
    heads = [torch.zeros(1, width, requires_grad=True) for width in law.heads(visible)]
    fn = law(*heads)
    if not isinstance(fn, td.Independent) or fn.base_dist.batch_shape != (1, visible):
        return False
    first = fn.base_dist.log_prob(fn.sample())[0, 0]
    slopes = torch.autograd.grad(first, heads, allow_unused=True)
    return all(
        head.shape[1] % visible == 0 and (slope is None or not slope[:, head.shape[1] // visible :].any())
        for head, slope in zip(heads, slopes, strict=True)
    )
