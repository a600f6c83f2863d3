"""How much of the latents is used: KL per dimension, rate and distortion, and the prior against all rows together."""

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
import xarray as xr

from pplvae.diagnostics.per_row import measure_rows
from pplvae.diagnostics.surgery import surgery
from pplvae.errors import DataError
from pplvae.isolate import validation
from pplvae.programs.batch import Batch
from pplvae.programs.elements import refuse_global_latents
from pplvae.programs.failures import in_users_words
from pplvae.programs.opening import one_set, opened
from pplvae.programs.pieces import check_chunk_size, walk
from pplvae.programs.reading import Program
from pplvae.programs.simulation import told_apart
from pplvae.results.base import Result
from pplvae.statistics.latents import latents_in_use, latents_that_are, use_lines, use_summary, use_warnings


@dataclass(frozen=True, eq=False, repr=False)
class LatentUse(Result):
    """What the rows do to the latents.

    Attributes:
        rows: over dimension "row" (coordinates: id, part, and label where there is one), in nats: `rate`, KL(q(h | v)
            || p(h)); `distortion`, -E_q log p(v | h); `elbo`, which is -rate - distortion on the same draws; each with
            `<name>_stderr` (Monte Carlo). Over "latent", `kl` of each scalar latent (given the sites before), NaN where
            it has no density of its own (a full covariance, a flow); over "site", `site_kl`, the total of each site.
            Both are NaN for a point mass, and for a model that has discrete latents of its own to sum over.
        latents: over dimension "latent": `kl` with `kl_stderr` over rows, `exact` (closed form at each draw);
            `active_variance`, Var_v E_q[h], without the noise of the draws; `aggregated_variance`, of h under q(h), and
            `prior_variance`; `active`, whether the first is above `threshold` times the last; `status`: "active";
            "collapsed" (not active, and q is the prior: mean KL below 0.01 nats); "constant" (not active, but q is not
            the prior); "inactive" (not active, KL not known).
        aggregate: `mutual_information` I_q(n; h) and `marginal_kl` KL(q(h) || p(h)), their `_stderr`,
            `mutual_information_upper`, `marginal_kl_lower`, `log_rows` and `undefined`, see `surgery`; `cross_term`,
            the mean of rate + distortion: KL(p_*(v) q(h | v) || p(v, h)) is this minus the entropy of the data, which
            nobody knows (see `joint_kl` for rows whose distribution is known).
    """

    kind: ClassVar[str] = "latent use"
    essential: ClassVar[str] = "rate"
    figures: ClassVar[tuple[str, ...]] = ("kl_per_dimension", "rate_distortion")

    latents: xr.Dataset
    aggregate: xr.Dataset

    def summary(self) -> xr.Dataset:
        """All that is not row by row.

        Returns:
            Over dimension "term" (`rate`, `distortion`, `elbo`): `mean` in nats per row and `stderr` over rows, `count`
            and `left_out`; what `latents` and `aggregate` hold.
        """
        return use_summary(self.rows, self.latents, self.aggregate)

    @property
    def collapsed(self) -> list[str]:
        """Latents that are not told from the prior."""
        return latents_that_are("collapsed", self.latents)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return use_warnings(self.summary())

    def _lines(self) -> list[str]:
        return use_lines(self.summary())


def latent_use(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    threshold: float = 0.01,
    mixture_draws: int = 2000,
    particles: int = 100,
    seed: int = 0,
    chunk_size: int = 1000,
    progress: bool = False,
) -> LatentUse:
    """Measure how much of its latents a pair uses on some rows.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one.
        threshold: of Var_v E_q[h] in units of the prior's variance (1 for the usual prior), above which a latent counts
            as active.
        mixture_draws: draws, in all, that are held against the mixture of all rows, for `aggregate`; 0 leaves it out.
        particles: Monte Carlo draws per row.
        seed: names all noise: the same seed gives the same bits.
        chunk_size: rows at once, at most. Memory and speed depend on it, numbers do not.
        progress: show a progress bar, on a terminal.

    Returns:
        A `LatentUse`. Over N rows, I_q(n; h) cannot exceed log N (`log_rows`): it is lower in expectation than over
        more rows, and the marginal KL higher by as much; `mutual_information_upper` and `marginal_kl_lower`, where a
        draw's own row is left out of the mixture, err the other way.

    Raises:
        DataError: rows that cannot be used, or fewer than two of them.
        ProgramError: a pair whose rows cannot be told apart, or global latents.

    References:
        Importance weighted autoencoders (Burda et al., 2016), arXiv 1509.00519, for active units; Fixing a broken ELBO
        (Alemi et al., 2018), arXiv 1711.00464, for rate and distortion; ELBO surgery (Hoffman and Johnson, 2016).
    """
    for name, value, least in (("particles", particles, 2), ("mixture_draws", mixture_draws, 0)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    check_chunk_size(chunk_size)
    settings = {"particles": particles, "threshold": threshold, "mixture_draws": mixture_draws, "seed": seed}
    shown = {"doing": "scoring", "progress": progress}
    some = one_set(rows)
    if len(some) < 2:
        raise DataError("The use of latents is a comparison of rows: expected at least 2 of them, got 1.")
    with opened(model, guide, some.tensors, seed) as layout, torch.no_grad():
        refuse_global_latents(layout, "Latent use")
        whole = told_apart(Batch.of(some.tensors))
        with validation(False), in_users_words("pair of model and guide", some.tensors):
            chunks = [
                measure_rows(model, guide, layout, whole.take(piece), particles, len(whole), seed)
                for piece in walk(some.tensors, particles, rows=len(whole), chunk_size=chunk_size, **shown)
            ]
            aggregate = surgery(model, guide, layout, whole, draws=mixture_draws, chunk_size=chunk_size, seed=seed)
    found = xr.concat(chunks, dim="row", data_vars="minimal", coords="minimal", compat="override", join="override")
    return _gathered(found.assign_coords(some.coordinates()), aggregate, settings)


def _gathered(found: xr.Dataset, aggregate: xr.Dataset, settings: dict[str, Any]) -> LatentUse:
    """From means over draws, per row, to what is reported."""
    kept = [name for name in found if not str(name).startswith("_") and name != "exact"]
    latents = latents_in_use(found, settings["threshold"])
    cross_term = -float(found["elbo"].mean())
    return LatentUse(
        found[kept].isel(latent=np.flatnonzero(found["latent"].isin(latents["latent"]))).assign_attrs(settings),
        latents.assign_attrs(settings),
        aggregate.assign(cross_term=((), cross_term, {"units": "nats"})).assign_attrs(settings),
    )
