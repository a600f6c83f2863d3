"""How much of the latents is used, from means over draws of each row: the table, what to know of it, the text."""

import numpy as np
import xarray as xr

from pplvae.statistics.means import left_out, means_of

_TERMS = ("rate", "distortion", "elbo")
_NEGLIGIBLE = 0.01  # nats: a latent whose KL is below is not told from the prior
_NARROW = 0.5  # share of the prior's variance below which the rows do not fill the prior
_FAR = 0.3  # nats of marginal KL from which on q(h) is not the prior; log 2 if q leaves half of it empty
_LEFT_OUT = ("marginal_kl_lower", "marginal_kl_lower_stderr")
_LINES = 20  # latents printed
_NAMED = 5  # of them named in a sentence


def latents_in_use(found: xr.Dataset, threshold: float) -> xr.Dataset:
    """What `LatentUse.latents` holds.

    Args:
        found: from `measure_rows`, of all rows.
        threshold: see `latent_use`.
    """
    found = found.isel(latent=np.flatnonzero(found["_first"].notnull().any("row").values))  # masked in every row
    rows = found.sizes["row"]
    kl = found["kl"]
    mean_kl = kl.mean("row", skipna=False)
    active_variance = found["_centre"].var("row", ddof=1) - found["_noise"].mean("row")
    prior_variance = found["_prior_second"].mean("row") - found["_prior_first"].mean("row") ** 2
    active = active_variance > threshold * prior_variance
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
    return xr.Dataset(columns)


def use_summary(rows: xr.Dataset, latents: xr.Dataset, aggregate: xr.Dataset) -> xr.Dataset:
    """What `LatentUse.summary` returns.

    Args:
        rows: `LatentUse.rows`.
        latents: `LatentUse.latents`.
        aggregate: `LatentUse.aggregate`.
    """
    means = means_of(rows, _TERMS).isel(part=0)
    return xr.merge([means, latents, aggregate], combine_attrs="override")


def latents_that_are(status: str, summary: xr.Dataset) -> list[str]:
    """Names of the latents of a status."""
    return summary["latent"].values[summary["status"].values == status].tolist()


def use_warnings(summary: xr.Dataset) -> list[str]:
    """What a reader must know, a sentence each."""
    ratio = summary["aggregated_variance"] / summary["prior_variance"]
    said = {
        "collapsed: q(h | v) is the prior whatever v is, and the decoder gets nothing": latents_that_are(
            "collapsed", summary
        ),
        "E_q[h] is nearly the same for all rows, yet q is not the prior: nats that buy little": latents_that_are(
            "constant", summary
        ),
        f"spread over less than {_NARROW:g} of the prior's variance by all rows together: the model has seen reduced "
        "data in h, so that p(v) may be good while its draws come from where no q(h | v) goes": (
            summary["latent"].values[(ratio < _NARROW).values].tolist()
        ),
    }
    about = [_sentence(latents, what) for what, latents in said.items() if latents]
    return left_out(summary.expand_dims("part"), "elbo") + about + _of_the_aggregate(summary)


def _sentence(latents: list[str], what: str) -> str:
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


def use_lines(summary: xr.Dataset) -> list[str]:
    """The summary as text without warnings, a line each."""
    means = summary.sel(term="elbo")
    lines = [f"{int(means['count'] + means['left_out'])} rows, nats per row (mean ± standard error over rows)", ""]
    for term in _TERMS:
        mean, stderr = (float(summary[name].sel(term=term)) for name in ("mean", "stderr"))
        lines.append(f"{term:<12}{mean:>10.3f} ± {stderr:.3f}")
    if not summary["undefined"].item():
        numbers = {str(name): float(value) for name, value in summary.items() if not value.dims and name != "undefined"}
        for term, other in (("mutual_information", "upper"), ("marginal_kl", "lower")):
            lines.append(
                f"{term.replace('_', ' '):<19}{numbers[term]:.3f} ± {numbers[f'{term}_stderr']:.3f} (Monte Carlo); "
                f"without a draw's own row {numbers[f'{term}_{other}']:.3f}"
            )
        lines[-2] += f"; at most log N = {numbers['log_rows']:.3f}"
    names = summary["latent"].values
    width = max(len("latent"), *(len(name) for name in names))
    lines += ["", f"{'latent':<{width}}  {'KL':>17}  Var_v E_q[h]  Var q(h)/Var p(h)  status"]
    for i in np.argsort(-summary["kl"].values, kind="stable")[:_LINES]:
        line = summary.isel(latent=i)
        ratio = float(line["aggregated_variance"] / line["prior_variance"])
        lines.append(
            f"{names[i]:<{width}}  {float(line['kl']):>8.4f} ± {float(line['kl_stderr']):.4f}  "
            f"{float(line['active_variance']):>12.4f}  {ratio:>17.3f}  {line['status'].item()}"
        )
    if len(names) > _LINES:
        lines.append(f"... and {len(names) - _LINES} more.")
    if summary["kl"].isnull().any():
        lines.append(
            "KL nan: not known latent by latent (a full covariance, a flow, a point mass, a sum in the prior); see "
            "`site_kl`, and the rate for all together."
        )
    return lines
