"""Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row.

The names below are imported when they are first asked for: what stands behind them takes a second and more to import.
"""

from typing import TYPE_CHECKING

from pplvae._version import __version__

if TYPE_CHECKING:  # for readers, editors and type checkers; `_HOMES` says the same to Python
    from pplvae import adapters, guides, likelihoods, loggers, models, objectives, plots, priors
    from pplvae.adapters.from_torch import from_torch
    from pplvae.checking.check import check
    from pplvae.checking.graph import Graph, draw
    from pplvae.checking.result import Checked
    from pplvae.comparison.advice import Advice
    from pplvae.comparison.attribution import Attribution, attribute
    from pplvae.comparison.compare import amortisation_gap, compare
    from pplvae.data import Data, Rows, load_data, with_mask
    from pplvae.diagnostics.calibration import Calibration, calibrate
    from pplvae.diagnostics.gradient_noise import gradient_noise
    from pplvae.diagnostics.joint import JointDivergence, joint_kl
    from pplvae.diagnostics.landscape import elbo_landscape
    from pplvae.diagnostics.latent_use import LatentUse, latent_use
    from pplvae.evidence.annealing import Annealing
    from pplvae.evidence.bracket import Bracket, evidence_bracket
    from pplvae.evidence.log_evidence import Evidence, log_evidence
    from pplvae.evidence.posterior_means import PosteriorMeans, posterior_means
    from pplvae.programs.local import local
    from pplvae.programs.log_weights import log_weights
    from pplvae.results.comparison import Comparison, load_comparison
    from pplvae.results.groups import Groups, gap_by_group
    from pplvae.results.outliers import Outliers, outlier_scores
    from pplvae.results.paired import PairedRuns, compare_runs
    from pplvae.search.richer_families import Mixture, Transport, flow, full_covariance
    from pplvae.training.fitting import fit
    from pplvae.training.loop import FitStatus
    from pplvae.training.outcome import Fit, load_fit

__all__ = [
    "Advice",
    "Annealing",
    "Attribution",
    "Bracket",
    "Calibration",
    "Checked",
    "Comparison",
    "Data",
    "Evidence",
    "Fit",
    "FitStatus",
    "Graph",
    "Groups",
    "JointDivergence",
    "LatentUse",
    "Mixture",
    "Outliers",
    "PairedRuns",
    "PosteriorMeans",
    "Rows",
    "Transport",
    "__version__",
    "adapters",
    "amortisation_gap",
    "attribute",
    "calibrate",
    "check",
    "compare",
    "compare_runs",
    "draw",
    "elbo_landscape",
    "evidence_bracket",
    "fit",
    "flow",
    "from_torch",
    "full_covariance",
    "gap_by_group",
    "gradient_noise",
    "guides",
    "joint_kl",
    "latent_use",
    "likelihoods",
    "load_comparison",
    "load_data",
    "load_fit",
    "local",
    "log_evidence",
    "log_weights",
    "loggers",
    "models",
    "objectives",
    "outlier_scores",
    "plots",
    "posterior_means",
    "priors",
    "with_mask",
]

_PACKAGES = (
    "adapters",
    "data",
    "errors",
    "guides",
    "likelihoods",
    "loggers",
    "models",
    "objectives",
    "plots",
    "priors",
)
_HOMES = {
    "adapters.from_torch": ("from_torch",),
    "checking.check": ("check",),
    "checking.graph": (
        "Graph",
        "draw",
    ),
    "checking.result": ("Checked",),
    "comparison.advice": ("Advice",),
    "comparison.attribution": (
        "Attribution",
        "attribute",
    ),
    "comparison.compare": (
        "amortisation_gap",
        "compare",
    ),
    "data": (
        "Data",
        "Rows",
        "load_data",
        "with_mask",
    ),
    "diagnostics.calibration": (
        "Calibration",
        "calibrate",
    ),
    "diagnostics.gradient_noise": ("gradient_noise",),
    "diagnostics.joint": (
        "JointDivergence",
        "joint_kl",
    ),
    "diagnostics.landscape": ("elbo_landscape",),
    "diagnostics.latent_use": (
        "LatentUse",
        "latent_use",
    ),
    "evidence.annealing": ("Annealing",),
    "evidence.bracket": (
        "Bracket",
        "evidence_bracket",
    ),
    "evidence.log_evidence": (
        "Evidence",
        "log_evidence",
    ),
    "evidence.posterior_means": (
        "PosteriorMeans",
        "posterior_means",
    ),
    "programs.local": ("local",),
    "programs.log_weights": ("log_weights",),
    "results.comparison": (
        "Comparison",
        "load_comparison",
    ),
    "results.groups": (
        "Groups",
        "gap_by_group",
    ),
    "results.outliers": (
        "Outliers",
        "outlier_scores",
    ),
    "results.paired": (
        "PairedRuns",
        "compare_runs",
    ),
    "search.richer_families": (
        "Mixture",
        "Transport",
        "flow",
        "full_covariance",
    ),
    "training.fitting": ("fit",),
    "training.loop": ("FitStatus",),
    "training.outcome": (
        "Fit",
        "load_fit",
    ),
}

if not TYPE_CHECKING:  # a type checker would take every name for one of ours

    def __getattr__(name):  # noqa: ANN001, ANN202
        from importlib import import_module

        home = name if name in _PACKAGES else next((home for home, names in _HOMES.items() if name in names), None)
        if home is None:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        try:
            module = import_module(f"{__name__}.{home}")
        except AttributeError as error:  # Python would report a name that is not there
            raise ImportError(f"{__name__}.{home} cannot be imported: {error}") from error
        globals()[name] = found = module if home == name else getattr(module, name)
        return found

    def __dir__():  # noqa: ANN202
        return sorted({*globals(), *__all__, *_PACKAGES})
