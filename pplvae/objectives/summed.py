"""Pyro's ELBOs of reparameterised programs, summed over the sites as they happen: no traces, no score parts."""

from collections.abc import Container, Mapping
from typing import Any

import torch
from jaxtyping import Float
from pyro.distributions.torch_distribution import MaskedDistribution
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch import distributions as td

from pplvae.objectives.pyros import is_enumerated, needs_score
from pplvae.programs.batch import Batch
from pplvae.programs.elements import closed_forms, closed_kl
from pplvae.programs.reading import Layout, Program, run_guide, run_model
from pplvae.programs.sites import values_of


def reason_against(objective: Any, layout: Layout | None, guide: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    """Why one of Pyro's ELBOs needs Pyro's own code for these programs, in a clause; nothing where it does not.

    Args:
        objective: with Pyro's `loss_and_grads`.
        layout: of the pair; None where it cannot be scored row by row.
        guide: its sites.
        model: its sites.
    """
    if type(objective) not in (Trace_ELBO, TraceMeanField_ELBO):
        return f"{type(objective).__name__} is known to its own class only"
    if isinstance(objective, TraceMeanField_ELBO) and not _all_closed(layout, guide, model):
        return ""  # Pyro's code would take closed forms where they are wrong
    if objective.vectorize_particles and objective.num_particles > 1:
        return "particles are vectorised"
    for name, site in guide.items():
        if not site["is_observed"] and is_enumerated(site):
            return f"{name!r} is to be enumerated"
        if not site["is_observed"] and needs_score(site):
            return f"{name!r} is not reparameterised"
    return ""


def _all_closed(layout: Layout | None, guide: Mapping[str, Any], model: Mapping[str, Any]) -> bool:
    """Whether the KL of every latent may be taken in closed form, as far as there is one."""
    closed = closed_forms(guide, model, layout)
    shared = [name for name, site in model.items() if name in guide and not site["is_observed"]]
    return all(name in closed and _count_alike(guide[name], model[name]) for name in shared)


def negative_elbo(
    objective: Any, model: Program, guide: Program, layout: Layout | None, batch: Batch, kl_weight: float | Tensor
) -> Float[Tensor, ""]:
    """Minus the ELBO of a batch as Pyro forms it, scales and masks included, on the same draws; differentiable."""
    closed = isinstance(objective, TraceMeanField_ELBO)
    elbo: Any = 0.0
    dims = {} if layout is None else layout.guide
    for run in range(objective.num_particles):
        guide_sites = run_guide(guide, batch.again(run), dims, None)
        model_sites = run_model(model, batch.again(run), values_of(guide_sites))
        names = closed_forms(guide_sites, model_sites, layout) if closed else set()
        likelihood, divergence = _parts(guide_sites, model_sites, names, layout is not None)
        elbo = elbo + likelihood - kl_weight * divergence
    return -elbo if objective.num_particles == 1 else -elbo / objective.num_particles


def _parts(
    guide: Mapping[str, Any], model: Mapping[str, Any], closed: Container[str], inspected: bool
) -> tuple[Any, Any]:
    """Log p(v | h), and KL(q || p): in closed form at the sites that are named, elsewhere the log ratio at the draw.

    Args:
        guide: its sites.
        model: its sites.
        closed: names.
        inspected: whether a latent is known to have the same mask in both programs.
    """
    likelihood: Any = 0.0
    divergence: Any = 0.0
    for name, site in model.items():
        if site["is_observed"]:
            likelihood = likelihood + _log_prob(site).sum()
        elif name not in guide:
            divergence = divergence - _log_prob(site).sum()
        else:
            divergence = divergence + _kl(guide[name], site, closed=name in closed, inspected=inspected).sum()
    for name, site in guide.items():
        if site["is_observed"]:
            likelihood = likelihood - _log_prob(site).sum()
        elif name not in model or model[name]["is_observed"]:
            divergence = divergence + _log_prob(site).sum()
    return likelihood, divergence


def _kl(q: Any, p: Any, *, closed: bool, inspected: bool) -> Tensor:
    """KL(q || p) of a latent site, scaled and masked so that its mean is that of `Trace_ELBO`."""
    terms = _closed_form(q["fn"], p["fn"], inspected) if closed else None
    if terms is None:
        return _log_prob(q) - _log_prob(p)
    terms = scale_and_mask(terms, q["scale"], q["mask"])
    if _count_alike(q, p):
        return terms
    # Elements that the two programs count differently have no KL: they count in log q and log p as each program says.
    ours, theirs = (scale_and_mask(torch.ones_like(terms), site["scale"], site["mask"]) for site in (q, p))
    return torch.where(ours == theirs, terms, _log_prob(q) - _log_prob(p))


def _count_alike(q: Any, p: Any) -> bool:
    """Whether two sites have one scale and mask. Tensors are not looked into, which could not be captured."""
    pairs = [(q["scale"], p["scale"]), (q["mask"], p["mask"])]
    return all(
        one is other or (not isinstance(one, Tensor) and not isinstance(other, Tensor) and one == other)
        for one, other in pairs
    )


def _closed_form(q: Any, p: Any, inspected: bool) -> Tensor | None:
    if not inspected and _masks_inside(q) != _masks_inside(p):  # Pyro counts only what both masks let count
        return None
    return closed_kl(q, p)


def _masks_inside(fn: Any) -> list[int]:
    """Identities of the masks that `fn.mask(...)` put into a distribution."""
    found = []
    while isinstance(fn, td.Independent | MaskedDistribution):
        found += [id(fn._mask)] if isinstance(fn, MaskedDistribution) else []
        fn = fn.base_dist
    return found


def _log_prob(site: Any) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, site["scale"], site["mask"])
