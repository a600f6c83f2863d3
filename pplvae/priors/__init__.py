"""p(h), one prior a file; `PRIORS` are those that the command line knows by name, made from `latent`.

`Categorical` is not among them: its latents are classes, for which `models.DiscreteVAE` has a decoder and a guide.

A constructor that takes `family` or `inputs` is given the guide's family, and the number of columns that it sees.
"""

from pplvae.priors.base import Prior
from pplvae.priors.categorical import Categorical
from pplvae.priors.flow import Flow
from pplvae.priors.gaussian import Gaussian
from pplvae.priors.gaussian_mixture import GaussianMixture
from pplvae.priors.independent_mixtures import IndependentMixtures
from pplvae.priors.laplace import Laplace
from pplvae.priors.logistic import Logistic
from pplvae.priors.standard_normal import StandardNormal
from pplvae.priors.student_t import StudentT
from pplvae.priors.uniform import Uniform
from pplvae.priors.vamp import VampPrior

PRIORS = {
    "standard-normal": StandardNormal,
    "gaussian": Gaussian,
    "gaussian-mixture": GaussianMixture,
    "vamp": VampPrior,
    "flow": Flow,
    "laplace": Laplace,
    "logistic": Logistic,
    "student-t": StudentT,
    "independent-mixtures": IndependentMixtures,
    "uniform": Uniform,
}

__all__ = [
    "PRIORS",
    "Categorical",
    "Flow",
    "Gaussian",
    "GaussianMixture",
    "IndependentMixtures",
    "Laplace",
    "Logistic",
    "Prior",
    "StandardNormal",
    "StudentT",
    "Uniform",
    "VampPrior",
]
