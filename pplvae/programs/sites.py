"""What one sample site of a program says of each row: its log-probability, what of it counts, and what it drew."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from torch import Tensor
from torch import distributions as td


def row_log_prob(msg: Any, dim: int, fn: Any = None) -> Float[Tensor, " batch"]:
    """Log-probability of a site summed over everything but its rows.

    Masks count, and so does the scale of a plate inside the rows that holds some of its members: it says what all of
    them are worth. The scales of the data plate and of `poutine.scale` do not.
    """
    fn = msg["fn"] if fn is None else fn
    log_prob = fn.log_prob(msg["value"], *msg["args"], **msg["kwargs"])
    log_prob = scale_and_mask(log_prob, plates_scale(msg, but=dim), msg["mask"])
    return log_prob.movedim(dim, 0).flatten(1).sum(1) if log_prob.ndim > 1 else log_prob


def plates_scale(msg: Any, but: int | None = None) -> float:
    """The factor by which plates that hold only some of their members scale a site up.

    Args:
        msg: the site.
        but: axis of a plate that is left out, counted from the right.
    """
    frames = [frame for frame in msg["cond_indep_stack"] if but is None or frame.dim != but]
    return math.prod(frame.full_size / frame.size for frame in frames if frame.full_size)


def counted(site: Any, shape: torch.Size | None = None) -> Bool[Tensor, "..."]:
    """Which elements of a site's value the program's masks let count, those inside `to_event` included.

    Args:
        site: a sample site.
        shape: of the value, in other coordinates of the same batch shape perhaps; by default that of a draw.
    """
    fn, mask = site["fn"], site["mask"]
    shape = torch.Size(fn.shape() if shape is None else shape)
    found = torch.ones(shape, dtype=torch.bool, device=site["value"].device)
    while mask is not None or isinstance(fn, td.Independent | MaskedDistribution):
        if mask is not None:
            mask = torch.as_tensor(mask, device=found.device)
            found = found & mask.reshape((*mask.shape, *(1,) * (len(shape) - len(fn.batch_shape))))
        mask = fn._mask if isinstance(fn, MaskedDistribution) else None
        fn = fn.base_dist if isinstance(fn, td.Independent | MaskedDistribution) else fn
    return found


def sum_sites(
    sites: Mapping[str, Any], dims: Mapping[str, int], fns: Mapping[str, Any] | None = None
) -> Float[Tensor, " batch"]:
    """Sum of the sites' log-probabilities per row; sites that belong to all rows count for none."""
    terms = [row_log_prob(site, dims[name], (fns or {}).get(name)) for name, site in sites.items() if name in dims]
    return torch.stack(terms).sum(0)


def latents_of(sites: Mapping[str, Any]) -> dict[str, Any]:
    """The sites of a program that are not observed."""
    return {name: site for name, site in sites.items() if not site["is_observed"]}


def values_of(sites: Mapping[str, Any]) -> dict[str, Tensor]:
    """What each latent site drew."""
    return {name: site["value"] for name, site in latents_of(sites).items()}
