"""Amortised guides, one family a file: from v to a distribution of h.

`GUIDES` are those that the command line knows by name, made from `visible` (columns that the encoder sees), `latent`
and `hidden`; a constructor that takes `prior`, `decoder` or `likelihood` is given those of the model.
"""

from pplvae.guides.base import Family
from pplvae.guides.by_row import ByRow
from pplvae.guides.factorised import FactorisedGaussian
from pplvae.guides.flow import Flow
from pplvae.guides.full_covariance import FullCovarianceGaussian
from pplvae.guides.independent_components import IndependentComponents
from pplvae.guides.inverse_transform import FactorisedGumbel, FactorisedKumaraswamy, FactorisedLogistic
from pplvae.guides.iterative import Iterative, SemiAmortised
from pplvae.guides.low_rank import LowRankGaussian
from pplvae.guides.mixture import MixtureOfGaussians
from pplvae.guides.per_row import PerRow

GUIDES = {
    "factorised-gaussian": FactorisedGaussian,
    "factorised-gumbel": FactorisedGumbel,
    "factorised-kumaraswamy": FactorisedKumaraswamy,
    "factorised-logistic": FactorisedLogistic,
    "flow": Flow,
    "full-covariance": FullCovarianceGaussian,
    "independent-components": IndependentComponents,
    "iterative": Iterative,
    "low-rank": LowRankGaussian,
    "mixture": MixtureOfGaussians,
    "semi-amortised": SemiAmortised,
}

__all__ = [
    "GUIDES",
    "ByRow",
    "FactorisedGaussian",
    "FactorisedGumbel",
    "FactorisedKumaraswamy",
    "FactorisedLogistic",
    "Family",
    "Flow",
    "FullCovarianceGaussian",
    "IndependentComponents",
    "Iterative",
    "LowRankGaussian",
    "MixtureOfGaussians",
    "PerRow",
    "SemiAmortised",
]
