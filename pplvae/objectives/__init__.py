"""What `fit` maximises: Pyro's ELBOs and estimators of our own, one idea a file; `OBJECTIVES` are known by name."""

from pplvae.objectives.draws import Draws
from pplvae.objectives.entropy import EntropyELBO
from pplvae.objectives.free_bits import FreeBits
from pplvae.objectives.importance import IWAE, RenyiELBO
from pplvae.objectives.info import InfoVAE, maximum_mean_discrepancy
from pplvae.objectives.kl_weight import KLWeight, ScaleLatents, cyclical, warm_up
from pplvae.objectives.objective import OBJECTIVES, Objective, RowObjective, named_objective
from pplvae.objectives.path import DReG, StickingTheLanding
from pplvae.objectives.score import ScoreFunction

__all__ = [
    "IWAE",
    "OBJECTIVES",
    "DReG",
    "Draws",
    "EntropyELBO",
    "FreeBits",
    "InfoVAE",
    "KLWeight",
    "Objective",
    "RenyiELBO",
    "RowObjective",
    "ScaleLatents",
    "ScoreFunction",
    "StickingTheLanding",
    "cyclical",
    "maximum_mean_discrepancy",
    "named_objective",
    "warm_up",
]
