"""Figures for papers, from results or from their datasets.

A function draws on `ax` (grids of panels on `figure`) and returns it; without one it makes a figure of its own, whose
`ax.figure.savefig("gap.pdf")` needs no pyplot, and pyplot's state is not touched. Fonts, sizes and colours are those of
`matplotlib.rcParams`.
"""

from pplvae.plots.diagnostics import calibration_ecdf
from pplvae.plots.gaps import elbo_scatter, gap_histogram, lambda_scatter, row_histogram
from pplvae.plots.groups import gaps_by_group, outlier_roc, paired_differences
from pplvae.plots.images import picture_grid, picture_rows
from pplvae.plots.ladder import causes, decomposition, ladder
from pplvae.plots.landscape import optimisation_path, posterior_contours
from pplvae.plots.latents import corrected_means, kl_per_dimension, latent_map, rate_distortion
from pplvae.plots.training import gap_curves, gradient_noise, learning_curves

__all__ = [
    "calibration_ecdf",
    "causes",
    "corrected_means",
    "decomposition",
    "elbo_scatter",
    "gap_curves",
    "gap_histogram",
    "gaps_by_group",
    "gradient_noise",
    "kl_per_dimension",
    "ladder",
    "lambda_scatter",
    "latent_map",
    "learning_curves",
    "optimisation_path",
    "outlier_roc",
    "paired_differences",
    "picture_grid",
    "picture_rows",
    "posterior_contours",
    "rate_distortion",
    "row_histogram",
]
