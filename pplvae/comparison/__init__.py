"""What one shared encoder costs, row by row: local guides, their optimum, the gaps, log p(v)."""

from pplvae.comparison.annealed import Annealing
from pplvae.comparison.bracket import Bracket, evidence_bracket
from pplvae.comparison.evidence import Evidence, log_evidence
from pplvae.comparison.gaps import amortisation_gap, compare
from pplvae.comparison.groups import gap_by_group
from pplvae.comparison.outliers import Outliers, outlier_scores
from pplvae.comparison.paired import PairedRuns, compare_runs
from pplvae.comparison.posterior import posterior_means
from pplvae.comparison.result import Comparison, load_comparison
from pplvae.comparison.richer import Mixture, Transport, flow, full_covariance

__all__ = [
    "Annealing",
    "Bracket",
    "Comparison",
    "Evidence",
    "Mixture",
    "Outliers",
    "PairedRuns",
    "Transport",
    "amortisation_gap",
    "compare",
    "compare_runs",
    "evidence_bracket",
    "flow",
    "full_covariance",
    "gap_by_group",
    "load_comparison",
    "log_evidence",
    "outlier_scores",
    "posterior_means",
]
