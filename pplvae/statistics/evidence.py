"""Summaries of log p(v), of brackets around it, and of posterior means, and their text."""

import numpy as np
import xarray as xr

from pplvae.statistics.means import columns_of, left_out, means_of, share_above

_TRUSTED = 0.7  # k-hat above which importance weights cannot be
_FEW = 0.01  # share of rows that is not worth a warning
_LINES = 30  # latents printed


def evidence_summary(rows: xr.Dataset) -> xr.Dataset:
    """What `Evidence.summary` returns.

    Args:
        rows: `Evidence.rows`.
    """
    means = means_of(rows, ["log_evidence", "jensen_slack"])
    return means.assign(unreliable=share_above(rows, "pareto_k", _TRUSTED))


def evidence_lines(summary: xr.Dataset) -> list[str]:
    """The summary as text without warnings, a line for each part."""
    about, found = summary.attrs, []
    for part, name in _parts(summary):
        value, slack = part.sel(term="log_evidence"), float(part["mean"].sel(term="jensen_slack"))
        found.append(
            f"{name}log p(v) = {float(value['mean']):.3f} ± {float(value['stderr']):.3f} nats per row "
            f"({int(value['count'])} rows; Monte Carlo error {float(value['mc_stderr']):.4f}), a {about['bound']} "
            f"bound in expectation, by {about['method']}; Jensen slack {slack:.3f}; k-hat above {_TRUSTED} on "
            f"{100 * float(part['unreliable']):.1f} % of the rows."
        )
    return found


def evidence_warnings(summary: xr.Dataset) -> list[str]:
    """What a reader must know, a sentence each."""
    what = "log evidence may be too low there by more than its standard errors say"
    return left_out(summary, "log_evidence") + _unreliable(summary, what)


def bracket_summary(rows: xr.Dataset) -> xr.Dataset:
    """What `Bracket.summary` returns.

    Args:
        rows: `Bracket.rows`.
    """
    return means_of(rows, ["lower", "upper", "width"])


def bracket_lines(summary: xr.Dataset) -> list[str]:
    """The summary as text without warnings, a line for each part."""
    found = []
    for part, name in _parts(summary):
        lower, upper, width = (float(part["mean"].sel(term=term)) for term in ("lower", "upper", "width"))
        line = part.sel(term="width")
        found.append(
            f"{name}On {int(line['count'])} rows simulated from the model, {lower:.3f} <= log p(v) <= {upper:.3f} nats "
            f"per row in expectation: these settings of annealing are off by at most {width:.3f} ± "
            f"{float(line['stderr']):.3f}."
        )
    return found


def bracket_warnings(summary: xr.Dataset) -> list[str]:
    """What a reader must know, a sentence each."""
    return left_out(summary, "width")


def posterior_summary(rows: xr.Dataset) -> xr.Dataset:
    """What `PosteriorMeans.summary` returns.

    Args:
        rows: `PosteriorMeans.rows`.
    """
    sites = [name for name in map(str, rows.data_vars) if f"{name}_guide" in rows and f"{name}_stderr" in rows]
    one_by_one = xr.Dataset(coords=rows.coords, attrs=rows.attrs)
    latents = []
    for site in sites:
        three = (columns_of(rows, [name]) for name in (site, f"{site}_stderr", f"{site}_guide"))
        for (latent, mean), (_, stderr), (_, guide) in zip(*three, strict=True):
            latents.append(latent)
            one_by_one[latent], one_by_one[f"{latent}_stderr"] = ("row", mean), ("row", stderr)
            one_by_one[f"{latent} moved"] = ("row", (mean - guide) ** 2)
    means = means_of(one_by_one, latents).rename(term="latent")
    moved = np.sqrt(means_of(one_by_one, [f"{latent} moved" for latent in latents])["mean"].values)
    return means.assign(moved=(("part", "latent"), moved), unreliable=share_above(rows, "pareto_k", _TRUSTED))


def posterior_lines(summary: xr.Dataset) -> list[str]:
    """The summary as text without warnings, a line for each latent."""
    latents = summary["latent"].values.tolist()
    width = max(len("latent"), *map(len, latents))
    lines = ["E[h | v] (mean over rows ± standard error over rows; by how much it differs from the guide's, r.m.s.)"]
    for part, name in _parts(summary):
        lines += ["", f"{name}{int(part['count'].max())} rows"]
        for latent in latents[:_LINES]:
            line = part.sel(latent=latent)
            mean, stderr, moved = (float(line[key]) for key in ("mean", "stderr", "moved"))
            lines.append(f"{latent:<{width}}  {mean:>9.3f} ± {stderr:<8.3f} {moved:>9.3f}")
        if len(latents) > _LINES:
            lines.append(f"... and {len(latents) - _LINES} more.")
    return lines


def posterior_warnings(summary: xr.Dataset) -> list[str]:
    """What a reader must know, a sentence each."""
    lost = summary.rename(latent="term")
    most = lost["term"].values[lost["left_out"].sum("part").values.argmax()]
    return left_out(lost, most) + _unreliable(summary, "their posterior means cannot be trusted")


def _unreliable(summary: xr.Dataset, so: str) -> list[str]:
    shares = zip(summary["part"].values.tolist(), summary["unreliable"].values.tolist(), strict=True)
    return [
        f"{part}: {100 * share:.1f} % of the rows have k-hat above {_TRUSTED}: {so}."
        for part, share in shares
        if share > _FEW
    ]


def _parts(summary: xr.Dataset) -> list[tuple[xr.Dataset, str]]:
    """Every part, and what its lines begin with: its name, where there are several."""
    names = summary["part"].values.tolist()
    return [(summary.sel(part=name), f"{name}: " if len(names) > 1 else "") for name in names]
