"""Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row."""

from pplvae import models
from pplvae._version import __version__
from pplvae.comparison import (
    Advice,
    Annealing,
    Attribution,
    Bracket,
    Comparison,
    Evidence,
    Mixture,
    Transport,
    amortisation_gap,
    attribute,
    compare,
    evidence_bracket,
    flow,
    full_covariance,
    load_comparison,
    local,
    log_evidence,
)
from pplvae.data import Data, Rows, load_data
from pplvae.fit import Fit, FitStatus, fit, load_fit
from pplvae.scoring import log_weights

__all__ = [
    "Advice",
    "Annealing",
    "Attribution",
    "Bracket",
    "Comparison",
    "Data",
    "Evidence",
    "Fit",
    "FitStatus",
    "Mixture",
    "Rows",
    "Transport",
    "__version__",
    "amortisation_gap",
    "attribute",
    "compare",
    "evidence_bracket",
    "fit",
    "flow",
    "full_covariance",
    "load_comparison",
    "load_data",
    "load_fit",
    "local",
    "log_evidence",
    "log_weights",
    "models",
]
