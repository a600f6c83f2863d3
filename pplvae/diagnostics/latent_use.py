"""How much of the latents is used: KL per dimension, rate and distortion, and the prior against all rows together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr

from pplvae.data import as_rows
from pplvae.diagnostics.per_row import TERMS, measure_rows
from pplvae.diagnostics.surgery import surgery
from pplvae.errors import DataError, in_users_words
from pplvae.isolate import validation
from pplvae.programs.batch import Batch
from pplvae.programs.elements import refuse_global_latents
from pplvae.programs.opening import opened
from pplvae.programs.reading import Program
from pplvae.programs.simulation import told_apart

_NEGLIGIBLE = 0.01  # nats: a latent whose KL is below is not told from the prior
_NARROW = 0.5  # share of the prior's variance below which the rows do not fill the prior
_FAR = 0.3  # nats of marginal KL from which on q(h) is not the prior; log 2 if q leaves half of it empty
_LEFT_OUT = ("marginal_kl_lower", "marginal_kl_lower_stderr")
_LINES = 20  # latents printed
_NAMED = 5  # of them named in a sentence


@dataclass(frozen=True)
class LatentUse:
    """What the rows do to the latents.

    Attributes:
        rows: over dimension "row", in nats: `rate`, KL(q(h | v) || p(h)); `distortion`, -E_q log p(v | h); `elbo`,
            which is -rate - distortion on the same draws; each with `<name>_stderr` (Monte Carlo). Over "latent", `kl`
            of each scalar latent (given the sites before), NaN where it has no density of its own (a full covariance,
            a flow); over "site", `site_kl`, the total of each site. Both are NaN for a point mass, and for a model that
            has discrete latents of its own to sum over.
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

    rows: xr.Dataset
    latents: xr.Dataset
    aggregate: xr.Dataset

    @property
    def collapsed(self) -> list[str]:
        """Latents that are not told from the prior."""
        return self._named("collapsed")

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        found = [
            _sentence(self.collapsed, "collapsed: q(h | v) is the prior whatever v is, and the decoder gets nothing")
        ]
        found.append(
            _sentence(
                self._named("constant"),
                "E_q[h] is nearly the same for all rows, yet q is not the prior: nats that buy little",
            )
        )
        ratio = self.latents["aggregated_variance"] / self.latents["prior_variance"]
        narrow = self.latents["latent"].values[(ratio < _NARROW).values].tolist()
        found.append(
            _sentence(
                narrow,
                f"spread over less than {_NARROW:g} of the prior's variance by all rows together: the model has seen "
                "reduced data in h, so that p(v) may be good while its draws come from where no q(h | v) goes",
            )
        )
        return [sentence for sentence in found if sentence] + _of_the_aggregate(self.aggregate)

    def __str__(self) -> str:
        return "\n".join(_lines(self))

    def __repr__(self) -> str:
        return str(self)

    def _named(self, status: str) -> list[str]:
        return self.latents["latent"].values[self.latents["status"].values == status].tolist()


def latent_use(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    particles: int = 100,
    threshold: float = 0.01,
    mixture_draws: int = 2000,
    seed: int = 0,
    chunk_size: int = 150,
) -> LatentUse:
    """Measure how much of its latents a pair uses on some rows.

    Args:
        model: p(v, h; theta), called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, or rows from `load_data`.
        particles: draws per row.
        threshold: of Var_v E_q[h] in units of the prior's variance (1 for the usual prior), above which a latent
            counts as active.
        mixture_draws: draws, in all, that are held against the mixture of all rows, for `aggregate`; 0 leaves it out.
        seed: names the noise.
        chunk_size: rows per run; changes memory and speed, not the result.

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
    if chunk_size < 1:
        raise ValueError(f"`chunk_size` must be at least 1, got {chunk_size}.")
    settings = {"particles": particles, "threshold": threshold, "mixture_draws": mixture_draws, "seed": seed}
    some = as_rows(rows)
    if len(some) < 2:
        raise DataError("The use of latents is a comparison of rows: expected at least 2 of them, got 1.")
    with opened(model, guide, some.tensors, seed) as layout, torch.no_grad():
        refuse_global_latents(layout, "Latent use")
        whole = told_apart(Batch.of(some.tensors))
        with validation(False), in_users_words("pair of model and guide", some.tensors):
            chunks = [
                measure_rows(model, guide, layout, whole.take(slice(i, i + chunk_size)), particles, len(whole), seed)
                for i in range(0, len(whole), chunk_size)
            ]
            aggregate = surgery(model, guide, layout, whole, draws=mixture_draws, chunk_size=chunk_size, seed=seed)
    found = xr.concat(chunks, dim="row", data_vars="minimal", coords="minimal", compat="override", join="override")
    return _gathered(found.assign_coords(id=("row", some.ids)), aggregate, settings)


def _gathered(found: xr.Dataset, aggregate: xr.Dataset, settings: dict[str, Any]) -> LatentUse:
    """From means over draws, per row, to what is reported."""
    found = found.isel(latent=np.flatnonzero(found["_first"].notnull().any("row").values))  # masked in every row
    kept = [name for name in found if not str(name).startswith("_") and name != "exact"]
    cross_term = -float(found["elbo"].mean())
    rows = found.sizes["row"]
    kl = found["kl"]
    mean_kl = kl.mean("row", skipna=False)
    active_variance = found["_centre"].var("row", ddof=1) - found["_noise"].mean("row")
    prior_variance = found["_prior_second"].mean("row") - found["_prior_first"].mean("row") ** 2
    active = active_variance > settings["threshold"] * prior_variance
    status = np.select(
        [active, mean_kl.isnull(), mean_kl > _NEGLIGIBLE], ["active", "inactive", "constant"], default="collapsed"
    )
    columns = {
        "kl": mean_kl,
        "kl_stderr": kl.std("row", ddof=1, skipna=False) / np.sqrt(rows),
        "exact": found["exact"],
        "active_variance": active_variance,
        "active": active,
        "aggregated_variance": found["_second"].mean("row") - found["_first"].mean("row") ** 2,
        "prior_variance": prior_variance,
        "status": ("latent", status),
    }
    return LatentUse(
        found[kept].assign_attrs(settings),
        xr.Dataset(columns, attrs=settings),
        aggregate.assign(cross_term=((), cross_term, {"units": "nats"})).assign_attrs(settings),
    )


def _sentence(latents: list[str], what: str) -> str:
    if not latents:
        return ""
    more = f", ... ({len(latents)} in all)" if len(latents) > _NAMED else ""
    return f"{', '.join(latents[:_NAMED])}{more}: {what}."


def _of_the_aggregate(aggregate: xr.Dataset) -> list[str]:
    """Sentences about q(h) and p(h)."""
    if aggregate["undefined"].item():
        return [f"The rate is not split into its parts: {aggregate['undefined'].item()}."]
    upper, lower, stderr = (float(aggregate[name]) for name in ("marginal_kl", *_LEFT_OUT))
    found = []
    if lower - 2 * stderr > _FAR:
        found.append(
            f"KL(q(h) || p(h)) is {lower:.2f} ± {stderr:.2f} nats or more: all rows together are not spread as the "
            "prior. Draws of the model come from latents that the rows do not have, and p(v, h) is not what rows with "
            "their q(h | v) look like."
        )
    if upper - lower > _FAR:
        found.append(
            f"The rows are too few for so many nats: over more rows like these, KL(q(h) || p(h)) would lie between "
            f"{lower:.2f} and {upper:.2f}, and I_q(n; h) be higher by as much as it falls."
        )
    return found


def _lines(use: LatentUse) -> list[str]:
    rows, aggregate = use.rows.sizes["row"], use.aggregate
    lines = [f"{rows} rows, nats per row (mean ± standard error over rows)"]
    for term in TERMS:
        values = use.rows[term].values
        lines.append(f"{term:<12}{values.mean():>10.3f} ± {values.std(ddof=1) / np.sqrt(rows):.3f}")
    if not aggregate["undefined"].item():
        numbers = {str(name): float(aggregate[name]) for name in aggregate if name != "undefined"}
        for term, other in (("mutual_information", "upper"), ("marginal_kl", "lower")):
            lines.append(
                f"{term.replace('_', ' '):<19}{numbers[term]:.3f} ± {numbers[f'{term}_stderr']:.3f} (Monte Carlo); "
                f"without a draw's own row {numbers[f'{term}_{other}']:.3f}"
            )
        lines[-2] += f"; at most log N = {numbers['log_rows']:.3f}"
    names = use.latents["latent"].values
    width = max(len("latent"), *(len(name) for name in names))
    lines += ["", f"{'latent':<{width}}  {'KL':>17}  Var_v E_q[h]  Var q(h)/Var p(h)  status"]
    for i in np.argsort(-use.latents["kl"].values, kind="stable")[:_LINES]:
        line = use.latents.isel(latent=i)
        ratio = float(line["aggregated_variance"] / line["prior_variance"])
        lines.append(
            f"{names[i]:<{width}}  {float(line['kl']):>8.4f} ± {float(line['kl_stderr']):.4f}  "
            f"{float(line['active_variance']):>12.4f}  {ratio:>17.3f}  {line['status'].item()}"
        )
    if len(names) > _LINES:
        lines.append(f"... and {len(names) - _LINES} more.")
    if use.latents["kl"].isnull().any():
        lines.append(
            "KL nan: not known latent by latent (a full covariance, a flow, a point mass, a sum in the prior); see "
            "`site_kl`, and the rate for all together."
        )
    return lines + (["", *use.warnings] if use.warnings else [])
