"""Pyro's ELBOs of reparameterised programs, summed over the sites as they happen: no traces, no score parts."""

from collections.abc import Mapping
from typing import Any

from jaxtyping import Float
from pyro.distributions.util import scale_and_mask
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import Tensor
from torch.distributions import kl_divergence

from pplvae.batch import Batch
from pplvae.rows import Program, run_guide, run_model, values_of


def reason_against(objective: Any, model: Program, guide: Program, batch: Batch) -> str:
    """Why one of Pyro's ELBOs needs Pyro's own code for these programs, in a clause; nothing where it does not.

    Args:
        objective: with Pyro's `loss_and_grads`.
        model: p(v, h; theta); both programs are run once.
        guide: q(h; lambda_phi(v)).
        batch: some rows.
    """
    name = type(objective).__name__
    if type(objective) not in (Trace_ELBO, TraceMeanField_ELBO):
        return f"{name} is known to its own class only"
    if objective.vectorize_particles and objective.num_particles > 1:
        return "particles are vectorised"
    guide_sites = run_guide(guide, batch, {}, None)
    model_sites = run_model(model, batch, values_of(guide_sites))
    for name, site in model_sites.items():
        if not site["is_observed"] and name not in guide_sites:
            return f"the guide does not draw {name!r}"
    for site in guide_sites.values():
        if site["is_observed"]:
            continue
        if not site["fn"].has_rsample:
            return f"{site['name']!r} is not reparameterised"
        if (site["infer"] or {}).get("enumerate"):
            return f"{site['name']!r} is to be enumerated"
    return ""


def negative_elbo(objective: Any, model: Program, guide: Program, batch: Batch) -> Float[Tensor, ""]:
    """Minus the ELBO of a batch as Pyro forms it, scales and masks included, on the same draws; differentiable."""
    closed = isinstance(objective, TraceMeanField_ELBO)
    elbo: Any = 0.0
    for _ in range(objective.num_particles):
        guide_sites = run_guide(guide, batch, {}, None)
        model_sites = run_model(model, batch, values_of(guide_sites))
        elbo = elbo + (_mean_field if closed else _sampled)(guide_sites, model_sites)
    return -elbo if objective.num_particles == 1 else -elbo / objective.num_particles


def _sampled(guide: Mapping[str, Any], model: Mapping[str, Any]) -> Tensor:
    """Log p(v, h) - log q(h) at the draws, as `Trace_ELBO`."""
    elbo: Any = sum(map(_log_prob, model.values())) - sum(map(_log_prob, guide.values()))
    return elbo


def _mean_field(guide: Mapping[str, Any], model: Mapping[str, Any]) -> Tensor:
    """Log p(v | h) - KL(q || p), in closed form where Pyro knows one, as `TraceMeanField_ELBO`."""
    elbo: Any = 0.0
    for name, site in model.items():
        if site["is_observed"]:
            elbo = elbo + _log_prob(site)
            continue
        try:
            kl = kl_divergence(guide[name]["fn"], site["fn"])
        except NotImplementedError:
            elbo = elbo + _log_prob(site) - _log_prob(guide[name])
            continue
        elbo = elbo - scale_and_mask(kl, guide[name]["scale"], guide[name]["mask"]).sum()
    return elbo - sum(_log_prob(site) for name, site in guide.items() if name not in model)


def _log_prob(site: Any) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, site["scale"], site["mask"]).sum()
