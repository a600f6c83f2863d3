"""Programs as Pyro's examples are built: points that an encoder estimates, contexts of flows, rows picked by index."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pplvae
from pplvae.errors import ProgramError
from pplvae.isolate import import_zuko

V = torch.tensor([[0.3, -1.2], [1.5, 0.2], [-0.7, 0.9], [2.0, -0.3], [0.0, 0.6]])


def counts_pair():
    """Shares of a Dirichlet by a point, counts of a multinomial: the best point is known."""
    prior = torch.tensor([2.0, 3.0, 1.5])

    def model(counts):
        with pyro.plate("rows", len(counts)):
            shares = pyro.sample("shares", dist.Dirichlet(prior))
            pyro.sample("counts", dist.Multinomial(10, shares, validate_args=False), obs=counts)

    def guide(counts):
        with pyro.plate("rows", len(counts)):
            pyro.sample("shares", dist.Delta((counts + 2.0) / (counts + 2.0).sum(-1, keepdim=True), event_dim=1))

    counts = torch.tensor([[5.0, 3.0, 2.0], [0.0, 9.0, 1.0], [2.0, 2.0, 6.0], [8.0, 1.0, 1.0]])
    best = counts + prior - 1
    return model, guide, counts, prior, best / best.sum(-1, keepdim=True)


def test_a_point_is_lambda_within_the_support_of_the_model():
    model, guide, counts, prior, best = counts_pair()
    found = pplvae.amortisation_gap(model, guide, counts)
    encoded = (counts + 2.0) / (counts + 2.0).sum(-1, keepdim=True)
    joint = [
        dist.Dirichlet(prior).log_prob(shares) + dist.Multinomial(10, shares).log_prob(counts)
        for shares in (encoded, best)
    ]
    np.testing.assert_allclose(found.rows["elbo_amortised"], joint[0], rtol=1e-5)
    np.testing.assert_allclose(found.rows["amortisation_gap"], joint[1] - joint[0], atol=2e-3)
    assert found.rows.attrs["lambda"] == "shares.v"
    assert (found.rows["status"] == "converged").all()


def test_a_point_has_no_importance_weights():
    model, guide, counts, _, _ = counts_pair()
    with pytest.raises(ProgramError, match=r"'shares'.*no density.*evidence=None"):
        pplvae.compare(model, guide, counts)
    with pytest.raises(ProgramError, match="no density"):
        pplvae.compare(model, guide, counts, evidence=None, screen=True)
    with pytest.raises(ProgramError, match="no density"):
        pplvae.log_evidence(model, guide, counts)
    assert "amortisation_gap" in pplvae.compare(model, guide, counts, evidence=None).rows


def chain(v):
    with pyro.plate("rows", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h, 0.5).to_event(1), obs=v)


def test_a_point_that_follows_a_draw_is_that_draw():
    """A joint normal, unpacked by a point: its gap is that of the normal, and the point is not moved beside it."""

    def joint(v):
        with pyro.plate("rows", len(v)):
            both = pyro.sample("both", dist.Normal(0.5 * v, 0.7).to_event(1), infer={"is_auxiliary": True})
            pyro.sample("h", dist.Delta(both, event_dim=1))

    found = pplvae.amortisation_gap(chain, joint, V, particles=400)
    assert found.rows.attrs["lambda"] == "both.loc, both.scale"
    mean, variance = V / 1.25, 0.2
    kl = ((0.5 * V - mean) ** 2 + 0.49) / variance - 1 - math.log(0.49 / variance)
    np.testing.assert_allclose(found.rows["amortisation_gap"], 0.5 * kl.sum(-1), atol=0.3)


def test_a_point_of_all_rows_is_not_drawn():
    """It makes no draw of a row depend on the run: the numbers are those of the constant that it is."""

    def model_with(shift):
        def model(v):
            offset = shift()
            with pyro.plate("rows", len(v)):
                h = pyro.sample("h", dist.Laplace(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("v", dist.Normal(h + offset, 0.5).to_event(1), obs=v)

        return model

    def guide(v):
        with pyro.plate("rows", len(v)):
            pyro.sample("h", dist.Laplace(0.5 * v, 0.7).to_event(1))

    def guide_with_point(v):
        pyro.sample("offset", dist.Delta(torch.tensor(0.3)))
        guide(v)

    free = model_with(lambda: pyro.sample("offset", dist.Normal(0.0, 1.0)))
    fixed = model_with(lambda: torch.tensor(0.3))
    options = {"particles": 100, "max_steps": 25}
    point = pplvae.amortisation_gap(free, guide_with_point, V, **options).rows
    constant = pplvae.amortisation_gap(fixed, guide, V, **options).rows
    np.testing.assert_array_equal(point["elbo_amortised"], constant["elbo_amortised"])
    np.testing.assert_array_equal(point["amortisation_gap"], constant["amortisation_gap"])
    np.testing.assert_array_equal(
        pplvae.log_weights(free, guide_with_point, V, particles=6), pplvae.log_weights(fixed, guide, V, particles=6)
    )


def test_the_context_of_a_flow_need_not_be_named():
    zuko = import_zuko()
    from pyro.contrib.zuko import ZukoToPyro

    torch.manual_seed(0)
    flow = zuko.flows.NSF(features=2, context=3, transforms=1, hidden_features=(8,)).float()
    encoder = nn.Linear(2, 3).float()

    def guide_with(name):
        def guide(v):
            with pyro.plate("rows", len(v)):
                pyro.sample("h", ZukoToPyro(flow(name(encoder(v)))))

        return guide

    options = {"particles": 100, "max_steps": 25}
    unnamed = pplvae.amortisation_gap(chain, guide_with(lambda c: c), V, **options)
    named = pplvae.amortisation_gap(chain, guide_with(lambda c: pplvae.local("mine", c)), V, **options)
    assert (unnamed.rows.attrs["lambda"], named.rows.attrs["lambda"]) == ("context", "mine")
    assert (unnamed.rows["amortisation_gap"] > 0).all()
    np.testing.assert_array_equal(unnamed.rows["amortisation_gap"], named.rows["amortisation_gap"])


def picked(all_rows):
    """A pair whose programs take their rows out of what they are given, by the plate's index."""

    def model(v):
        with all_rows(v) as index:
            h = pyro.sample("h", dist.Laplace(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h, 0.5).to_event(1), obs=v[index])

    def guide(v):
        with all_rows(v) as index:
            pyro.sample("h", dist.Laplace(0.5 * v[index], 0.7).to_event(1))

    return model, guide


def test_the_index_of_a_plate_as_large_as_its_rows_counts_these():
    """Where rows lie in the whole data set is nothing to programs that pick them out of what they are given."""
    asked = picked(lambda v: pyro.plate("rows", len(v), subsample_size=len(v)))
    plain = picked(lambda v: pyro.plate("rows", len(v)))
    options = {"particles": 100, "max_steps": 25, "chunk_size": 3}
    found, expected = (pplvae.amortisation_gap(*pair, V, **options).rows for pair in (asked, plain))
    np.testing.assert_array_equal(found["elbo_amortised"], expected["elbo_amortised"])
    np.testing.assert_array_equal(found["amortisation_gap"], expected["amortisation_gap"])
    one, other = (
        pplvae.fit(*_with_scale(plate), V, epochs=3, batch_size=2, seed=1)
        for plate in (
            lambda v: pyro.plate("rows", len(v), subsample_size=len(v)),
            lambda v: pyro.plate("rows", len(v)),
        )
    )
    np.testing.assert_array_equal(one.history["objective"], other.history["objective"])


def _with_scale(all_rows):
    model, _ = picked(all_rows)

    def guide(v):
        scale = pyro.param("scale", torch.ones(2), constraint=dist.constraints.positive)
        with all_rows(v) as index:
            pyro.sample("h", dist.Laplace(0.5 * v[index], scale).to_event(1))

    return model, guide
