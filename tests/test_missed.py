"""How often the search misses a better mode, as found on rows whose latents are known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bad_pair
from scipy import stats
from statistics_ import assert_frequency

import pplvae
from pplvae.data import as_rows
from pplvae.isolate import isolated
from pplvae.programs.batch import Batch
from pplvae.programs.inspection import inspect_pair
from pplvae.search import other_modes
from pplvae.search.known_latents import NearLatents
from pplvae.search.missed import look_for_missed
from pplvae.search.optimum import Schedule
from pplvae.search.own_guides import OwnGuides

SHORT = {"evidence": None, "particles": 20, "max_steps": 100}  # steps that do not pay for a start from the prior


def folded(v):
    """The square of a latent, and its sign in a column that the guide does not look at."""
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(torch.cat([3 * h.square(), h / 2], -1), 0.1).to_event(1), obs=v)


def positive(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal((v[:, :1].clamp(min=0.01) / 3).sqrt(), 0.1).to_event(1))


def test_modes_that_the_encoder_does_not_know_are_missed():
    """Half of the rows come from it; where h is below -0.4, its sign counts 8 nats, and a ridge lies between."""
    rows = pplvae.compare(folded, positive, torch.ones(4, 2), simulated=300, **SHORT).rows
    assert rows.attrs["simulated"] == 300
    assert_frequency(rows.attrs["missed"], 300, stats.norm.cdf(-0.4), 0.5)


@pytest.mark.parametrize("seed", [1, 2])
def test_nothing_is_missed_where_there_is_one_mode(seed):
    model, guide, v = bad_pair(seed, rows=10)
    rows = pplvae.compare(model.model, guide, v, simulated=100, **SHORT).rows
    assert (rows.attrs["simulated"], rows.attrs["missed"], rows.attrs["unseen"]) == (100, 0, 0)


def squared(v):
    """Either sign of the latent explains a row as well."""
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h.square(), 0.05).to_event(1), obs=v)


def test_modes_that_no_estimate_of_the_evidence_starts_from_are_counted(monkeypatch):
    def found():
        return pplvae.compare(squared, positive, torch.ones(4, 1), simulated=300, **SHORT).rows.attrs

    about = found()
    assert about["missed"] == 0  # both modes are equally good
    assert about["unseen"] <= 3
    monkeypatch.setattr(other_modes, "_ROUNDS", 0)
    # Half of the rows come from the other mode; close to zero there is but one.
    assert_frequency(found()["unseen"], 300, 0.5 - (stats.norm.cdf(0.25) - 0.5), 0.5)


def heavy_tailed(v):
    with pyro.plate("data", len(v)):
        loc = (v[:, :1].clamp(min=0.01) / 3).sqrt()
        pyro.sample("h", dist.StudentT(10.0, loc, 0.1).to_event(1))


def missed_by(model, guide, rows, simulated):
    with isolated(0):
        layout = inspect_pair(model, guide, as_rows(rows).tensors)
        own = OwnGuides(model, guide, layout, Schedule(max_steps=200), 0)
        return look_for_missed(own, Batch.of([rows]), simulated)


def test_a_guide_that_is_no_gaussian_begins_at_the_latents_too():
    """As above: a quarter of the rows that are there are simulated, since each is searched twice by first order."""
    found = missed_by(folded, heavy_tailed, torch.ones(240, 2), 300)
    assert (found["simulated"], found["unseen"]) == (60, 0)
    assert_frequency(found["missed"], 60, stats.norm.cdf(-0.4), 0.5)


def rates(v):
    with pyro.plate("data", len(v)):
        rate = pyro.sample("rate", dist.Gamma(2.0 * torch.ones(len(v)), 1.0))
        pyro.sample("v", dist.Normal(rate[:, None], 0.5).to_event(1), obs=v)


def one_for_all(v):
    with pyro.plate("data", len(v)):
        pyro.sample("rate", dist.Gamma(3.0 * torch.ones(len(v)), 1.0))


def test_latents_on_a_support_of_their_own():
    found = missed_by(rates, one_for_all, torch.ones(40, 1), 40)
    assert (found["simulated"], found["missed"]) == (10, 0)


def signed(v):
    with pyro.plate("data", len(v)):
        sign = pyro.sample("sign", dist.Bernoulli(0.5 * torch.ones(len(v))))
        h = pyro.sample("h", dist.Normal(2 * sign - 1, 1.0))
        pyro.sample("v", dist.Normal(h, 1.0), obs=v)


def sure(v):
    with pyro.plate("data", len(v)):
        sign = pyro.sample("sign", dist.Bernoulli(0.8 * torch.ones(len(v))))
        pyro.sample("h", dist.Normal(sign - 0.5, 0.3))


def test_log_q_around_latents_that_are_known():
    rows = torch.zeros(2)
    latents = {"sign": torch.tensor([0.0, 1.0]), "h": torch.tensor([2.0, -3.0])}
    with isolated(0):
        layout = inspect_pair(signed, sure, as_rows(rows).tensors)
        guides = NearLatents(signed, sure, layout, Batch.of([rows]).times(8), latents)
        offsets = {key: offset.requires_grad_() for key, offset in guides.zeros().items()}
        with torch.no_grad():  # of the state that each row is in: from -0.5 to 2, and from 0.5 to -3
            offsets["h.loc"][0, 0], offsets["h.loc"][1, 1] = 2.5, -3.5
        found = guides.log_weights(offsets, (0,))
        (slope,) = torch.autograd.grad(found.sum(), offsets["h.loc"])
    torch.testing.assert_close(slope, torch.zeros(2, 2), rtol=0, atol=1e-4)
    spread = (found - torch.tensor([0.2, 0.8]).log()) * -2 - 2 * torch.tensor(0.3 * (2 * torch.pi) ** 0.5).log()
    assert (spread > -1e-4).all()  # squares of what the encoder draws, in units of its scale
    assert 0.1 < spread.mean() < 5
