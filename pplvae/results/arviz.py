"""The only module that touches ArviZ: results in its containers, and its Pareto smoothing, on both API lines.

ArviZ 0.x (Python 3.11) has `InferenceData`; 1.x (Python 3.12 and newer) has xarray's `DataTree` instead. It is imported
when it is first needed: that takes a second, and the last 0.x releases print a warning.
"""

from importlib.metadata import version
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from pplvae.isolate import unwarned
from pplvae.netcdf import without_slashes

_FEWEST_DRAWS = 25  # below, a tail has fewer than 5 of them
_VANISHES = 500  # nats below the largest weight


def to_arviz(groups: dict[str, xr.Dataset]) -> Any:
    """Datasets as the groups of an `InferenceData` (ArviZ 0.x) or a `DataTree` (ArviZ 1.x)."""
    # By the version: 1.x has an `InferenceData` too, which is `DataTree` by its old name.
    if not version("arviz").startswith("0."):
        return xr.DataTree.from_dict({name: without_slashes(dataset) for name, dataset in groups.items()})
    with unwarned():
        import arviz
    return arviz.InferenceData(**groups, warn_on_custom_groups=False)


def pareto_k(log_weights: Float[Tensor, "particle row"]) -> np.ndarray:
    """Shape of the Pareto tail of each row's importance weights: below 0.5 good, above 0.7 unusable.

    Minus infinity where there is no tail: the log weights are equal up to rounding (the guide is the posterior), or the
    largest of them take few values (discrete latents). NaN where weights are not finite, or there are fewer than 25
    draws, too few to fit a tail to.

    References:
        Pareto smoothed importance sampling (Vehtari et al., 2024), arXiv 1507.02646;
        Yes, but did it work? (Yao et al., 2018), arXiv 1802.02538.
    """
    return smoothed_weights(log_weights)[1]


def smoothed_weights(
    log_weights: Float[Tensor, "particle row"],
) -> tuple[Float[Tensor, "particle row"], np.ndarray]:
    """Log weights whose tail is replaced by quantiles of a fitted Pareto distribution, and `pareto_k`."""
    with unwarned():
        from arviz_stats.base.array import array_stats

    weights = log_weights.T.cpu().numpy()
    finite = np.asarray(np.isfinite(weights).all(1))
    k = np.full(len(weights), np.nan)
    k[finite] = -np.inf
    tailed = finite.copy()
    above, below = _tail_quartile(weights[finite])
    tailed[finite] = above > 1e-6
    if weights.shape[1] < _FEWEST_DRAWS:
        k[tailed] = np.nan
        return log_weights, k
    smoothed = weights.copy()
    if tailed.any():
        # ArviZ takes log-likelihoods here, whose negatives are the log weights of leave-one-out.
        with np.errstate(all="ignore"):
            smoothed[tailed], fitted = array_stats.psislw(-weights[tailed], axis=-1)
        # Next to the largest weight all others vanish in float64: there is no tail that could be fitted.
        alone = np.isnan(fitted) | (below[tailed[finite]] > _VANISHES)
        k[tailed] = np.where(alone, np.inf, fitted)
    return torch.from_numpy(smoothed).T.to(log_weights), k


def _tail_quartile(log_weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How far the lower quartile of the tail lies above its threshold, by which the fit divides; and below its end."""
    draws = log_weights.shape[1]
    tail = int(3 * np.sqrt(draws)) if draws > 225 else draws // 5  # as many as Vehtari et al. fit
    ordered = np.sort(log_weights, axis=1)
    quartile = ordered[:, -tail + max(0, int(tail / 4 + 0.5) - 1)]
    return quartile - ordered[:, max(0, draws - tail - 1)], ordered[:, -1] - quartile
