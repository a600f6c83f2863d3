"""Closed forms computed by other means than the package's own: SciPy, NumPy, quadrature."""

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from scipy import stats

from pplvae.models import PPCA, FactorAnalysis


def random_linear(seed, *, rows=200, kind=FactorAnalysis):
    """A linear-Gaussian model of random size, and rows drawn from it."""
    generator = np.random.default_rng(seed)
    latent = int(generator.integers(1, 6))
    visible = int(generator.integers(latent + 1, 15))
    torch.manual_seed(seed)
    model = kind(visible, latent).double()
    with torch.no_grad():
        model.mean.normal_()
        model.log_noise.normal_(std=0.7)
        model.factors.mul_(1.5)
        h = torch.randn(rows, latent, dtype=torch.float64)
        noise = torch.randn(rows, visible, dtype=torch.float64)
        v = model.mean + h @ model.factors.T + noise * model.noise.sqrt()
    return model, v


def bad_encoder(model, seed):
    """An encoder that is wrong in another way for every row: v -> (mean, scale) of a factorised Gaussian."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(model.visible, model.latent, generator=generator, dtype=torch.float64) * 0.3

    def encode(v):
        scores = v @ weight
        return 2 * torch.tanh(scores), torch.exp(0.5 * torch.sin(3 * scores))

    return encode


def bad_guide(model, seed):
    """A guide with that encoder, and the encoder."""
    encode = bad_encoder(model, seed)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(*encode(v)).to_event(1))

    return guide, encode


def bad_pair(seed, rows):
    """A linear-Gaussian model, its bad guide, and rows of the model."""
    model, v = random_linear(seed, rows=rows)
    return model, bad_guide(model, seed)[0], v


def marginal(model):
    """N(mean, F F' + Psi) as SciPy sees it."""
    factors, noise = model.factors.detach().numpy(), model.noise.detach().numpy()
    return stats.multivariate_normal(model.mean.detach().numpy(), factors @ factors.T + np.diag(noise))


__all__ = ["PPCA", "FactorAnalysis", "bad_encoder", "bad_guide", "bad_pair", "marginal", "random_linear"]
