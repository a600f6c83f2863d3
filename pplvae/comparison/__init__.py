"""What one shared encoder costs, row by row: local guides, their optimum, the gaps, log p(v)."""

from pplvae.comparison.annealed import Annealing
from pplvae.comparison.bracket import Bracket, evidence_bracket
from pplvae.comparison.evidence import Evidence, log_evidence
from pplvae.comparison.gaps import amortisation_gap, compare
from pplvae.comparison.localise import local
from pplvae.comparison.result import Comparison, load_comparison

__all__ = [
    "Annealing",
    "Bracket",
    "Comparison",
    "Evidence",
    "amortisation_gap",
    "compare",
    "evidence_bracket",
    "load_comparison",
    "local",
    "log_evidence",
]
