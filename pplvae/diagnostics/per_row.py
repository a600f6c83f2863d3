"""What a guide does to the latents of each row: KL, rate and distortion, moments."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.elements import closed_forms, element_kl, element_names, rows_first, site_kl
from pplvae.programs.estimates import mean_and_stderr
from pplvae.programs.families import family_name
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Layout, Program, log_guide, log_model, run_guide, run_model
from pplvae.programs.sites import counted, latents_of, sum_sites, values_of
from pplvae.programs.widening import widened

TERMS = ("rate", "distortion", "elbo")
_PRIOR_DRAWS = 10_000  # over all rows


def measure_rows(
    model: Program, guide: Program, layout: Layout, batch: Batch, particles: int, rows: int, seed: int
) -> xr.Dataset:
    """Measure some rows.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows.
        particles: draws per row.
        rows: how many rows there are in all.
        seed: names the noise.

    Returns:
        `rate`, `distortion`, `elbo` with their `_stderr`, `kl`, `site_kl` and `exact` (see `LatentUse`), and, over row
        and latent, NaN where a latent is masked: the means over draws of E_q[h] (`_centre`, with `_noise`, the variance
        of this mean), of h and its square under q (`_first`, `_second`) and under the prior (`_prior_first`,
        `_prior_second`).
    """
    tiled = batch.times(particles)
    sites = run_guide(guide, tiled, layout.guide, (seed, Stream.SCORE))
    model_sites, log_joint, log_prior = _model_at(model, tiled, values_of(sites), layout)

    def fold(per_tiled_row: Tensor) -> Tensor:
        return widened(per_tiled_row).unflatten(0, (particles, -1))

    log_q, log_joint, log_prior = fold(log_guide(sites, layout)), fold(log_joint), fold(log_prior)
    columns: dict[str, Any] = {}
    terms = (log_q - log_prior, log_prior - log_joint, log_joint - log_q)
    for name, draws in zip(TERMS, terms, strict=True):
        mean, stderr = mean_and_stderr(draws, mirrored=False)
        columns[name], columns[f"{name}_stderr"] = (
            ("row", mean.cpu().double().numpy()),
            ("row", stderr.cpu().double().numpy()),
        )
    prior_batch = batch.times(min(particles, -(-_PRIOR_DRAWS // rows)))
    from_prior = run_guide(model, prior_batch, layout.model, (seed, Stream.SIMULATE))
    per_latent: dict[str, list[Tensor]] = {}
    exact, names, site_kls = [], [], []
    latents = [name for name in layout.axes if name in layout.model]
    closed_here = closed_forms(sites, model_sites, layout)
    for name in latents:
        p = None if family_name(sites[name]["fn"]) == "Delta" else model_sites.get(name)
        found, closed = _of_one_site(sites[name], p, from_prior[name]["value"], layout, fold, name in closed_here)
        site_kls.append(found.pop("site_kl"))
        for key, value in found.items():
            per_latent.setdefault(key, []).append(value)
        names += element_names(name, sites[name]["value"], layout.axes[name])
        exact += [closed] * found["kl"].shape[1]
    for key, values in per_latent.items():
        columns[key] = (("row", "latent"), torch.cat(values, 1).cpu().double().numpy())
    columns["exact"] = ("latent", np.array(exact))
    columns["site_kl"] = (("row", "site"), torch.stack(site_kls, 1).cpu().double().numpy())
    return xr.Dataset(columns, coords={"latent": names, "site": latents})


def _model_at(
    model: Program, batch: Batch, values: Mapping[str, Tensor], layout: Layout
) -> tuple[dict[str, Any], Tensor, Tensor]:
    """The model's sites (none where it has latents of its own to sum over), log p(v, h) and log p(h)."""
    if layout.summed:
        return {}, *log_model(model, batch, values, layout)
    sites = run_model(model, batch, values)
    return sites, sum_sites(sites, layout.model), sum_sites(latents_of(sites), layout.model)


def _of_one_site(
    q: Any, p: Any | None, prior: Tensor, layout: Layout, fold: Callable[[Tensor], Tensor], closed: bool
) -> tuple[dict[str, Tensor], bool]:
    """KL (NaN without a site `p` to compare with) and moments of a latent site, per row."""
    axis = layout.axes[q["name"]]
    h, centre = (fold(rows_first(value, axis)) for value in (q["value"], _centre(q)))
    terms, exact = (None, False) if p is None else element_kl(q, p, axis, closed=closed)
    kl = torch.full_like(h[0], torch.nan) if terms is None else fold(terms).mean(0)
    whole = kl.sum(1)
    if terms is None and p is not None:
        whole = fold(site_kl(q, p, layout.guide[q["name"]], closed=closed)).mean(0)
    from_prior = widened(rows_first(prior, axis)).unflatten(0, (-1, h.shape[1]))
    used = rows_first(counted(q), axis)[: h.shape[1]]
    moments = {
        "_centre": centre.mean(0),
        "_noise": centre.var(0) / len(centre),
        "_first": h.mean(0),
        "_second": h.square().mean(0),
        "_prior_first": from_prior.mean(0),
        "_prior_second": from_prior.square().mean(0),
    }
    moments = {name: torch.where(used, value, torch.nan) for name, value in moments.items()}
    return {"kl": kl, "site_kl": whole, **moments}, exact


def _centre(site: Any) -> Tensor:
    """E_q[h] at what was drawn before; the draw itself where the distribution does not know its mean."""
    try:
        mean = site["fn"].mean.expand(site["fn"].shape())
    except (NotImplementedError, AttributeError):
        return site["value"]
    return mean if bool(mean.isfinite().all()) else site["value"]
