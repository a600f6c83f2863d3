"""p(v | h), one likelihood a file; `LIKELIHOODS` are those that the command line knows by name.

A constructor that takes `visible` is given the number of columns of v.
"""

from pplvae.likelihoods.base import Likelihood
from pplvae.likelihoods.bernoulli import Bernoulli
from pplvae.likelihoods.beta import Beta
from pplvae.likelihoods.categorical import Categorical
from pplvae.likelihoods.continuous_bernoulli import ContinuousBernoulli
from pplvae.likelihoods.gaussian import Gaussian
from pplvae.likelihoods.gaussian_fixed import GaussianFixed
from pplvae.likelihoods.gaussian_shared import GaussianShared
from pplvae.likelihoods.multinomial import Multinomial
from pplvae.likelihoods.negative_binomial import NegativeBinomial
from pplvae.likelihoods.poisson import Poisson
from pplvae.likelihoods.zero_inflated_negative_binomial import ZeroInflatedNegativeBinomial

LIKELIHOODS = {
    "bernoulli": Bernoulli,
    "beta": Beta,
    "categorical": Categorical,
    "continuous-bernoulli": ContinuousBernoulli,
    "gaussian": Gaussian,
    "gaussian-fixed": GaussianFixed,
    "gaussian-shared": GaussianShared,
    "multinomial": Multinomial,
    "negative-binomial": NegativeBinomial,
    "poisson": Poisson,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
}

__all__ = [
    "LIKELIHOODS",
    "Bernoulli",
    "Beta",
    "Categorical",
    "ContinuousBernoulli",
    "Gaussian",
    "GaussianFixed",
    "GaussianShared",
    "Likelihood",
    "Multinomial",
    "NegativeBinomial",
    "Poisson",
    "ZeroInflatedNegativeBinomial",
]
