"""What is to blame and what to change: on numbers, and in whole set-ups in which exactly one thing is wrong."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy import stats
from torch import nn
from workflow import shorten_attribution

import pplvae
from pplvae.comparison.attribution import _causes_and_advice
from pplvae.models import FactorAnalysis
from pplvae.results.comparison import Comparison

SEARCH = {"most_rows": 30, "particles": 60, "tolerance": 0.05, "max_steps": 75}
OPTIONS = SEARCH | {"epochs": 4, "lr": 3e-3, "batch_size": 32, "hidden": (32,)}


def one_factor():
    """A linear-Gaussian model with one latent: a factorised guide holds the posterior itself."""
    torch.manual_seed(1)
    model = FactorAnalysis(4, 1)
    v = (torch.randn(1000, 1) @ model.factors.T + 0.5 * torch.randn(1000, 4)).detach()
    with torch.no_grad():
        model.log_noise.fill_(2 * np.log(0.5))
    return model, v


class Guide(nn.Module):
    """A Gaussian guide whose encoder sees what `see` lets it see."""

    def __init__(self, see, network):
        super().__init__()
        self.see, self.network = see, network
        self.log_scale = nn.Parameter(torch.full((1,), -1.0))

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


NOISE = 0.1 * np.random.default_rng(0).standard_normal((4, 100))  # of rows, whose mean is known for being here


def on_numbers(gap=(0.0, 0.0), longer=(0.0, 0.0), larger=(0.0, 0.0), approximation=0.0, settled=True):
    """Causes and advice where so many nats (of training rows, of held-out rows) are the gap, and are won."""
    parts, noise = ("train", "held-out"), NOISE - NOISE.mean(1, keepdims=True)
    elbos = [dict.fromkeys(parts, -5.0 + noise[0])]
    for won, spread in ((longer, noise[1]), (larger, noise[2])):
        elbos.append({part: elbos[-1][part] + nats + spread for part, nats in zip(parts, won, strict=True)})
    columns = {"approximation_gap": approximation, "family_gap_full_covariance": 0.4, "jensen_slack_ais": 0.2}
    compared = {
        part: Comparison(
            xr.Dataset(
                {name: ("row", value + noise[3]) for name, value in (columns | {"amortisation_gap": nats}).items()}
            )
        )
        for part, nats in zip(parts, gap, strict=True)
    }
    return compared, elbos, _causes_and_advice(compared, elbos, 0.1, settled=settled)


NOTHING = "nothing to gain"


@pytest.mark.parametrize(
    ("numbers", "advice"),
    [
        ({}, {NOTHING: 0.0}),
        ({"gap": (0.05, 0.05)}, {NOTHING: 0.05}),  # less than it is worth
        ({"gap": (0.11, 0.11)}, {NOTHING: 0.11}),  # not by two standard errors
        ({"gap": (2.0, 2.0), "longer": (1.95, 1.9)}, {"longer training": 1.95}),
        ({"gap": (2.0, 2.0), "larger": (1.95, 1.9)}, {"larger encoder": 1.95}),
        ({"gap": (2.0, 2.0), "longer": (0.7, 0.7), "larger": (1.25, 1.25)},
         {"larger encoder": 1.25, "longer training": 0.7}),
        ({"gap": (1.0, 1.0)}, {"iterative guide": 1.0}),
        ({"gap": (1.0, 1.0), "settled": False}, {NOTHING: 1.0}),  # the training might have gone on to close it
        ({"gap": (0.05, 1.5)}, {"regularise the encoder": 1.45}),
        # What training on wins by heart is no remedy, nor is it taken off what generalisation costs.
        ({"gap": (0.5, 1.5), "longer": (0.45, -0.2)}, {"regularise the encoder": 1.0}),
        # What it wins on all rows is, and is.
        ({"gap": (0.5, 1.5), "longer": (0.45, 0.3)}, {"regularise the encoder": 1.15, "longer training": 0.45}),
        ({"approximation": 0.8}, {"richer family": 0.8}),
    ],
)  # fmt: skip
def test_advice_on_numbers(numbers, advice):
    _, _, (_, found) = on_numbers(**numbers)
    assert {each.remedy: round(each.nats, 12) for each in found} == advice
    assert [each.remedy for each in found] == [*advice]  # most nats first
    assert all(("2 standard errors" in each.sentence) == (each.remedy == NOTHING) for each in found)
    assert all(f"{each.nats:.3f} ± {each.stderr:.3f}" in each.sentence for each in found)
    assert ("full covariances win 0.400 ± 0.009" in found[0].sentence) == ("approximation" in numbers)


def test_causes_on_numbers():
    """They add up over the rows that all of them have, with the standard errors of their means."""
    compared, elbos, _ = on_numbers((2.0, 2.5), (0.7, 0.6), (0.5, 0.4), 0.3)
    elbos[1]["train"][7] = np.nan
    causes, _ = _causes_and_advice(compared, elbos, 0.1, settled=True)
    kept = np.arange(100) != 7
    gap = compared["train"].rows["amortisation_gap"].values[kept]
    won = {"under_training": (0, 1), "capacity": (1, 2), "remainder": (0, 2)}
    for name, (before, after) in won.items():
        each = {part: elbos[after][part] - elbos[before][part] for part in elbos[0]}
        train = gap - each["train"][kept] if name == "remainder" else each["train"][kept]
        cause = causes.sel(cause=name)
        assert float(cause["nats"]) == pytest.approx(train.mean())
        assert float(cause["stderr"]) == pytest.approx(stats.sem(train))
        if name != "remainder":
            assert float(cause["held_out"]) == pytest.approx(each["held-out"].mean())
    assert float(causes["nats"].sel(cause=[*won]).sum()) == pytest.approx(gap.mean())
    left = {part: compared[part].rows["amortisation_gap"] - (elbos[2][part] - elbos[0][part]) for part in elbos[0]}
    left["train"] = left["train"][kept]
    generalisation = causes.sel(cause="generalisation")
    assert float(generalisation["nats"]) == pytest.approx(float(left["held-out"].mean() - left["train"].mean()))
    expected = np.hypot(*(stats.sem(part.values) for part in left.values()))
    assert float(generalisation["stderr"]) == pytest.approx(expected)
    for name, nats in (("approximation", 0.3), ("full_covariance", 0.4), ("evidence_slack", 0.2)):
        assert float(causes["nats"].sel(cause=name)) == pytest.approx(nats)


@pytest.mark.statistical
def test_an_encoder_that_is_too_small_wants_a_larger_one(monkeypatch):
    shorten_attribution(monkeypatch, trainings=False)
    model, guide, v = encoder_too_small()
    found = pplvae.attribute(model, guide, v[:500], v[500:], worth=0.3, **OPTIONS)
    assert [advice.remedy for advice in found.advice] == ["larger encoder"], str(found)
    assert found.advice[0].sentence in str(found)
    assert f"{found.advice[0].nats:.3f} ± {found.advice[0].stderr:.3f}" in str(found)


def test_an_encoder_stopped_early_wants_training_alone(monkeypatch):
    shorten_attribution(monkeypatch, trainings=False)
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


def test_a_pair_in_the_param_store_is_taken_as_it_is_and_left(monkeypatch):
    shorten_attribution(monkeypatch)
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
