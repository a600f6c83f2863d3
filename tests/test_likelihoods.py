"""What single likelihoods promise besides the contract of all."""

import math

import numpy as np
import pytest
import torch
from scipy import special, stats
from statistics_ import assert_within
from torch.distributions import Poisson as TorchPoisson

import pplvae
from pplvae.isolate import validation
from pplvae.likelihoods import (
    Beta,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    GaussianFixed,
    GaussianShared,
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pplvae.likelihoods.continuous_bernoulli import StableContinuousBernoulli
from pplvae.likelihoods.negative_binomial import StableNegativeBinomial
from pplvae.models import composed_vae
from pplvae.programs.simulation import draw_rows


def test_gaussian_variance_is_bounded():
    """A perfectly reproduced pixel has a bounded density, however the network pulls."""
    law = Gaussian(0.1, 2.0)
    for free, bound in ((-1e6, 0.1), (1e6, 2.0)):
        fn = law(torch.zeros(1, 1), torch.full((1, 1), free))
        assert float(fn.base_dist.scale) == pytest.approx(bound)
    assert np.exp(float(law(torch.zeros(1, 1), torch.full((1, 1), -1e6)).log_prob(torch.zeros(1, 1)))) < 4


def test_beta_takes_real_pixels():
    """0 and 1 have a bounded density, and the mean stays in [0, 1]."""
    law = Beta()
    logits, free = torch.tensor([[-50.0, 0.0, 2.0, 50.0]]), torch.full((1, 4), 50.0)
    fn = law(logits, free)
    assert torch.allclose(fn.mean, logits.sigmoid())
    assert fn.support.check(torch.tensor([[0.0, 0.0, 1.0, 1.0]])).all()
    assert float(fn.base_dist.log_prob(torch.tensor([[0.0, 0.5, 0.5, 1.0]])).max()) < 7


def test_continuous_bernoulli_far_out():
    """Nearly all mass lies within 1 / logit of an edge: log p there is log |logit|."""
    for dtype in (torch.float32, torch.float64):
        logits = torch.tensor([[50.0, -50.0, 1e4, -1e4]], dtype=dtype, requires_grad=True)
        fn = StableContinuousBernoulli(logits)
        log_prob = fn.log_prob(torch.tensor([[1.0, 0.0, 1.0, 0.0]], dtype=dtype)).sum()
        assert float(log_prob.detach()) == pytest.approx(2 * np.log(50) + 2 * np.log(1e4), rel=1e-6)
        (gradient,) = torch.autograd.grad(log_prob, logits)
        assert torch.allclose(gradient, 1 / logits.detach(), rtol=1e-5)


@pytest.mark.parametrize("r", [1e-4, 0.3, 1.0, 20.0, 1e4])
@pytest.mark.parametrize("k", [0.0, 1.0, 15.0, 30.0, 1e4, 1e6])
def test_negative_binomial_at_every_dispersion(r, k):
    """Means from far below the count to far above it."""
    log_mean = np.log(max(k, 1)) + torch.tensor([-80.0, -20.0, -2.0, -0.01, 0.0, 0.001, 0.5, 8.0]).float()
    results = []
    for dtype in (torch.float32, torch.float64):
        log_odds = (log_mean - np.float32(np.log(r))).to(dtype).requires_grad_()
        r_ = torch.tensor(r, dtype=torch.float32).to(dtype).requires_grad_()
        log_prob = StableNegativeBinomial(r_, logits=log_odds).log_prob(torch.tensor(k, dtype=dtype))
        gradients = torch.autograd.grad(log_prob.sum(), (log_odds, r_))
        assert all(torch.isfinite(g).all() for g in gradients)
        results.append(log_prob.detach().double())
    single, double = results
    assert torch.allclose(single, double, rtol=1e-5, atol=5e-3)
    scipy = stats.nbinom.logpmf(k, float(r_.detach()), 1 - special.expit(log_odds.detach().numpy()))
    usable = np.isfinite(scipy) & (log_mean.numpy() > np.log(r) - 10)  # below, SciPy is given a p of nearly 1
    np.testing.assert_allclose(double.numpy()[usable], scipy[usable], rtol=1e-6, atol=1e-6)


def test_negative_binomial_becomes_poisson():
    log_mean = torch.tensor([-2.0, 0.0, 3.0])
    r = torch.tensor(1e10)
    for k in (0.0, 2.0, 30.0):
        ours = StableNegativeBinomial(r, logits=log_mean - r.log()).log_prob(torch.tensor(k))
        assert torch.allclose(ours, TorchPoisson(log_mean.exp()).log_prob(torch.tensor(k)), atol=1e-6)


@pytest.mark.parametrize(
    "law",
    [Multinomial(), NegativeBinomial(3), Poisson(), ZeroInflatedNegativeBinomial(3)],
    ids=lambda law: type(law).__name__,
)
def test_an_empty_row_is_certain(law):
    fn = law.double()(*(torch.randn(2, 3) for _ in law.heads(3)), torch.zeros(2, 1))
    assert torch.allclose(fn.log_prob(torch.zeros(2, 3)), torch.zeros(2))
    assert (fn.sample() == 0).all()
    with validation(False):
        fn = law(*(torch.randn(2, 3) for _ in law.heads(3)), torch.zeros(2, 1))
        assert (fn.log_prob(torch.ones(2, 3)) == -torch.inf).all()


def test_multinomial_rows_have_their_own_totals():
    total = torch.tensor([[0.0], [1.0], [17.0], [1e6]])
    logits = torch.tensor([[0.0, -800.0, 3.0, -800.0]]).expand(4, 4)
    for dtype in (torch.float32, torch.float64):
        fn = Multinomial()(logits.to(dtype), total.to(dtype))
        draws = fn.sample((50,))
        assert (draws.sum(-1) == total[:, 0]).all()
        assert fn.support.check(draws).all()
        assert not fn.support.check(draws + 1).any()


def test_totals_may_be_given_and_rows_simulated():
    """Exposures that are not the row's sum; integers do."""
    rows = torch.poisson(torch.full((20, 6), 3.0))
    vae = composed_vae(6, 2, [8], likelihood="poisson").double()
    pair = (rows, 100 * rows.sum(-1, keepdim=True).long())
    assert pplvae.log_weights(vae.model, vae.guide, pair).mean() < pplvae.log_weights(vae.model, vae.guide, rows).mean()
    made_rows = draw_rows(vae.model, vae.guide, pair).tensors[0]
    assert_within(made_rows.sum() - pair[1].sum(), pair[1].sum() ** 0.5)  # the sum of a row is a Poisson's


def test_wrong_rows_are_refused():
    rows = torch.ones(20, 6)
    for name, bad, words in (
        ("multinomial", (rows, torch.full((20, 1), 7.0)), "sum to the row's total"),
        ("categorical", 5 * rows, "cannot produce, such as 5"),
        ("continuous-bernoulli", 1.5 * rows, "cannot produce, such as 1.5"),
        ("beta", 1.5 * rows, "cannot produce, such as 1.5"),
        ("poisson", 0.5 * rows, "cannot produce, such as 0.5"),
        ("negative-binomial", -rows, "cannot produce, such as -1"),
    ):
        vae = composed_vae(6, 2, [8], likelihood=name).double()
        with pytest.raises(pplvae.errors.DataError, match=words):
            pplvae.fit(vae.model, vae.guide, bad, epochs=1)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Gaussian(1.0, 0.5), "smallest < largest"),
        (lambda: GaussianShared(3, 1.0, 0.5), "smallest < largest"),
        (lambda: GaussianShared(3).heads(4), "rows of 3 columns and these have 4"),
        (lambda: GaussianFixed(0.0), "positive"),
        (lambda: Beta(edge=0.5), "edge"),
        (lambda: Beta(smallest=0.0), "smallest < largest"),
        (lambda: Categorical(1), "two classes"),
        (lambda: NegativeBinomial(3, 2.0, 1.0), "smallest < largest"),
        (lambda: NegativeBinomial(3).heads(4), "rows of 3 columns and these have 4"),
        (lambda: ZeroInflatedNegativeBinomial(3).heads(4), "rows of 3 columns and these have 4"),
    ],
)
def test_arguments_that_make_no_sense(make, words):
    with pytest.raises(ValueError, match=words):
        make()


def test_continuous_bernoulli_is_bounded_at_a_pixel_that_is_always_black():
    law, v = ContinuousBernoulli(largest=20.0), torch.zeros(1, 1)
    densities = [float(law(torch.full((1, 1), logit)).log_prob(v)) for logit in (-10.0, -100.0, -1e6)]
    assert densities[0] < densities[1] < densities[2] + 1e-9
    assert densities[2] == pytest.approx(math.log(20.0), abs=1e-6)
    with pytest.raises(ValueError, match="largest"):
        ContinuousBernoulli(largest=0.0)
