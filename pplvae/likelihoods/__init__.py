"""p(v | h), one likelihood a file; `LIKELIHOODS` are those that the command line knows by name.

A constructor that takes `visible` is given the number of columns of v.
"""

from pplvae.likelihoods.base import Likelihood
from pplvae.likelihoods.bernoulli import Bernoulli
from pplvae.likelihoods.gaussian import Gaussian

LIKELIHOODS = {
    "bernoulli": Bernoulli,
    "gaussian": Gaussian,
}

__all__ = ["LIKELIHOODS", "Bernoulli", "Gaussian", "Likelihood"]
