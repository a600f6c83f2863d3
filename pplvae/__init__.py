"""Deep latent variable models as Pyro programs, and what amortised inference costs them, in nats per row.

The names below are imported when they are first asked for: what stands behind them takes a second and more to import.
"""

from typing import TYPE_CHECKING

from pplvae._version import __version__
from pplvae.local import local  # now: asked for later, the name would be that of its module

if TYPE_CHECKING:  # for readers, editors and type checkers; `_HOMES` says the same to Python
    from pplvae import guides, likelihoods, models, objectives, priors
    from pplvae.attribution import Advice, Attribution, attribute
    from pplvae.comparison import (
        Annealing,
        Bracket,
        Comparison,
        Evidence,
        Mixture,
        Outliers,
        PairedRuns,
        Transport,
        amortisation_gap,
        compare,
        compare_runs,
        evidence_bracket,
        flow,
        full_covariance,
        gap_by_group,
        load_comparison,
        log_evidence,
        outlier_scores,
        posterior_means,
    )
    from pplvae.data import Data, Rows, load_data, with_mask
    from pplvae.diagnostics import Calibration, JointDivergence, LatentUse, calibrate, joint_kl, latent_use
    from pplvae.fitting import Fit, FitStatus, fit, load_fit
    from pplvae.scoring import log_weights

__all__ = [
    "Advice",
    "Annealing",
    "Attribution",
    "Bracket",
    "Calibration",
    "Comparison",
    "Data",
    "Evidence",
    "Fit",
    "FitStatus",
    "JointDivergence",
    "LatentUse",
    "Mixture",
    "Outliers",
    "PairedRuns",
    "Rows",
    "Transport",
    "__version__",
    "amortisation_gap",
    "attribute",
    "calibrate",
    "compare",
    "compare_runs",
    "evidence_bracket",
    "fit",
    "flow",
    "full_covariance",
    "gap_by_group",
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
    "models",
    "objectives",
    "outlier_scores",
    "posterior_means",
    "priors",
    "with_mask",
]

_PACKAGES = (
    "comparison",
    "data",
    "diagnostics",
    "errors",
    "guides",
    "likelihoods",
    "models",
    "objectives",
    "plots",
    "priors",
)
_HOMES = {
    "attribution": ("Advice", "Attribution", "attribute"),
    "comparison": (
        *("Annealing", "Bracket", "Comparison", "Evidence", "Mixture", "Outliers", "PairedRuns", "Transport"),
        *("amortisation_gap", "compare", "compare_runs", "evidence_bracket", "flow", "full_covariance", "gap_by_group"),
        *("load_comparison", "log_evidence", "outlier_scores", "posterior_means"),
    ),
    "data": ("Data", "Rows", "load_data", "with_mask"),
    "diagnostics": ("Calibration", "JointDivergence", "LatentUse", "calibrate", "joint_kl", "latent_use"),
    "fitting": ("Fit", "FitStatus", "fit", "load_fit"),
    "scoring": ("log_weights",),
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
