"""What one shared encoder costs, row by row: local guides, their optimum, the gaps."""

from pplvae.comparison.gaps import amortisation_gap, compare
from pplvae.comparison.localise import local
from pplvae.comparison.result import Comparison, load_comparison

__all__ = ["Comparison", "amortisation_gap", "compare", "load_comparison", "local"]
