"""ELBO and log p(v) of skewed models, whose posteriors are no Gaussians, against closed forms and quadrature."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from scipy.special import gammaln
from statistics_ import assert_spread_is_one, assert_within, of_mean

import pplvae

LEVEL, SLOPE = 1.0, 1.5


def counts(columns):
    """Counts, each with a latent of its own, and guides that are off."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(columns), 1.0).to_event(1))
            pyro.sample("v", dist.Poisson((LEVEL + SLOPE * h).exp()).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0.3 * (v + 1).log(), 0.8).to_event(1))

    return model, guide


def elbo(v, loc, scale):
    """Of one column: E exp(h) is the mean of a log-normal."""
    fit = v * (LEVEL + SLOPE * loc) - np.exp(LEVEL + SLOPE * loc + 0.5 * SLOPE**2 * scale**2) - gammaln(v + 1)
    return fit + np.log(scale) - 0.5 * (loc**2 + scale**2 - 1)


def log_evidence(v):
    """Of one column, by the trapezoidal rule."""
    h = np.linspace(-12, 12, 4001)
    terms = v[..., None] * (LEVEL + SLOPE * h) - np.exp(LEVEL + SLOPE * h) - gammaln(v + 1)[..., None] - 0.5 * h**2
    return np.log(np.exp(terms).sum(-1) * (h[1] - h[0]) / math.sqrt(2 * math.pi))


def test_the_elbo_of_a_single_latent_is_exact():
    """However few the draws: log p - log q is skewed, and draws miss its tail."""
    v = torch.tensor([0.0, 1.0, 2.0, 5.0, 20.0, 300.0]).unsqueeze(1)
    result = pplvae.amortisation_gap(*counts(1), v, particles=20)
    for guide, name in (("amortised", "elbo_amortised"), ("local", "elbo_local")):
        loc, scale = (result.parameters[key].sel(guide=guide).values for key in ("h.loc", "h.scale"))
        np.testing.assert_allclose(result.rows[name], elbo(v.numpy(), loc, scale)[:, 0], rtol=0, atol=1e-6)
        assert float(result.rows[f"{name}_stderr"].max()) < 1e-6


@pytest.mark.statistical
def test_errors_of_log_evidence_are_as_large_as_it_says():
    """Twenty skewed latents, as many draws of each row as a standard error of 0.05 needs."""
    v = torch.poisson((LEVEL + SLOPE * torch.randn(200, 20)).exp())
    rows = pplvae.log_evidence(*counts(20), v, stderr=0.05, max_steps=25).rows
    assert len(np.unique(rows["draws"])) > 1
    error, stderr = rows["log_evidence"].values - log_evidence(v.numpy()).sum(1), rows["log_evidence_stderr"].values
    assert_within(error.mean(), of_mean(stderr), low=-0.5 * (stderr**2).mean())  # Jensen
    # Student's t of skewed numbers is spread more, by 7 / 4 of their squared skewness over their number. Weights are
    # about log-normal, and their spread gives their skewness.
    draws = rows["draws"].values
    spread = np.sqrt(draws) * stderr
    skewness = (spread**2 + 3) * spread
    assert_spread_is_one(error / stderr / np.sqrt(1 + 7 / 4 * skewness**2 / draws), degrees=499)
