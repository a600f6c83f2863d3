"""Every figure. Each function returns a matplotlib Figure of its own: pyplot's global state is not touched."""

from pplvae.plots.diagnostics import calibration_ecdf, kl_per_dimension, rate_distortion
from pplvae.plots.gaps import (
    decomposition,
    elbo_scatter,
    gap_histogram,
    ladder,
    lambda_scatter,
    learning_curves,
    picture_grid,
)
from pplvae.plots.groups import gaps_by_group, outlier_roc, paired_differences

__all__ = [
    "calibration_ecdf",
    "decomposition",
    "elbo_scatter",
    "gap_histogram",
    "gaps_by_group",
    "kl_per_dimension",
    "ladder",
    "lambda_scatter",
    "learning_curves",
    "outlier_roc",
    "paired_differences",
    "picture_grid",
    "rate_distortion",
]
