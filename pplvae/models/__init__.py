"""Shipped models, each a Pyro program; `MODELS` are those that the command line knows by name."""

from pplvae.models.autoregressive import AutoregressiveVAE
from pplvae.models.chain_rule import ChainRule
from pplvae.models.composed import composed_vae
from pplvae.models.conditional import ConditionalVAE, one_hot
from pplvae.models.deep_markov import DeepMarkov
from pplvae.models.discrete import DiscreteVAE
from pplvae.models.hierarchical import HierarchicalVAE
from pplvae.models.ica import ICA, amari_distance
from pplvae.models.incomplete import IncompleteVAE
from pplvae.models.linear import PPCA, FactorAnalysis
from pplvae.models.markov import MarkovChain
from pplvae.models.observed import no_latents
from pplvae.models.vae import VAE, BernoulliVAE, GaussianVAE

MODELS = {
    "vae": composed_vae,
    "bernoulli-vae": BernoulliVAE,
    "gaussian-vae": GaussianVAE,
    "factor-analysis": FactorAnalysis,
    "ppca": PPCA,
    "ica": ICA,
    "chain-rule": ChainRule,
    "autoregressive-vae": AutoregressiveVAE,
    "markov-chain": MarkovChain,
    "deep-markov": DeepMarkov,
    "hierarchical-vae": HierarchicalVAE,
    "discrete-vae": DiscreteVAE,
    "incomplete-vae": IncompleteVAE,
}

__all__ = [
    "ICA",
    "MODELS",
    "PPCA",
    "VAE",
    "AutoregressiveVAE",
    "BernoulliVAE",
    "ChainRule",
    "ConditionalVAE",
    "DeepMarkov",
    "DiscreteVAE",
    "FactorAnalysis",
    "GaussianVAE",
    "HierarchicalVAE",
    "IncompleteVAE",
    "MarkovChain",
    "amari_distance",
    "composed_vae",
    "no_latents",
    "one_hot",
]
