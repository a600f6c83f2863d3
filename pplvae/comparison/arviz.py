"""The only module that touches ArviZ: results in its containers, and its Pareto smoothing, on both API lines.

ArviZ 0.x (Python 3.11) has `InferenceData`; 1.x (Python 3.12 and newer) has xarray's `DataTree` instead.
"""

from typing import Any

import arviz
import numpy as np
import xarray as xr
from arviz_stats.base import array_stats
from jaxtyping import Float
from torch import Tensor


def to_arviz(groups: dict[str, xr.Dataset]) -> Any:
    """Datasets as the groups of an `InferenceData` (ArviZ 0.x) or a `DataTree` (ArviZ 1.x)."""
    if hasattr(arviz, "InferenceData"):
        return arviz.InferenceData(**groups, warn_on_custom_groups=False)
    return xr.DataTree.from_dict(groups)


def pareto_k(log_weights: Float[Tensor, "particle row"]) -> np.ndarray:
    """Shape of the Pareto tail of each row's importance weights: below 0.5 good, above 0.7 unusable.

    Minus infinity where the log weights are equal up to rounding (the guide is the posterior): there is no tail.

    References:
        Pareto smoothed importance sampling (Vehtari et al., 2024), arXiv 1507.02646;
        Yes, but did it work? (Yao et al., 2018), arXiv 1802.02538.
    """
    weights = log_weights.T.cpu().numpy()
    with np.errstate(all="ignore"):
        k = np.asarray(array_stats.psislw(weights, axis=-1)[1], dtype=np.float64)
    spread = weights.max(1) - weights.min(1)
    return np.where(spread < 1e-6, -np.inf, np.where(np.isfinite(spread), k, np.nan))
