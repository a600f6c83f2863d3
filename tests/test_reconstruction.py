"""What a comparison says that the decoder makes of some rows, under both guides."""

import numpy as np
import pytest
import torch
from oracles import random_linear

import pplvae
from pplvae.data import Rows
from pplvae.errors import PplvaeWarning
from pplvae.models import DiscreteVAE
from pplvae.report.content import content_of


def test_it_is_the_mean_of_the_likelihood_under_each_guide():
    """Of a linear decoder that is the decoder of the guide's mean."""
    model, v = random_linear(3, rows=30)
    found = pplvae.compare(model.model, model.guide, v, particles=20, simulated=0, evidence=None)
    shown, lam = found.shown, found.parameters
    places = [found.rows["row"].values.tolist().index(name) for name in shown["id"].values.tolist()]
    factors, mean = model.factors.detach().numpy(), model.mean.detach().numpy()
    for guide in ("amortised", "local"):
        loc, scale = (lam[name].sel(guide=guide).values[places] for name in ("h.loc", "h.scale"))
        stderr = np.sqrt(scale**2 @ factors.T**2 / 64)
        off = (shown["reconstruction"].sel(guide=guide).values - (mean + loc @ factors.T)) / stderr
        assert np.abs(off).max() < 5.5
    np.testing.assert_array_equal(shown["value"].values, v.numpy()[places])


def test_without_a_gaussian_guide_the_rows_are_shown_alone():
    vae = DiscreteVAE(6, 1, 3).double()
    rows = (torch.rand(10, 6) < 0.4).double()
    found = pplvae.compare(vae.model, vae.guide, rows, particles=4, max_steps=5, simulated=0, evidence=None)
    assert "reconstruction" not in found.shown
    assert found.shown["value"].shape == (10, 6)


def test_what_was_measured_is_not_lost_where_it_fails(monkeypatch):
    model, v = random_linear(3, rows=12)

    def fails(*_):
        raise MemoryError("no room")

    monkeypatch.setattr("pplvae.comparison.reconstruction._mean", fails)
    with pytest.warns(PplvaeWarning, match="No reconstructions are shown: MemoryError: no room"):
        found = pplvae.compare(model.model, model.guide, v, particles=20, simulated=0, evidence=None)
    assert found.rows["amortisation_gap"].notnull().all()
    assert "reconstruction" not in found.shown


def test_rows_of_equal_ids_are_told_apart():
    model, v = random_linear(3, rows=12)
    rows = Rows((v,), np.zeros(12, dtype=int))
    found = pplvae.compare(model.model, model.guide, rows, particles=20, simulated=0, evidence=None)
    np.testing.assert_array_equal(found.shown["value"].values, v.numpy()[found.shown["place"].values])
    content = content_of(found.rows, found.summary(), found.parameters, found.shown, None)
    assert content["shown"]["rows"] == found.shown["place"].values.tolist()
    assert sorted(content["shown"]["rows"]) == list(range(12))
