"""Shipped models, each a Pyro program; `MODELS` are those that the command line knows by name."""

from pplvae.models.composed import composed_vae
from pplvae.models.linear import PPCA, FactorAnalysis
from pplvae.models.vae import VAE, BernoulliVAE, GaussianVAE

MODELS = {
    "vae": composed_vae,
    "bernoulli-vae": BernoulliVAE,
    "gaussian-vae": GaussianVAE,
    "factor-analysis": FactorAnalysis,
    "ppca": PPCA,
}

__all__ = ["MODELS", "PPCA", "VAE", "BernoulliVAE", "FactorAnalysis", "GaussianVAE", "composed_vae"]
