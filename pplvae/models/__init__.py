"""Shipped models, each a Pyro program; `MODELS` are those that the command line knows by name."""

from pplvae.models.linear import PPCA, FactorAnalysis
from pplvae.models.vae import VAE, BernoulliVAE, GaussianVAE

MODELS = {
    "bernoulli-vae": BernoulliVAE,
    "gaussian-vae": GaussianVAE,
    "factor-analysis": FactorAnalysis,
    "ppca": PPCA,
}

__all__ = ["MODELS", "PPCA", "VAE", "BernoulliVAE", "FactorAnalysis", "GaussianVAE"]
