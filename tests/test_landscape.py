"""One row's ELBO over two means, where it is known exactly: a linear-Gaussian model, whose ELBO is a quadratic."""

from functools import partial

import numpy as np
import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import FactorAnalysis, bad_guide
from scipy import stats

import pplvae
from pplvae.diagnostics import landscape
from pplvae.errors import DataError, ProgramError


def linear_pair(latent, seed=3):
    """A model, its guide that is wrong, the encoder, and rows."""
    torch.manual_seed(seed)
    model = FactorAnalysis(latent + 4, latent).double()
    guide, encode = bad_guide(model, seed)
    return model, guide, encode, torch.randn(4, latent + 4, dtype=torch.float64)


def elbo_at(model, v, means, scale):
    means = torch.as_tensor(means)
    return model.elbo(v.expand(len(means), -1), means, scale.expand_as(means)).detach().numpy()


def grid_of(found):
    return np.stack(np.meshgrid(found["first"], found["second"], indexing="ij"), -1).reshape(-1, 2)


def test_two_latents_of_a_linear_model():
    model, guide, encode, v = linear_pair(2)
    found = pplvae.elbo_landscape(model.model, guide, v[1:2], points=9)
    mean, scale = (some[1:2].detach() for some in model.best_factorised(v))
    exact = elbo_at(model, v[1:2], grid_of(found), scale)
    np.testing.assert_allclose(found["elbo"].values.flatten(), exact, atol=1e-6)
    both = [encode(v)[0][1].detach(), mean[0]]
    np.testing.assert_allclose(found["mean"], torch.stack(both), atol=1e-6)
    exact = [model.elbo(v, *encode(v))[1], model.elbo(v, *model.best_factorised(v))[1]]
    np.testing.assert_allclose(found["guide_elbo"], torch.stack(exact).detach(), atol=1e-6)
    np.testing.assert_allclose(found["covariance"].sel(guide="local"), torch.diag(scale[0] ** 2), atol=1e-6)
    density = stats.multivariate_normal(
        model.posterior(v).mean[1].detach(), model.posterior(v).covariance_matrix[1].detach()
    )
    log_joint = density.logpdf(grid_of(found)) + model.log_evidence(v)[1].item()
    np.testing.assert_allclose(found["log_joint"].values.flatten(), log_joint, atol=1e-8)
    assert found["axis"].values.tolist() == ["h[0]", "h[1]"]
    assert found.attrs["status"] == "converged"


@pytest.mark.parametrize("begin", ["prior", "encoder"])
def test_gradient_ascent_is_that_of_the_quadratic(begin):
    """Step by step: mean + rate * precision @ (optimum - mean), at a quarter of one over the largest eigenvalue."""
    model, guide, encode, v = linear_pair(3)
    found = pplvae.elbo_landscape(model.model, guide, v[:1], latents=(2, 0), begin=begin, points=3, steps=60)
    precision, optimum = model.posterior_precision().detach(), model.posterior(v).mean[0].detach()
    mean = torch.zeros(3).to(v) if begin == "prior" else encode(v)[0][0].detach()
    rate = 0.25 / torch.linalg.eigvalsh(precision)[-1]
    path = [mean]
    for _ in range(found.sizes["step"] - 1):
        path.append(path[-1] + rate * precision @ (optimum - path[-1]))
    np.testing.assert_allclose(found["path"], torch.stack(path)[:, [2, 0]], atol=1e-5)
    elbo = elbo_at(model, v[:1], torch.stack(path), model.best_factorised(v)[1][:1].detach())
    np.testing.assert_allclose(found["path_elbo"], elbo, atol=1e-5)
    assert (np.diff(found["path_elbo"]) >= 0).all()
    assert len(path) > 5


def test_the_plane_of_many_latents_holds_the_widest_directions_of_the_posterior():
    model, guide, _, v = linear_pair(4)
    found = pplvae.elbo_landscape(model.model, guide, v[2:3], points=5)
    directions = found["direction"].values
    np.testing.assert_allclose(directions @ directions.T, np.eye(2), atol=1e-12)
    covariance = model.posterior(v).covariance_matrix[2].detach().numpy()
    widest = np.linalg.eigvalsh(covariance)[::-1][:2]
    np.testing.assert_allclose(directions @ covariance @ directions.T, np.diag(widest), atol=1e-4)
    np.testing.assert_allclose(found["mean"].sel(guide="local"), 0, atol=1e-6)
    mean, scale = (some[2].detach() for some in model.best_factorised(v))
    exact = elbo_at(model, v[2:3], mean + torch.as_tensor(grid_of(found) @ directions), scale)
    np.testing.assert_allclose(found["elbo"].values.flatten(), exact, atol=1e-5)
    assert "log_joint" not in found  # a slice of the posterior is not the posterior


def test_with_a_full_covariance_the_own_guide_is_the_posterior():
    model, _, _, v = linear_pair(2)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.MultivariateNormal(v[:, :2], scale_tril=torch.eye(2).to(v).expand(len(v), 2, 2)))

    found, exact = pplvae.elbo_landscape(model.model, guide, v[:1], points=3), model.posterior(v[:1])
    np.testing.assert_allclose(found["covariance"].sel(guide="local"), exact.covariance_matrix[0].detach(), atol=1e-6)
    assert float(found["guide_elbo"].sel(guide="local")) == pytest.approx(model.log_evidence(v)[0].item(), abs=1e-6)


def test_a_model_whose_search_knows_no_curvature(monkeypatch):
    """It is estimated at the optimum, exactly for a quadratic."""
    monkeypatch.setattr(landscape, "Schedule", partial(landscape.Schedule, second_order=False))
    model, guide, _, v = linear_pair(4)
    found = pplvae.elbo_landscape(model.model, guide, v[2:3], points=3)
    widest = torch.linalg.eigvalsh(model.posterior(v).covariance_matrix[2].detach()).flip(0)[:2]
    covariance = model.posterior(v).covariance_matrix[2].detach().numpy()
    directions = found["direction"].values
    np.testing.assert_allclose(directions @ covariance @ directions.T, np.diag(widest), atol=1e-3)


def test_a_step_that_is_too_long_is_halved():
    """At the prior's mean the density is far more curved than at the optimum that the step's length is taken from."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.full((2,), 3.0).to(v), 1.0).expand([len(v), 2]).to_event(1))
            pyro.sample("v", dist.Poisson(h.exp()).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(torch.zeros_like(v), 0.2).to_event(1))

    found = pplvae.elbo_landscape(model, guide, torch.ones(1, 2, dtype=torch.float64), points=3)
    assert (np.diff(found["path_elbo"]) >= 0).all()
    np.testing.assert_allclose(found["path"][-1], found["mean"].sel(guide="local"), atol=0.02)


def test_the_same_seed_gives_the_same_landscape_and_nothing_outside_changes():
    model, guide, _, v = linear_pair(2)
    state = torch.random.get_rng_state()
    first, again, other = (pplvae.elbo_landscape(model.model, guide, v[:1], points=3, seed=s) for s in (1, 1, 2))
    assert first.identical(again)
    assert first.attrs["seed"] != other.attrs["seed"]
    assert torch.equal(state, torch.random.get_rng_state())


def test_what_has_no_landscape_is_refused():
    model, guide, _, v = linear_pair(2)
    with pytest.raises(DataError, match=r"one row, got 4.*rows\[3:4\]"):
        pplvae.elbo_landscape(model.model, guide, v)
    with pytest.raises(ValueError, match=r"`latents` must be two different positions from 0 to 1, got \(0, 2\)"):
        pplvae.elbo_landscape(model.model, guide, v[:1], latents=(0, 2))
    for wrong in ({"begin": "there"}, {"points": 1}, {"steps": 0}, {"particles": 3}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            pplvae.elbo_landscape(model.model, guide, v[:1], **wrong)
    single, narrow, _, v = linear_pair(1)
    with pytest.raises(ProgramError, match="over two latents; a row of this pair has 1"):
        pplvae.elbo_landscape(single.model, narrow, v[:1])
    model, guide, v = programs.gamma_latent()
    with pytest.raises(ProgramError, match="not that of one Gaussian"):
        pplvae.elbo_landscape(model, guide, v[:1])
