"""What one shared encoder costs, row by row: local guides, their optimum, the gaps, log p(v)."""

from pplvae.comparison.annealed import Annealing
from pplvae.comparison.attribution import Advice, Attribution, attribute
from pplvae.comparison.bracket import Bracket, evidence_bracket
from pplvae.comparison.evidence import Evidence, log_evidence
from pplvae.comparison.gaps import amortisation_gap, compare
from pplvae.comparison.localise import local
from pplvae.comparison.result import Comparison, load_comparison
from pplvae.comparison.richer import Mixture, Transport, flow, full_covariance

__all__ = [
    "Advice",
    "Annealing",
    "Attribution",
    "Bracket",
    "Comparison",
    "Evidence",
    "Mixture",
    "Transport",
    "amortisation_gap",
    "attribute",
    "compare",
    "evidence_bracket",
    "flow",
    "full_covariance",
    "load_comparison",
    "local",
    "log_evidence",
]
