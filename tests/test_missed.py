"""How often the search misses a better mode, as found on rows whose latents are known."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bad_pair
from scipy import stats
from statistics_ import assert_frequency

import pplvae

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
    assert (rows.attrs["simulated"], rows.attrs["missed"]) == (100, 0)
