"""Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row."""

from pplvae import models
from pplvae._version import __version__
from pplvae.comparison import Comparison, amortisation_gap, compare, load_comparison, local
from pplvae.data import Data, Rows, load_data
from pplvae.fit import Fit, FitStatus, fit, load_fit
from pplvae.scoring import log_weights

__all__ = [
    "Comparison",
    "Data",
    "Fit",
    "FitStatus",
    "Rows",
    "__version__",
    "amortisation_gap",
    "compare",
    "fit",
    "load_comparison",
    "load_data",
    "load_fit",
    "local",
    "log_weights",
    "models",
]
