"""Whether the observed values are of the kind that their likelihood, and networks, are for."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints

from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair
from pplvae.programs.families import family_name, unwrapped
from pplvae.programs.sites import counted

_FEWEST = 20  # values, before anything is said of their kind
_FAR = 30.0  # from zero, or times the unit, where networks expect numbers around 1


def of_another_kind(pair: Pair) -> Iterator[Finding]:
    """Counts, or zeros and ones, under a density of real numbers."""
    for name, site in pair.observed.items():
        values = _values(site)
        whole = len(values) >= _FEWEST and bool((values == values.round()).all()) and bool((values >= 0).all())
        if not whole or not _is_real(site["fn"]) or not bool((values == 0).any()) or len(values.unique()) < 2:
            continue
        binary = bool((values <= 1).all())
        kind, better = ("zeros and ones", "Bernoulli(logits=...)") if binary else ("counts", "Poisson(...)")
        more = "" if binary else " (or `NegativeBinomial`, where they spread more)"
        yield Finding(
            "PV271",
            f"The values at the site {name!r} are {kind}, from {values.min():g} to {values.max():g}, under "
            f"{family_name(site['fn'])}, a density of real numbers: it has no upper end where the decoder learns them "
            f"exactly. Write `{better}`{more}, or ignore this if they are measurements.",
            "model",
            name,
            f'pyro.sample("{name}", dist.{better}.to_event(1), obs=v)',
        )


def not_standardised(pair: Pair) -> Iterator[Finding]:
    """Columns of real numbers far from zero mean and unit spread, in the rows and in the units of the density."""
    for name, site in pair.observed.items():
        if not _is_real(site["fn"]) or not isinstance(site["value"], Tensor) or len(_values(site)) < _FEWEST:
            continue
        dim = pair.known.model[name]
        axis = len(site["fn"].batch_shape) + dim

        def by_column(numbers: Tensor, axis: int = axis) -> Tensor:
            return numbers.movedim(axis, 0).flatten(1) if numbers.ndim > 1 else numbers.unsqueeze(1)

        columns = by_column(site["value"].detach().double())
        if len(columns) < _FEWEST:
            continue
        centre, spread, odd = _far_from_standard(columns)
        # A program may know the units of its columns, and give its density those.
        inner = unwrapped(site["fn"])
        own = (site["value"].detach().double() - inner.mean.detach().double()) / inner.stddev.detach().double()
        odd = odd & (_far_from_standard(by_column(own))[2] | ~by_column(own).isfinite().all(0))
        if bool(odd.any()):
            k = int(odd.nonzero()[0])
            yield Finding(
                "PV272",
                f"Of the {len(odd)} columns at the site {name!r} {int(odd.sum())} are far from zero mean and unit "
                f"spread: column {k} has mean {centre[k]:.4g} and standard deviation {spread[k]:.4g}. Standardise "
                "them by the training rows: `load_data(..., standardise=True)`, or the line below.",
                "model",
                name,
                "v = (v - train.mean(0)) / train.std(0)",
            )


def _far_from_standard(columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and standard deviation of each column, and whether these are far from 0 and 1."""
    centre, spread = columns.mean(0), columns.std(0)
    # Some columns may hardly change, such as the margins of pictures; all together they have a unit.
    return centre, spread, (spread > 0) & ((centre.abs() > _FAR) | (spread > _FAR) | (spread.max() < 1 / _FAR))


def _values(site: Any) -> Tensor:
    """Values that count."""
    value = site["value"]
    if not isinstance(value, Tensor) or not value.is_floating_point():
        return torch.zeros(0)
    mask = counted(site)
    return value.detach()[mask] if mask.shape == value.shape else value.detach().flatten()


def _is_real(fn: Any) -> bool:
    """Whether a distribution is over all real numbers."""
    inner = unwrapped(fn)
    if isinstance(inner, td.TransformedDistribution):
        return False  # the values may be measurements on a scale of their own
    try:
        support: Any = inner.support
    except (AttributeError, NotImplementedError):  # a distribution need not say what its support is
        return False
    while isinstance(support, constraints.independent):
        support = support.base_constraint
    return support is constraints.real
