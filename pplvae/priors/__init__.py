"""p(h), one prior a file; `PRIORS` are those that the command line knows by name, made from `latent`.

A constructor that takes `family` or `inputs` is given the guide's family, and the number of columns that it sees.
"""

from pplvae.priors.base import Prior
from pplvae.priors.standard_normal import StandardNormal

PRIORS = {
    "standard-normal": StandardNormal,
}

__all__ = ["PRIORS", "Prior", "StandardNormal"]
