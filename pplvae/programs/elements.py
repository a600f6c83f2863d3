"""The scalar latents of a site, row by row, and their names."""

from collections.abc import Mapping
from itertools import product
from typing import Any

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor
from torch import distributions as td

from pplvae.errors import ProgramError
from pplvae.programs.dependence import drawn_in_order
from pplvae.programs.families import unwrapped
from pplvae.programs.reading import Layout
from pplvae.programs.sites import counted, row_log_prob


def rows_first(value: Tensor, axis: int) -> Num[Tensor, "batch element"] | Bool[Tensor, "batch element"]:
    """A value of a site, one line per row; `axis` as in `Layout.axes`."""
    return value.movedim(axis, 0).reshape(value.shape[axis], -1)


def element_names(name: str, value: Tensor, axis: int) -> list[str]:
    """A name for each scalar latent of a site: "h[0]", or "h" where a row has one only."""
    shape = list(value.shape)
    del shape[axis]
    if not shape:
        return [name]
    return [f"{name}[{','.join(map(str, index))}]" for index in product(*map(range, shape))]


def refuse_global_latents(layout: Layout, what: str) -> None:
    """Refuse a pair with latents outside the data plate."""
    if layout.held:
        raise ProgramError(
            f"{what} looks at the latents of each row. The latents {list(layout.held)} lie outside the data plate: "
            "they belong to all rows at once. Make parameters of them, or constants."
        )


def closed_forms(guide: Mapping[str, Any], model: Mapping[str, Any], layout: Layout | None) -> set[str]:
    """Latents of a pair whose KL term may be taken in closed form, where there is one.

    The mean of log q - log p at a site is that of KL(q || p), as long as p does not move with the guide's own draw of
    the site. Where it does, as for a guide that draws from the data upwards, the log ratio at the draw is right.

    Args:
        guide: its sites.
        model: its sites.
        layout: of the pair; None if it cannot be scored row by row: then only the order of the sites says.
    """
    return drawn_in_order(guide, model) | (layout.unmoved if layout is not None else set())


def element_kl(q: Any, p: Any, axis: int, *, closed: bool = True) -> tuple[Float[Tensor, "batch element"] | None, bool]:
    """KL(q || p) of each scalar latent of a site, at the values that the guide drew, in nats.

    Args:
        q: the guide's site.
        p: the model's, at the same values.
        axis: of the rows in a value.
        closed: whether a closed form is right (`closed_forms`).

    Returns:
        One term per row and element, and whether it is exact; where torch has no closed form, the log ratio at the
        draw, whose mean is the KL. None for a site whose elements have no density of their own.
    """
    ours, theirs = unwrapped(q["fn"]), unwrapped(p["fn"])
    mask = counted(q)
    if ours.event_shape or theirs.event_shape or not torch.equal(mask, counted(p)):
        return None, False
    terms = _closed_form(ours, theirs) if closed else None
    exact = terms is not None
    if terms is None:
        terms = ours.log_prob(q["value"]) - theirs.log_prob(q["value"])
    return rows_first(torch.where(mask, terms, 0.0), axis), exact


def site_kl(q: Any, p: Any, dim: int, *, closed: bool = True) -> Float[Tensor, " batch"]:
    """KL(q || p) of a whole site: the closed form where there is one, else the log ratio at the draw."""
    ours, theirs = unwrapped(q["fn"]), unwrapped(p["fn"])
    unmasked = bool(counted(q).all() and counted(p).all())
    terms = _closed_form(ours, theirs) if closed and unmasked and ours.event_shape == theirs.event_shape else None
    if terms is None:
        return row_log_prob(q, dim) - row_log_prob(p, dim)
    # Dimensions that `to_event` had taken stand right of the batch now.
    shifted = dim - (len(ours.batch_shape) - len(q["fn"].batch_shape))
    return terms.movedim(shifted, 0).reshape(terms.shape[shifted], -1).sum(1)


def _closed_form(q: Any, p: Any) -> Tensor | None:
    terms = closed_kl(q, p)
    return None if terms is None else terms.expand(q.batch_shape)


def closed_kl(q: Any, p: Any) -> Tensor | None:
    """KL(q || p) as torch and Pyro have it in closed form; None where they have none.

    Of two distributions under the same transforms, torch takes the divergence of what was there before. Where a
    transform sends two places to one (absolute values), that is too large.
    """
    if (_folds(q) or _folds(p)) and not (isinstance(q, td.HalfNormal) and isinstance(p, td.HalfNormal)):
        return None
    try:
        terms = td.kl_divergence(q, p)
    except NotImplementedError:
        return None
    return terms if isinstance(terms, Tensor) else None


def _folds(fn: Any) -> bool:
    fn = unwrapped(fn)
    return isinstance(fn, td.TransformedDistribution) and (
        any(not transform.bijective for transform in fn.transforms) or _folds(fn.base_dist)
    )
