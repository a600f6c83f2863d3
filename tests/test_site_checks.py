"""Refusals at single sites, where a comparison would be wrong in silence."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

import pplvae
from pplvae.errors import ProgramError, RowwiseError
from pplvae.programs.transforms import LowerCholeskyAffine


def model(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)


def test_a_matrix_for_each_row_around_a_base_with_parameters():
    """Freeing the base alone would hold the matrix at the encoder's answer."""

    def guide(v):
        with pyro.plate("data", len(v)):
            base = dist.Laplace(torch.zeros(len(v), 2), 1.0).to_event(1)
            matrix = torch.eye(2) + v[:, :1, None] * torch.ones(2, 2).tril(-1)
            pyro.sample("h", dist.TransformedDistribution(base, [LowerCholeskyAffine(0.1 * v, matrix)]))

    with pytest.raises(RowwiseError, match=r"'h'.*matrix.*pplvae\.local"):
        pplvae.amortisation_gap(model, guide, torch.rand(6, 2))


def test_a_guide_outside_the_support_of_the_prior():
    def on_the_unit_square(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Uniform(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(3 + v, 0.1).to_event(1))

    with pyro.validation_enabled(False), pytest.raises(ProgramError, match=r"'h' outside the support.*Uniform"):
        pplvae.amortisation_gap(on_the_unit_square, guide, torch.rand(6, 2))


def test_the_sign_of_a_scale_stays_with_its_row():
    """A row is compared the same whether or not another one has a negative scale."""

    def guide(v):
        with pyro.plate("data", len(v)):
            base = dist.Uniform(-0.5, 1.0).expand([len(v), 2])
            affine = dist.transforms.AffineTransform(0.3 * v, v + 0.1)
            pyro.sample("h", dist.TransformedDistribution(base, [affine]).to_event(1))

    v = torch.rand(5, 2) + 0.2
    both = torch.cat([v, -1 - torch.rand(1, 2)])
    alone, beside = (
        pplvae.amortisation_gap(model, guide, rows, particles=20, max_steps=100).rows for rows in (v, both)
    )
    for name in ("elbo_amortised", "elbo_local"):
        torch.testing.assert_close(
            torch.from_numpy(beside[name].values[:5]), torch.from_numpy(alone[name].values), rtol=1e-9, atol=1e-9
        )
    draws = pplvae.log_weights(model, guide, both[5:], particles=4000)
    error = beside["elbo_amortised"].values[5] - float(draws.mean())
    stderr = np.hypot(beside["elbo_amortised_stderr"].values[5], float(draws.std()) / 4000**0.5)
    assert abs(error) < 4 * stderr
