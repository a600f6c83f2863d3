"""Point masses of a guide: which are lambda themselves, as the encoder's estimate of a row's latent is."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.distributions import constraints

from pplvae.isolate import generators_kept, validation
from pplvae.programs.batch import Batch
from pplvae.programs.dependence import depends_on_draws
from pplvae.programs.families import family_name, has_bijection, unwrapped
from pplvae.programs.reading import Program, run_guide

Points = Mapping[str, constraints.Constraint]


def free_points(guide: Program, batch: Batch, latents: Mapping[str, Any], model: Mapping[str, Any]) -> Points:
    """The point masses that each row can have at a place of its own, and the places that the model admits.

    A point that follows from what the guide draws is no parameter: it is that draw in another form.

    Args:
        guide: q(h; lambda_phi(v)).
        batch: a few rows.
        latents: the guide's latent sites of the rows, on these.
        model: sites of the model, likewise.
    """
    found = {
        name: model[name]["fn"].support for name, site in latents.items() if name in model and _is_point(site["fn"])
    }
    found = {name: support for name, support in found.items() if has_bijection(support) and _is_one_for_all(support)}

    def places() -> list[Tensor]:
        sites = run_guide(guide, batch, {}, None)
        return [sites[name]["value"] for name in found]

    if not found:
        return {}
    with validation(False), generators_kept(), torch.no_grad():
        return {} if depends_on_draws(places) else found


def are_points(sites: Mapping[str, Any]) -> bool:
    """Whether nothing is drawn at any of some sites."""
    return all(family_name(site["fn"]) == "Delta" for site in sites.values())


def _is_point(fn: Any) -> bool:
    inner = unwrapped(fn)
    # With a density of its own it is a change of variables: something is drawn elsewhere.
    return family_name(inner) == "Delta" and not bool(torch.as_tensor(inner.log_density).any())


def _is_one_for_all(support: constraints.Constraint) -> bool:
    """Whether all rows have the same support: bounds that come with the rows fit no other rows."""
    parts = [*vars(support).values()]
    inner = [part for part in parts if isinstance(part, constraints.Constraint)]
    return all(not isinstance(part, Tensor) or part.ndim == 0 for part in parts) and all(map(_is_one_for_all, inner))
