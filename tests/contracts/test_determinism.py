"""The same seed gives the same bits, whatever the process has done before and however it is set up."""

import random
from contextlib import contextmanager
from copy import deepcopy

import numpy as np
import pyro
import pytest
import torch
from contracts.test_results import CASES, rows_of, world

import pplvae
from pplvae.models import BernoulliVAE, FactorAnalysis
from pplvae.objectives import OBJECTIVES

ROWS = 4


@contextmanager
def disturbed():
    """A process that has been at work: other seeds, dtype and parameters, and a call on rows of another kind."""
    torch.manual_seed(17)
    np.random.seed(17)
    random.seed(17)
    vae = BernoulliVAE(visible=3, latent=2)
    pplvae.log_weights(vae.model, vae.guide, torch.ones(2, 3))
    pyro.param("factors", torch.ones(2))
    torch.set_default_dtype(torch.float32)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float64)


def twice(call):
    plain = call()
    with disturbed():
        return plain, call()


@pytest.mark.parametrize("name", [name for name in CASES if name != "attribution"])  # which is fits and comparisons
def test_a_result(name):
    model, guide, v = world()
    plain, again = twice(lambda: CASES[name].make(model, guide, rows_of(v[:ROWS])))
    assert again == plain


def test_log_weights():
    model, guide, v = world()
    plain, again = twice(lambda: pplvae.log_weights(model.model, guide, v[:ROWS], particles=3))
    assert torch.equal(plain, again)


@pytest.mark.parametrize("objective", sorted(OBJECTIVES))
def test_a_fit(objective):
    _, _, v = world()
    untrained = FactorAnalysis(v.shape[1], 2).double()

    def call():
        model = deepcopy(untrained)
        fit = pplvae.fit(
            model.model, model.guide, v[:8], objective=objective, epochs=2, batch_size=4, validation=v[8:12]
        )
        return fit.history.drop_vars("seconds"), [parameter.detach().clone() for parameter in model.parameters()]

    (history, parameters), (history_again, parameters_again) = twice(call)
    assert history.identical(history_again)
    assert all(map(torch.equal, parameters, parameters_again))


def test_a_split_of_data():
    plain, again = twice(lambda: pplvae.load_data("digits", seed=3))
    for part in ("train", "valid", "test"):
        assert all(map(torch.equal, getattr(plain, part).tensors, getattr(again, part).tensors))
