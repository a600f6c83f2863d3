"""Richer families: what they contain, what they reach, and what plugs in."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bad_pair
from statistics_ import SEARCH, assert_within, of_mean

import pplvae
from pplvae.errors import UnknownNameError
from pplvae.search.richer_families import Mixture, flow, full_covariance


def scale_only(lam, x):
    return lam["log_scale"].exp() * x, lam["log_scale"].sum(-1).expand(x.shape[:2])


@pytest.mark.parametrize("elements", [1, 2, 5])
@pytest.mark.parametrize("make", [full_covariance, flow])
def test_maps_are_invertible_with_their_own_jacobian(make, elements):
    family = make()
    start = family.start(elements)
    x = torch.randn(3, 2, elements)
    same, log_det = family.forward({key: value.expand(2, *value.shape) for key, value in start.items()}, x)
    torch.testing.assert_close(same, x)
    assert float(log_det.abs().max()) < 1e-12
    lam = {key: (value + 0.3 * torch.randn(2, *value.shape)) for key, value in start.items()}
    y, log_det = family.forward(lam, x)
    back, log_det_back = family.inverse(lam, y)
    torch.testing.assert_close(back, x)
    torch.testing.assert_close(log_det_back, -log_det)
    for row in range(2):
        one = {key: value[row : row + 1] for key, value in lam.items()}

        def of_one(z, one=one):
            return family.forward(one, z.reshape(1, 1, -1))[0].flatten()

        jacobian = torch.autograd.functional.jacobian(of_one, x[0, row])
        torch.testing.assert_close(torch.linalg.slogdet(jacobian)[1], log_det[0, row])


@pytest.mark.statistical
@pytest.mark.parametrize("seed", [3, 9])
def test_full_covariance_reaches_the_evidence(seed):
    model, guide, v = bad_pair(seed, 25)
    rows = pplvae.compare(model.model, guide, v, families=["full_covariance"], evidence=None, simulated=0).rows
    short = rows["elbo_local_full_covariance"].values - model.log_evidence(v).detach().numpy()
    stderr = rows["elbo_local_full_covariance_stderr"].values
    assert_within(short.mean(), of_mean(stderr), low=-SEARCH)
    converged = rows["converged_full_covariance"].values
    assert converged.mean() > 0.5
    assert_within(short[converged], stderr[converged], low=-5 * SEARCH, degrees=49)
    gain, error = (rows[name].values for name in ("family_gap_full_covariance", "family_gap_full_covariance_stderr"))
    assert_within(gain.mean() - float(model.approximation_gap().detach()), of_mean(error), low=-SEARCH)


@pytest.mark.statistical
def test_flow_and_mixture_bend_to_a_bimodal_posterior():
    """v = h^2 + noise: two modes, close enough for one Gaussian to lie over both."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h**2, 0.4).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0.1 * v, 0.6).to_event(1))

    v = torch.linspace(0.4, 0.8, 3).unsqueeze(1)
    axis = torch.linspace(-6, 6, 20001)
    log_joint = dist.Normal(0.0, 1.0).log_prob(axis) + dist.Normal(axis**2, 0.4).log_prob(v)
    exact = (log_joint.logsumexp(1) + (axis[1] - axis[0]).log()).numpy()
    result = pplvae.compare(model, guide, v, families=[Mixture(4), "flow"], evidence=None, max_steps=250, simulated=0)
    rows = result.rows
    own, mixture, bent = (rows[f"elbo_local{name}"].values for name in ("", "_mixture", "_flow"))
    assert (exact - own > 0.08).all()
    assert np.median(exact - mixture) < 0.03  # a row may keep to one mode
    rounding = 1e-12  # a row whose flow stays where it began has no other error
    for richer, name in ((mixture, "mixture"), (bent, "flow")):
        assert_within(richer - own, rows[f"family_gap_{name}_stderr"], low=-rounding, high=np.inf, degrees=49)
    assert "family_gap_mixture" in str(result)


def test_gamma_guides_have_richer_families_too():
    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Gamma(torch.full((2,), 2.0), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h.sum(-1), 0.3), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Gamma(torch.full((len(v), 2), 2.0), 1.0).to_event(1))

    v = torch.linspace(1, 5, 4)
    rows = pplvae.compare(model, guide, v, families=["full_covariance"], max_steps=150, simulated=0).rows
    gain, error = (rows[name].values for name in ("family_gap_full_covariance", "family_gap_full_covariance_stderr"))
    assert (gain > 0.1).all()  # the sum is known well, so the two are anti-correlated
    above = rows["elbo_local_full_covariance"] - rows["log_evidence"]
    stderr = np.hypot(rows["log_evidence_stderr"], rows["elbo_local_full_covariance_stderr"])
    assert_within(above.values, stderr, low=-np.inf, degrees=499)
    assert (error < 0.1).all()


def test_masked_latents_cost_nothing():
    seen = torch.tensor([[True, True], [True, False], [True, True], [True, False]])

    def model(v, seen):
        with pyro.plate("data", len(v), dim=-2), pyro.plate("steps", 2, dim=-1), pyro.poutine.mask(mask=seen):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.sample("v", dist.Normal(h, 0.5), obs=v)

    def guide(v, seen):
        with pyro.plate("data", len(v), dim=-2), pyro.plate("steps", 2, dim=-1), pyro.poutine.mask(mask=seen):
            pyro.sample("h", dist.Normal(0.3 * v, 1.0))

    v = torch.randn(4, 2)
    terms = dist.Normal(0.0, 1.25**0.5).log_prob(v)
    exact = torch.where(seen, terms, 0.0).sum(1).numpy()
    rows = pplvae.compare(model, guide, (v, seen), families=["full_covariance"], evidence="ais", simulated=0).rows
    np.testing.assert_allclose(rows["elbo_local_full_covariance"], exact, atol=0.01)
    assert_within(rows["log_evidence"].values - exact, rows["log_evidence_stderr"], low=-1e-3, high=1e-3)


def test_a_family_of_ones_own():
    """Scales only, around the row's mean: contained in the factorised Gaussian, so it gains nothing."""
    model, guide, v = bad_pair(9, 5)
    mine = pplvae.Transport("stretched", lambda elements: {"log_scale": torch.zeros(elements)}, scale_only)
    result = pplvae.compare(model.model, guide, v, families=[mine], evidence=None, simulated=0)
    gain, stderr = (result.rows[f"family_gap_stretched{end}"].values for end in ("", "_stderr"))
    assert_within(gain, stderr, low=-SEARCH, degrees=49)
    assert result.rows.attrs["families"] == "stretched"


def test_a_family_that_falls_below_the_guides_own_is_reported():
    model, guide, v = bad_pair(9, 5)

    def broken(lam, x):
        return x + 1, lam["unused"].expand(x.shape[:2]) * 0

    worse = pplvae.Transport("worse", lambda elements: {"unused": torch.zeros(())}, broken)
    result = pplvae.compare(model.model, guide, v, families=[worse], evidence=None, simulated=0)
    assert float(result.summary()["unnested_worse"][0]) == 1
    assert "search failed" in str(result)


def test_refusals():
    model, guide, v = bad_pair(9, 3)
    with pytest.raises(UnknownNameError, match="Did you mean 'flow'"):
        pplvae.compare(model.model, guide, v, families=["flwo"])
    with pytest.raises(TypeError, match="Transport"):
        pplvae.compare(model.model, guide, v, families=[3])
    with pytest.raises(ValueError, match="different names"):
        pplvae.compare(model.model, guide, v, families=["flow", "flow"])
