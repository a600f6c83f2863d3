"""Guides whose lambda follows what they have drawn before: gradients pass through those draws."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from statistics_ import assert_within

from pplvae.data import as_rows
from pplvae.isolate import isolated
from pplvae.programs.batch import Batch
from pplvae.programs.inspection import inspect_pair
from pplvae.search.local_guides import LocalGuides
from pplvae.search.optimum import Schedule, Status
from pplvae.search.own_guides import OwnGuides

NOISE, SLOPE = 0.3, 0.8
POINTS = torch.linspace(-8, 8, 1001, dtype=torch.float64)
WEIGHTS = (-0.5 * POINTS.square()).softmax(0)


def model(v):
    with pyro.plate("data", len(v)):
        z = pyro.sample("z", dist.Normal(v.new_zeros(len(v)), 1))
        h = pyro.sample("h", dist.Normal(0.0, z.exp()))
        pyro.sample("v", dist.Normal(h, NOISE), obs=v)


def guide(v):
    with pyro.plate("data", len(v)):
        z = pyro.sample("z", dist.Normal(-0.1 * v, 0.5))
        pyro.sample("h", dist.Normal(0.5 * v, (SLOPE * z - 1).exp()))  # the spread of h follows z


def exact_elbo(v, offsets):
    """Over h in closed form, over z by quadrature; offsets of (loc z, log scale z, loc h, log scale h)."""
    loc, log_scale, mean, log_ratio = offsets.unbind(-1)
    z = (-0.1 * v + loc)[:, None] + (0.5 * log_scale.exp())[:, None] * POINTS
    mean, log_sd = (0.5 * v + mean)[:, None], SLOPE * z - 1 + log_ratio[:, None]
    second = mean.square() + (2 * log_sd).exp()
    likelihood = -0.5 * ((v[:, None] - mean).square() + (2 * log_sd).exp()) / NOISE**2 - np.log(NOISE)
    prior = -0.5 * z.square() - 0.5 * second * (-2 * z).exp() - z
    log_q = -(0.5 * log_scale.exp()).log()[:, None] - 0.5 * POINTS.square() - 0.5 - log_sd
    # One ln(2 pi) / 2 is left: that of v.
    return (likelihood + prior - log_q) @ WEIGHTS - 0.5 * np.log(2 * np.pi)


@pytest.fixture
def rows():
    torch.manual_seed(0)
    return torch.linspace(-2, 2, 9, dtype=torch.float64)


KEYS = ("z.loc", "z.scale", "h.loc", "h.scale")


@pytest.mark.statistical
def test_the_gradient_along_the_path_is_that_of_the_elbo(rows):
    offsets = {key: torch.full_like(rows, 0.2).requires_grad_() for key in KEYS}
    found = []
    with isolated(0, dtype=rows.dtype):
        layout = inspect_pair(model, guide, as_rows(rows).tensors)
        guides = LocalGuides(model, guide, layout, Batch.of([rows]).times(100))
        for step in range(60):
            weights = guides.log_weights(offsets, (step,), stick_the_landing=True)
            found.append(torch.stack(torch.autograd.grad(weights.mean(0).sum(), list(offsets.values())), 1))
    found = torch.stack(found)
    at = torch.full((len(rows), 4), 0.2, dtype=rows.dtype).requires_grad_()
    (exact,) = torch.autograd.grad(exact_elbo(rows, at).sum(), at)
    assert_within(found.mean(0) - exact, found.std(0) / len(found) ** 0.5, degrees=len(found) - 1)


def test_no_draw_has_a_gradient_where_the_guide_is_the_posterior(rows):
    """Of z -> h -> v with standard deviations 1, 1 and 0.5: the mean of h follows the draw of z."""

    def chain(v):
        with pyro.plate("data", len(v)):
            z = pyro.sample("z", dist.Normal(v.new_zeros(len(v)), 1))
            pyro.sample("v", dist.Normal(pyro.sample("h", dist.Normal(z, 1.0)), 0.5), obs=v)

    def posterior(v):
        with pyro.plate("data", len(v)):
            z = pyro.sample("z", dist.Normal(0.8 * v / 1.8, 1.8**-0.5))
            pyro.sample("h", dist.Normal((z + 4 * v) / 5, 5**-0.5))

    with isolated(0, dtype=rows.dtype):
        layout = inspect_pair(chain, posterior, as_rows(rows).tensors)
        guides = LocalGuides(chain, posterior, layout, Batch.of([rows]).times(4))
        offsets = {key: torch.zeros_like(rows).requires_grad_() for key in KEYS}
        weights = guides.log_weights(offsets, (0,), stick_the_landing=True)
        found = torch.stack(torch.autograd.grad(weights[0].sum(), list(offsets.values())))
    torch.testing.assert_close(found, torch.zeros_like(found), rtol=0, atol=1e-12)


def test_converged_rows_are_at_the_optimum():
    rows = torch.linspace(-3, 3, 60, dtype=torch.float64)
    best = torch.zeros(len(rows), 4, dtype=rows.dtype).requires_grad_()
    climb = torch.optim.LBFGS([best], max_iter=500, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def loss():
        climb.zero_grad()
        total = -exact_elbo(rows, best).sum()
        total.backward()
        return total

    climb.step(loss)
    schedule = Schedule(tolerance=0.01)
    with isolated(0, dtype=rows.dtype):
        layout = inspect_pair(model, guide, as_rows(rows).tensors)
        found = OwnGuides(model, guide, layout, schedule, 0)(Batch.of([rows]), None)
    short = exact_elbo(rows, best) - exact_elbo(rows, torch.stack([found.offsets[key] for key in KEYS], 1))
    converged = np.array([status is Status.CONVERGED for status in found.status])
    assert converged.mean() > 0.7
    assert (short[converged] > schedule.tolerance).double().mean() < 0.05
    assert short[converged].max() < 5 * schedule.tolerance
