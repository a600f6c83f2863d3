"""Set-ups in which exactly one thing is wrong: the advice must name it."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pplvae
from pplvae.models import FactorAnalysis

SEARCH = {"rows": 30, "particles": 60, "tolerance": 0.05, "max_steps": 75}
OPTIONS = SEARCH | {"epochs": 4, "lr": 3e-3, "batch_size": 32, "hidden": (32,)}


def one_factor(rows=1000, latent=1):
    """A linear-Gaussian model; with one latent a factorised guide holds the posterior itself."""
    torch.manual_seed(1)
    model = FactorAnalysis(4, latent)
    h = torch.randn(rows, latent)
    v = (h @ model.factors.T + 0.5 * torch.randn(rows, 4)).detach()
    with torch.no_grad():
        model.log_noise.fill_(2 * np.log(0.5))
    return model, v


def best_encoder(model):
    """The affine encoder of the best factorised Gaussian."""
    with torch.no_grad():
        zero, eye = torch.zeros(1, 4), torch.eye(4)
        bias = model.posterior(zero).mean[0]
        model.encoder.bias.copy_(bias)
        model.encoder.weight.copy_((model.posterior(eye).mean - bias).T)
        model.log_scale.copy_(model.best_factorised(zero)[1][0].log())


class Guide(nn.Module):
    """A Gaussian guide whose encoder sees what `see` lets it see."""

    def __init__(self, see, network, latent=1):
        super().__init__()
        self.see, self.network = see, network
        self.log_scale = nn.Parameter(torch.full((latent,), -1.0))

    def forward(self, v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(self.network(self.see(v)), self.log_scale.exp()).to_event(1))


def under_trained():
    """A network that can hold the posterior, stopped early."""
    model, v = one_factor()
    guide = Guide(lambda v: v, nn.Sequential(nn.Linear(4, 100), nn.Tanh(), nn.Linear(100, 1)))
    fitted = pplvae.fit(model.model, guide, v[:500], train="guide", objective="Trace_ELBO", epochs=3, lr=3e-4)
    return fitted.model, fitted.guide, v


def encoder_too_small():
    """It is a constant, the best there is."""
    model, v = one_factor()
    guide = Guide(lambda v: 0 * v[:, :1], nn.Linear(1, 1))
    fitted = pplvae.fit(model.model, guide, v[:500], train="guide", objective="Trace_ELBO", epochs=100, lr=1e-2)
    return fitted.model, fitted.guide, v


def encoder_overfits():
    """A large network that has learnt thirty rows by heart, under the true decoder."""
    model, v = one_factor(rows=530)
    guide = Guide(lambda v: v, nn.Sequential(nn.Linear(4, 300), nn.Tanh(), nn.Linear(300, 1)))
    with torch.no_grad():
        guide.network[0].weight.mul_(12)
    fitted = pplvae.fit(model.model, guide, v[:30], train="guide", objective="Trace_ELBO", epochs=1500, lr=2e-3)
    return fitted.model, fitted.guide, v


def family_too_small():
    model, v = one_factor(latent=3)
    with torch.no_grad():
        model.factors.copy_(0.1 * model.factors + torch.randn(4, 1))
    v = (torch.randn(1000, 3) @ model.factors.T + 0.5 * torch.randn(1000, 4)).detach()
    best_encoder(model)
    return model.model, model.guide, v


def nothing_wrong():
    model, v = one_factor()
    best_encoder(model)
    return model.model, model.guide, v


def beyond_networks():
    """The posterior's mean is a wave that no small network learns in the time given."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 2.0).to_event(1))
            pyro.sample("v", dist.Normal(v, 1.0).to_event(1), obs=v)
            pyro.sample("wave", dist.Normal(h - 2 * torch.sin(300 * v), 0.5).to_event(1), obs=torch.zeros_like(v))

    guide = Guide(lambda v: v, nn.Linear(1, 1))
    v = torch.randn(1000, 1)
    fitted = pplvae.fit(model, guide, v, train="guide", objective="Trace_ELBO", epochs=60, lr=1e-2)
    return fitted.model, fitted.guide, v


@pytest.mark.statistical
@pytest.mark.parametrize(
    ("make", "remedy"),
    [
        (encoder_too_small, "larger encoder"),
        (encoder_overfits, "regularise the encoder"),
        (family_too_small, "richer family"),
        (beyond_networks, "iterative guide"),
        (nothing_wrong, "nothing to gain"),
    ],
)
def test_the_one_cause_is_named(make, remedy):
    model, guide, v = make()
    count = 30 if make is encoder_overfits else 500
    found = pplvae.attribute(model, guide, v[:count], v[count:], **OPTIONS)
    assert [advice.remedy for advice in found.advice] == [remedy], str(found)
    assert remedy in str(found)
    if make is encoder_overfits:  # the noise of training steps is no limit of networks
        assert float(found.causes["nats"].sel(cause="remainder")) < 0.05
    assert "±" in str(found)


def test_an_encoder_stopped_early_wants_training_alone():
    model, guide, v = under_trained()
    before = {name: p.clone() for name, p in guide.func.named_parameters()}
    found = pplvae.attribute(model, guide, v[:500], v[500:], **OPTIONS)
    after = dict(guide.func.named_parameters())
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(p.requires_grad for p in after.values())
    assert [advice.remedy for advice in found.advice] == ["longer training"], str(found)
    nats = found.causes["nats"]
    gap, held_out = (float(part.rows["amortisation_gap"].mean()) for part in (found.training, found.comparison))
    assert abs(float(nats.sel(cause=["under_training", "capacity", "remainder"]).sum()) - gap) < 1e-9
    trained = found.causes.sel(cause="under_training")
    left = (held_out - float(trained["held_out"])) - (gap - float(trained["nats"]))
    assert abs(float(nats.sel(cause="generalisation")) - left) < 1e-9


def test_a_pair_in_the_param_store_is_taken_as_it_is_and_left():
    weight = torch.randn(4, 1)

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h @ weight.T, 0.5).to_event(1), obs=v)

    def guide(v):
        matrix = pyro.param("matrix", torch.zeros(4, 1))
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(v @ matrix, 0.3).to_event(1))

    v = torch.randn(60, 1) @ weight.T
    guide(v)
    pyro.get_param_store()["matrix"] = torch.ones(4, 1)  # as its owner has trained it
    found = pplvae.attribute(model, guide, v[:40], v[40:], worth=50, particles=50, max_steps=25)
    plain = pplvae.amortisation_gap(model, guide, v[:40], particles=50, max_steps=25).rows
    np.testing.assert_allclose(found.training.rows["elbo_amortised"], plain["elbo_amortised"], rtol=1e-9)
    assert torch.equal(pyro.param("matrix").detach(), torch.ones(4, 1))
