"""The oracle itself, held against SciPy, quadrature and numerical optimisation."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, FactorAnalysis, marginal, random_linear
from scipy import integrate, optimize, stats

from pplvae.errors import ShapeError


@pytest.fixture(params=[(0, FactorAnalysis), (1, FactorAnalysis), (2, PPCA)], ids=str)
def linear(request):
    seed, kind = request.param
    return random_linear(seed, rows=5, kind=kind)


def test_log_evidence(linear):
    model, v = linear
    np.testing.assert_allclose(model.log_evidence(v).detach(), marginal(model).logpdf(v.numpy()), rtol=1e-10)


def test_posterior_is_bayes_rule(linear):
    """p(h) p(v | h) / p(v) at random h, by SciPy's densities."""
    model, v = linear
    h = np.random.default_rng(0).normal(size=(len(v), model.latent))
    mean = model.mean.detach().numpy() + h @ model.factors.detach().numpy().T
    joint = stats.norm.logpdf(h).sum(1) + stats.norm.logpdf(v, mean, model.noise.detach().numpy() ** 0.5).sum(1)
    bayes = joint - marginal(model).logpdf(v.numpy())
    np.testing.assert_allclose(model.posterior(v).log_prob(torch.as_tensor(h)).detach(), bayes, rtol=1e-8)


def test_elbo_by_quadrature():
    torch.manual_seed(0)
    model = FactorAnalysis(3, 1)
    v, loc, scale = torch.randn(1, 3), torch.tensor([[0.7]]), torch.tensor([[0.4]])
    factor, noise, mean = (t.detach().numpy() for t in (model.factors[:, 0], model.noise, model.mean))

    def integrand(h):
        log_joint = stats.norm.logpdf(h) + stats.norm.logpdf(v[0].numpy(), mean + factor * h, noise**0.5).sum()
        return stats.norm.pdf(h, 0.7, 0.4) * (log_joint - stats.norm.logpdf(h, 0.7, 0.4))

    exact, _ = integrate.quad(integrand, -6, 7, epsabs=1e-10)
    assert float(model.elbo(v, loc, scale).detach()) == pytest.approx(exact, abs=1e-8)


def test_best_factorised_is_the_optimum(linear):
    model, v = linear
    row = v[:1]

    def loss(x):
        loc, log_scale = torch.as_tensor(x).chunk(2)
        return -float(model.elbo(row, loc.unsqueeze(0), log_scale.exp().unsqueeze(0)).detach())

    found = optimize.minimize(loss, np.zeros(2 * model.latent), method="BFGS", options={"gtol": 1e-6})
    best = float(model.elbo(row, *model.best_factorised(row)).detach())
    assert best == pytest.approx(-found.fun, abs=1e-6)
    assert best == pytest.approx(float((model.log_evidence(row) - model.approximation_gap()).detach()), abs=1e-9)


def test_amortisation_gap_is_zero_at_the_best_and_positive_elsewhere(linear):
    model, v = linear
    loc, scale = model.best_factorised(v)
    assert float(model.amortisation_gap(v, loc, scale).abs().max().detach()) < 1e-9
    assert float(model.amortisation_gap(v, loc + 0.3, scale * 1.2).min().detach()) > 1e-3


def test_ppca_has_one_noise_level():
    assert PPCA(5, 2).log_noise.shape == (1,)
    assert PPCA(5, 2).noise.shape == (5,)


def test_the_guide_can_be_the_best_factorised():
    model, v = random_linear(3, rows=7)
    precision = model.posterior_precision()
    with torch.no_grad():
        matrix = torch.linalg.solve(precision, (model.factors / model.noise.unsqueeze(-1)).T)
        model.encoder.weight.copy_(matrix)
        model.encoder.bias.copy_(-matrix @ model.mean)
        model.log_scale.copy_(-0.5 * precision.diagonal().log())
    site = pyro.poutine.trace(model.guide).get_trace(v).nodes["h"]["fn"].base_dist
    loc, scale = model.best_factorised(v)
    torch.testing.assert_close(site.loc, loc)
    torch.testing.assert_close(site.scale, scale)
    assert isinstance(model.posterior(v), dist.MultivariateNormal)


@pytest.mark.parametrize(("shape", "text"), [((3, 4), "5 columns"), ((3, 1, 5), "flatten")])
def test_wrong_columns(shape, text):
    with pytest.raises(ShapeError, match=text):
        FactorAnalysis(5, 2).model(torch.zeros(shape))
