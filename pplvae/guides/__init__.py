"""Amortised guides, one family a file: from v to a distribution of h."""

from pplvae.guides.factorised import FactorisedGaussian

__all__ = ["FactorisedGaussian"]
