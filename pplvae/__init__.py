"""Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row."""

from pplvae import models
from pplvae._version import __version__
from pplvae.comparison import (
    Annealing,
    Bracket,
    Comparison,
    Evidence,
    amortisation_gap,
    compare,
    evidence_bracket,
    load_comparison,
    local,
    log_evidence,
)
from pplvae.data import Data, Rows, load_data
from pplvae.fit import Fit, FitStatus, fit, load_fit
from pplvae.scoring import log_weights

__all__ = [
    "Annealing",
    "Bracket",
    "Comparison",
    "Data",
    "Evidence",
    "Fit",
    "FitStatus",
    "Rows",
    "__version__",
    "amortisation_gap",
    "compare",
    "evidence_bracket",
    "fit",
    "load_comparison",
    "load_data",
    "load_fit",
    "local",
    "log_evidence",
    "log_weights",
    "models",
]
