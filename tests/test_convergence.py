"""`converged` can fail, and where it is said it is right: against ELBOs in closed form and by quadrature."""

import copy
import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import FactorAnalysis, random_linear
from statistics_ import SEARCH
from torch.distributions import kl_divergence

import pplvae
from pplvae.search import further
from pplvae.search import own_guides as own_module
from pplvae.search.first_order import optimise
from pplvae.search.optimum import Optimum, Schedule, Status

# ------------------------------------------------------- problems: model, guide, rows, ELBO of (loc, scale)


def entropy_and_prior(loc, scale):
    return (scale.log() - 0.5 * (loc.square() + scale.square() - 1)).sum(-1)


def waves():
    """One latent; mean and scale of v are waves of it: posteriors have several modes, and no Gaussian shape."""

    def decoded(h):
        return dist.Normal(-1 + h * (1 + h.sin()), h.cos().exp())

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", decoded(h).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0 * v + 0.4, 0.5).to_event(1))

    points = torch.linspace(-8, 8, 1201)
    weights = (-0.5 * points.square()).softmax(0)

    def elbo(v, loc, scale):
        return decoded(loc + scale * points).log_prob(v) @ weights + entropy_and_prior(loc, scale)

    return model, guide, decoded(torch.randn(40, 1)).sample(), elbo


def more_latents_than_columns():
    """Four latents, two columns, little noise: a posterior that is flat in two directions and steep in two."""
    linear = FactorAnalysis(2, 4)
    with torch.no_grad():
        linear.log_noise.fill_(math.log(0.005))
    v = (torch.randn(60, 4) @ linear.factors.T + linear.noise.sqrt() * torch.randn(60, 2)).detach()
    scale = linear.posterior_precision().detach().diagonal().rsqrt()

    def guide(v):
        with pyro.plate("data", len(v)):
            loc = linear.posterior(v).mean.detach() + torch.sin(7 * v @ torch.ones(2, 4))
            pyro.sample("h", dist.Normal(loc, scale * torch.cos(3 * v[:, :1]).exp()).to_event(1))

    return linear.model, guide, v, lambda v, loc, scale: linear.elbo(v, loc, scale)


def funnel():
    """The scale of one latent is the exponential of another: E[exp(-2 a)] is the mean of a log-normal."""
    width, noise = 1.5, 0.1

    def model(v):
        with pyro.plate("data", len(v)):
            a = pyro.sample("a", dist.Normal(torch.zeros(1), width).to_event(1))
            b = pyro.sample("b", dist.Normal(torch.zeros(1), a.exp()).to_event(1))
            pyro.sample("v", dist.Normal(b, noise).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("a", dist.Normal((v.abs() + 0.2).log(), 1.0).to_event(1))
            pyro.sample("b", dist.Normal(v, 0.1).to_event(1))

    def elbo(v, loc, scale):
        (a, b), (s, t) = loc.unbind(-1), scale.unbind(-1)
        prior = -0.5 * (a**2 + s**2) / width**2 - a - 0.5 * (b**2 + t**2) * (2 * s**2 - 2 * a).exp()
        likelihood = -0.5 * ((v[:, 0] - b) ** 2 + t**2) / noise**2
        return prior + likelihood + s.log() + t.log() + 1 - 0.5 * math.log(2 * math.pi) - math.log(width * noise)

    v = (width * torch.randn(40, 1)).exp() * torch.randn(40, 1) + noise * torch.randn(40, 1)
    return model, guide, v, elbo


def steep():
    """A decoder that is nearly a step, beside a latent that it does not use."""
    grid, noise = torch.arange(-2500, 2501) / 500, 0.3

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", dist.Normal((20 * h[:, :1]).tanh(), noise).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(torch.cat([1.5 * v.sign(), 0 * v + 2], -1), 0.3).to_event(1))

    def elbo(v, loc, scale):
        density = dist.Normal(loc[:, :1], scale[:, :1]).log_prob(grid).exp() / 500
        likelihood = dist.Normal((20 * grid).tanh(), noise).log_prob(v)
        return (density * likelihood).sum(-1) + entropy_and_prior(loc, scale)

    return model, guide, (20 * torch.randn(12, 1)).tanh() + noise * torch.randn(12, 1), elbo


# ----------------------------------------------------------------------------------------------- answers


def guides_of(result, which):
    """Mean and standard deviation of the Gaussians, all latents of a row side by side."""
    parameters = result.parameters.sel(guide=which)
    return [
        torch.cat([torch.tensor(parameters[name].values) for name in sorted(parameters) if name.endswith(end)], -1)
        for end in ("loc", "scale")
    ]


def climbed(elbo, v, loc, scale, steps=400):
    """The highest ELBO of each row on the way up from a Gaussian, in units of its own scale."""
    best = elbo(v, loc, scale).detach()
    moved, widened = (torch.zeros_like(loc).requires_grad_() for _ in range(2))
    adam = torch.optim.Adam([moved, widened])
    for step in range(steps):
        adam.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        adam.zero_grad()
        here = elbo(v, loc + scale * moved, scale * widened.exp())
        (-here.sum()).backward()
        adam.step()
        best = torch.maximum(best, here.detach())
    return best


@pytest.mark.parametrize("problem", [waves, more_latents_than_columns, funnel, steep], ids=lambda p: p.__name__)
def test_a_converged_row_is_at_a_maximum_of_its_own_elbo(problem):
    model, guide, v, elbo = problem()
    result = pplvae.amortisation_gap(model, guide, v, particles=100)
    converged = result.rows["status"].values == "converged"
    assert converged.mean() > 0.8
    found, began = (elbo(v, *guides_of(result, which)).detach() for which in ("local", "amortised"))
    left = (climbed(elbo, v, *guides_of(result, "local")) - found).numpy()
    assert left[converged].max() < 5 * SEARCH
    assert float((began - found).max()) < SEARCH  # nor does any row end below its encoder


@pytest.mark.parametrize("off", [0.02, 0.1, 2.0])
def test_what_is_left_where_only_the_mean_is_off(off):
    """In a linear-Gaussian model that is what a step wins, exactly."""
    model, v = random_linear(1, rows=20)

    def encode(v):
        loc, scale = (values.detach() for values in model.best_factorised(v))
        return loc + off * scale, scale

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(*encode(v)).to_event(1))

    rows = pplvae.amortisation_gap(model.model, guide, v, particles=20, max_steps=0).rows
    exact = model.amortisation_gap(v, *encode(v)).detach()
    np.testing.assert_allclose(rows["shortfall"], exact, rtol=1e-6)
    assert (rows["shortfall_stderr"] < 1e-6 * rows["shortfall"]).all()
    assert set(rows["status"].values) == {"converged" if float(exact.max()) < SEARCH else "max_steps"}


def test_a_mean_that_single_precision_cannot_hold_is_not_called_found():
    """Offsets from an encoder that is millions of deviations away round to a good part of a deviation."""
    exact, v = random_linear(1, rows=20)
    single = copy.deepcopy(exact).float()
    best = [values.detach() for values in exact.best_factorised(v)]

    def found(far):
        def guide(v):
            loc, scale = (values.detach().float() for values in exact.best_factorised(v.double()))
            with pyro.plate("data", len(v)):
                pyro.sample("h", dist.Normal(loc + far * scale, scale).to_event(1))

        result = pplvae.amortisation_gap(single.model, guide, v.float(), particles=20)
        own = (values.double() for values in guides_of(result, "local"))
        left = (exact.elbo(v, *best) - exact.elbo(v, *own)).detach().numpy()
        return left, result.rows["status"].values == "converged"

    near, far = found(1e3), found(1e8)
    assert near[1].all()
    assert not far[1].any()
    for left, converged in (near, found(1e6), found(1e7), far):
        assert left[converged].max(initial=0) < SEARCH


# ------------------------------------------------------------------------------------------- first order


def counts():
    """Gamma latents under Poisson counts, and what a Gamma guide lacks of log p(v)."""
    prior = dist.Gamma(3.0, 2.0)

    def model(v):
        with pyro.plate("data", len(v)):
            pyro.sample("v", dist.Poisson(pyro.sample("h", prior)), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Gamma(1.5 + 0.1 * v, 1.0))

    def lost(v, shape, rate):
        return kl_divergence(dist.Gamma(shape, rate), dist.Gamma(3 + v, 3.0))

    return model, guide, torch.arange(12.0), lost


@pytest.mark.parametrize("rounds", [1, 4])
def test_a_search_that_stops_early_is_found_out(rounds, monkeypatch):
    """Its rows go on by Newton steps, or say that they are short."""

    def early(make_batch, rows, schedule, seed, start=None, **options):
        found = optimise(make_batch, rows, schedule.with_steps(25), seed, start)
        found.status = [Status.CONVERGED] * rows
        return found

    monkeypatch.setattr(own_module, "optimise", early)
    monkeypatch.setattr(further, "_ROUNDS", rounds)
    model, guide, v, lost = counts()
    result = pplvae.amortisation_gap(model, guide, v, particles=20)
    own = result.parameters.sel(guide="local")
    shape, rate = (torch.tensor(own[name].values[:, 0]) for name in ("h.concentration", "h.rate"))
    left = lost(v, shape, rate).numpy()
    status = result.rows["status"].values
    assert left[status == "converged"].max(initial=0) < 5 * SEARCH
    assert set(status) <= {"converged", "short"}
    assert "short" in status if rounds == 1 else (status == "converged").mean() > 0.5


class Ridge:
    """Guides whose ELBO is a sharp ridge over their offset: any length of a step that is tried lies beyond it."""

    def __init__(self, rows, draws):
        self.batch, self._draws = range(rows), draws

    def elements(self):
        return 1

    def starts(self):
        return []

    def rows_at_once(self, draws):
        return len(self.batch)

    def log_weights(self, offsets, address, kind="antithetic", *, stick_the_landing=False):
        return (-50 * offsets["h"].abs()).expand(self._draws, -1)


def test_a_row_from_which_no_step_wins_is_not_called_converged():
    """0.15 nats below the ridge, while the slope says 25."""
    offsets = {"h": torch.full((3,), 0.003)}
    nan = torch.full((3,), torch.nan)
    ended = Optimum(
        offsets, [Status.CONVERGED] * 3, torch.zeros(3, dtype=torch.int64), ["first_order"] * 3, nan, nan.clone()
    )
    found = further.prove(lambda rows, draws: Ridge(len(rows), draws), ended, Schedule(), 0)
    assert found.status == [Status.SHORT] * 3
    torch.testing.assert_close(found.shortfall, torch.full((3,), 25.0))
