"""Amortised guides, one family a file: from v to a distribution of h.

`GUIDES` are those that the command line knows by name, made from `visible` (columns that the encoder sees), `latent`
and `hidden`; a constructor that takes `prior`, `decoder` or `likelihood` is given those of the model.
"""

from pplvae.guides.base import Family
from pplvae.guides.factorised import FactorisedGaussian

GUIDES = {
    "factorised-gaussian": FactorisedGaussian,
}

__all__ = ["GUIDES", "FactorisedGaussian", "Family"]
