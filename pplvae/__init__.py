"""Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row."""

from pplvae import guides, likelihoods, models, objectives, priors
from pplvae._version import __version__
from pplvae.attribution import Advice, Attribution, attribute
from pplvae.comparison import (
    Annealing,
    Bracket,
    Comparison,
    Evidence,
    Mixture,
    Outliers,
    PairedRuns,
    Transport,
    amortisation_gap,
    compare,
    compare_runs,
    evidence_bracket,
    flow,
    full_covariance,
    gap_by_group,
    load_comparison,
    log_evidence,
    outlier_scores,
    posterior_means,
)
from pplvae.data import Data, Rows, load_data, with_mask
from pplvae.diagnostics import Calibration, JointDivergence, LatentUse, calibrate, joint_kl, latent_use
from pplvae.fit import Fit, FitStatus, fit, load_fit
from pplvae.local import local
from pplvae.scoring import log_weights

__all__ = [
    "Advice",
    "Annealing",
    "Attribution",
    "Bracket",
    "Calibration",
    "Comparison",
    "Data",
    "Evidence",
    "Fit",
    "FitStatus",
    "JointDivergence",
    "LatentUse",
    "Mixture",
    "Outliers",
    "PairedRuns",
    "Rows",
    "Transport",
    "__version__",
    "amortisation_gap",
    "attribute",
    "calibrate",
    "compare",
    "compare_runs",
    "evidence_bracket",
    "fit",
    "flow",
    "full_covariance",
    "gap_by_group",
    "guides",
    "joint_kl",
    "latent_use",
    "likelihoods",
    "load_comparison",
    "load_data",
    "load_fit",
    "local",
    "log_evidence",
    "log_weights",
    "models",
    "objectives",
    "outlier_scores",
    "posterior_means",
    "priors",
    "with_mask",
]
