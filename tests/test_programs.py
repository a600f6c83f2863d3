"""Any pair: every style of program is fitted and compared, and keeps the promises that hold for all of them."""

import numpy as np
import pyro
import pytest
import torch
from conftest import process_state
from programs import ALL, ROWS
from pyro.infer import Trace_ELBO
from statistics_ import assert_within

import pplvae
from pplvae.data import as_rows
from pplvae.isolate import evaluation_mode, isolated
from pplvae.programs.batch import Batch
from pplvae.programs.inspection import inspect_pair
from pplvae.programs.reading import log_weights_of
from pplvae.search.local_guides import LocalGuides

QUICK = {"particles": 50, "max_steps": 30}


@pytest.fixture(params=ALL, ids=lambda make: make.__name__)
def pair(request):
    return request.param()


def subset(rows, index):
    return tuple(part[index] for part in rows) if isinstance(rows, tuple) else rows[index]


_GAPS = {}


@pytest.fixture
def gaps(request, pair):
    """Of all rows, found once: the pair that a test is given is that of the other tests, number by number."""
    make = request.node.callspec.params["pair"]
    if make not in _GAPS:
        before = process_state()
        _GAPS[make] = pplvae.amortisation_gap(*pair, **QUICK).rows
        assert process_state() == before
    return _GAPS[make]


def test_gap(gaps):
    assert gaps.sizes["row"] == ROWS
    gap, stderr = gaps["amortisation_gap"].values, gaps["amortisation_gap_stderr"].values
    assert (gap > -3 * stderr - 1e-9).all()
    assert gap.mean() > 1e-3  # none of these encoders is optimal
    np.testing.assert_allclose(gap, gaps["elbo_local"] - gaps["elbo_amortised"], rtol=1e-9)


def test_no_offset_no_gap(pair):
    model, guide, rows = pair
    tensors = as_rows(rows).tensors
    with isolated(0), evaluation_mode(model, guide):
        layout = inspect_pair(model, guide, tensors)
        batch = LocalGuides(model, guide, layout, Batch.of(tensors).times(4))
        zeros = batch.zeros()
        assert sorted(zeros) == sorted(layout.free)
        plain = log_weights_of(model, guide, layout, batch.batch, (0,), "antithetic")
        torch.testing.assert_close(batch.log_weights(zeros, (0,)), plain, rtol=1e-10, atol=1e-10)
    still = pplvae.amortisation_gap(model, guide, rows, particles=50, max_steps=0).rows
    assert (still["amortisation_gap"].values == 0).all()
    assert (still["status"] == "max_steps").all()


def test_a_row_does_not_depend_on_the_others(pair, gaps):
    model, guide, rows = pair
    order = torch.randperm(ROWS)
    for index, options in ((slice(3, 4), {}), (order.numpy(), {"chunk_size": 7})):
        some = pplvae.amortisation_gap(model, guide, subset(rows, index), **QUICK, **options).rows["amortisation_gap"]
        np.testing.assert_allclose(some, gaps["amortisation_gap"].values[index], rtol=1e-6)


def test_fit_raises_the_elbo_and_leaves_the_process(pair):
    model, guide, rows = pair
    before = process_state()
    result = pplvae.fit(model, guide, rows, validation=rows, objective="Trace_ELBO", epochs=40, lr=0.02, batch_size=5)
    pplvae.log_weights(result.model, result.guide, rows)
    assert process_state() == before
    elbo = result.history["elbo_validation"].values
    assert elbo.max() > elbo[0] + 0.1  # the noise is the same in every epoch


def test_fitted_programs_run_alone(pair):
    model, guide, rows = pair
    result = pplvae.fit(model, guide, rows, epochs=2, objective="Trace_ELBO")
    pyro.clear_param_store()
    tensors = as_rows(rows).tensors
    assert np.isfinite(Trace_ELBO().loss(result.model, result.guide, *tensors))
    assert not pyro.get_param_store().keys()


def test_elbo_is_that_of_pyro(pair):
    """The mean over rows and draws of the log weights is Pyro's own loss, of a batch in which each row stands often."""
    model, guide, rows = pair
    tensors = as_rows(rows).tensors
    copies, calls = 80, 12  # a plate of one of the programs holds 1000 rows
    many = tuple(part.repeat(copies, *[1] * (part.ndim - 1)) for part in tensors)
    with isolated(0), evaluation_mode(model, guide):
        layout = inspect_pair(model, guide, tensors)
        weights = log_weights_of(model, guide, layout, Batch.of(tensors).times(copies * calls), (0,))
        scale = 1000 / len(many[0]) if "size_and_subsample" in str(model) else 1.0
        losses = torch.tensor([Trace_ELBO().loss(model, guide, *many) / scale for _ in range(calls)])
    # Pyro's draws have the same variance, if they have the same mean.
    stderr = (2 * weights.var(0).sum() / (copies * calls)).sqrt()
    assert_within(float((weights.mean(0).sum() + losses.mean() / copies).detach()), float(stderr.detach()))
