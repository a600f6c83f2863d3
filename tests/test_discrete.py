"""Discrete latents against sums over all states; latents of all rows; what cannot be compared."""

import itertools

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from statistics_ import SEARCH, assert_spread_is_one, assert_within
from torch import nn

import pplvae
from pplvae.data import as_rows
from pplvae.errors import ProgramError, RowwiseError
from pplvae.isolate import isolated
from pplvae.programs import discrete
from pplvae.programs.discrete import States, draw, joint_states, states_of
from pplvae.programs.inspection import inspect_pair
from pplvae.programs.keys import row_keys
from pplvae.programs.noise import RowNoise

PRIOR = torch.tensor([0.2, 0.3, 0.5, 0.7], dtype=torch.float64)


class Switches:
    """Four binary latents under a linear likelihood: everything is a sum over 16 states."""

    def __init__(self, rows=5):
        self.weight, self.encoder = torch.randn(4, 5), nn.Linear(5, 4)
        h = torch.bernoulli(PRIOR.expand(rows, -1))
        self.v = h @ self.weight + torch.randn(rows, 5)
        self.states = torch.tensor([*itertools.product([0.0, 1.0], repeat=4)])
        log_prior = dist.Bernoulli(PRIOR).log_prob(self.states).sum(-1, keepdim=True)
        means = (self.states @ self.weight).unsqueeze(1)
        self.log_joint = log_prior + dist.Normal(means, 1.0).log_prob(self.v).sum(-1)

    def model(self, v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Bernoulli(PRIOR).to_event(1))
            pyro.sample("v", dist.Normal(h @ self.weight, 1.0).to_event(1), obs=v)

    def guide(self, v):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Bernoulli(logits=self.encoder(v)).to_event(1))

    def elbo(self, logits):
        log_q = dist.Bernoulli(logits=logits).log_prob(self.states.unsqueeze(1)).sum(-1)
        return (log_q.exp() * (self.log_joint - log_q)).sum(0)

    def best_near(self, logits):
        """The ELBO at the end of the way up from there."""
        logits = logits.clone().requires_grad_()
        steps = torch.optim.Adam([logits], lr=0.02)
        for _ in range(2000):
            steps.zero_grad()
            (-self.elbo(logits).sum()).backward()
            steps.step()
        return self.elbo(logits).detach()

    def left(self, result):
        """What the row's own guides leave of the optimum that they are near, in nats."""
        logits = torch.as_tensor(result.parameters["h.logits"].sel(guide="local").values)
        return (self.best_near(logits) - self.elbo(logits)).numpy()


def test_summed_over_all_states():
    switches = Switches()
    result = pplvae.compare(switches.model, switches.guide, switches.v, simulated=0)
    rows = result.rows
    exact = switches.elbo(switches.encoder(switches.v)).detach().numpy()
    np.testing.assert_allclose(rows["elbo_amortised"], exact, atol=1e-10)
    np.testing.assert_allclose(rows["log_evidence"], switches.log_joint.logsumexp(0), atol=1e-10)
    np.testing.assert_allclose(rows["elbo_amortised_stderr"], 0, atol=1e-10)
    assert (rows["status"] == "converged").all()
    assert switches.left(result).max() < 5 * SEARCH
    assert (rows["elbo_local"] <= rows["log_evidence"] + 1e-9).all()


@pytest.mark.statistical
def test_drawn_where_there_are_too_many(monkeypatch):
    monkeypatch.setattr(discrete, "MOST_STATES", 8)
    switches = Switches(rows=30)
    result = pplvae.compare(switches.model, switches.guide, switches.v, particles=2000, simulated=0)
    rows = result.rows
    exact = switches.elbo(switches.encoder(switches.v)).detach().numpy()
    assert_spread_is_one((rows["elbo_amortised"].values - exact) / rows["elbo_amortised_stderr"].values, degrees=999)
    assert set(rows["status"].values) <= {"untested", "max_steps"}  # nothing says how much a row has left
    assert rows["shortfall"].isnull().all()
    assert "nothing can say how much is left" in str(result)
    assert switches.left(result).mean() < 5 * SEARCH


@pytest.mark.statistical
def test_score_function_gradient_is_unbiased(monkeypatch):
    from pplvae.programs.batch import Batch
    from pplvae.search.local_guides import LocalGuides

    monkeypatch.setattr(discrete, "MOST_STATES", 8)
    switches = Switches(rows=3)
    with isolated(0):
        layout = inspect_pair(switches.model, switches.guide, as_rows(switches.v).tensors)
        assert layout.discrete == ("h",)
        assert not layout.states
        logits = switches.encoder(switches.v).detach().requires_grad_()
        (exact,) = torch.autograd.grad(switches.elbo(logits).sum(), logits)
        guides = LocalGuides(switches.model, switches.guide, layout, Batch.of([switches.v]).times(16))
        found = []
        for step in range(400):
            offsets = {"h.logits": torch.zeros(3, 4).requires_grad_()}
            weights = guides.log_weights(offsets, (step,), stick_the_landing=True)
            found.append(torch.autograd.grad(weights.mean(0).sum(), offsets["h.logits"])[0])
    found = torch.stack(found)
    assert_within(found.mean(0) - exact, found.std(0) / 20, degrees=399)


def mixture(guide_has_z, rows=20):
    """A mixture of three Gaussians for h, and a linear likelihood, with log p(v) and the best ELBO.

    Given the category h is a Gaussian with the same precision for all, of which a factorised one has the diagonal.
    """
    centres, weight, shares = 2 * torch.randn(3, 2), torch.randn(2, 4), torch.tensor([0.2, 0.3, 0.5])
    z = dist.Categorical(shares).sample((rows,))
    v = (centres[z] + 0.5 * torch.randn(rows, 2)) @ weight + torch.randn(rows, 4)
    covariance = 0.25 * weight.T @ weight + torch.eye(4)
    parts = [shares[k].log() + dist.MultivariateNormal(centres[k] @ weight, covariance).log_prob(v) for k in range(3)]
    encoder, which = nn.Linear(7, 4), nn.Linear(4, 3)
    with torch.no_grad():
        encoder.weight.mul_(0.1)

    def model(v):
        with pyro.plate("data", len(v)):
            z = pyro.sample("z", dist.Categorical(shares), infer={"enumerate": "parallel"})
            h = pyro.sample("h", dist.Normal(centres[z], 0.5).to_event(1))
            pyro.sample("v", dist.Normal(h @ weight, 1.0).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            z = torch.zeros(len(v), dtype=torch.long)
            if guide_has_z:
                z = pyro.sample("z", dist.Categorical(logits=which(v)))
            loc, log_scale = encoder(torch.cat([v, nn.functional.one_hot(z, 3).to(v)], -1)).chunk(2, -1)
            pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(1))

    exact, precision = torch.stack(parts).logsumexp(0).numpy(), weight @ weight.T + 4 * torch.eye(2)
    lost = 0.5 * float(precision.diagonal().log().sum() - precision.logdet())
    return model, guide, v, exact, exact - lost


@pytest.mark.statistical
def test_a_guide_with_a_category_and_a_gaussian_for_each():
    model, guide, v, exact, best = mixture(guide_has_z=True, rows=10)
    rows = pplvae.compare(model, guide, v, max_steps=1000, simulated=0).rows
    converged = rows["status"].values == "converged"
    assert converged.any()
    error, stderr = rows["elbo_local"].values - best, rows["elbo_local_stderr"].values
    assert_within(error, stderr, low=-np.inf, degrees=49)
    assert_within(error[converged], stderr[converged], low=-5 * SEARCH, degrees=49)
    stderr = rows["log_evidence_stderr"].values
    assert_within(rows["log_evidence"].values - exact, stderr, low=-0.5 * stderr**2, degrees=499)
    assert rows.attrs["lambda"] == "z.logits, h.loc, h.scale"


@pytest.mark.statistical
def test_a_category_that_the_encoder_calls_improbable_is_found():
    """What a category asks of the rest is found first; else it gets next to no gradient, however good it is."""
    weight, centre = torch.randn(3, 4), 2 * torch.randn(3, 4)
    z, h = torch.arange(6) % 3, torch.randn(6, 1)
    v = centre[z] + h * weight[z] + 0.5 * torch.randn(6, 4)

    def of_categories(v):
        covariance = weight.unsqueeze(2) * weight.unsqueeze(1) + 0.25 * torch.eye(4)
        return dist.MultivariateNormal(centre, covariance).log_prob(v.unsqueeze(1)) - np.log(3)

    def model(v):
        with pyro.plate("data", len(v)):
            z = pyro.sample("z", dist.Categorical(torch.ones(3) / 3))
            h = pyro.sample("h", dist.Normal(torch.zeros(len(v)), 1.0))
            pyro.sample("v", dist.Normal(centre[z] + h.unsqueeze(-1) * weight[z], 0.5).to_event(1), obs=v)

    def guide(v):
        right = torch.cdist(v, centre).argmin(1)
        with pyro.plate("data", len(v)):
            z = pyro.sample("z", dist.Categorical(logits=-30.0 * nn.functional.one_hot(right, 3)))
            pyro.sample("h", dist.Normal(torch.where(z == right, 10.0, 0.0) * v[:, 0].cos(), 0.8))

    rows = pplvae.amortisation_gap(model, guide, v, tolerance=0.2, max_steps=500, particles=100).rows
    converged = rows["status"].values == "converged"
    assert converged.mean() > 0.5
    error = rows["elbo_local"].values - of_categories(v).logsumexp(1).numpy()
    assert_within(error[converged], rows["elbo_local_stderr"].values[converged], low=-5 * 0.2, degrees=49)


def test_a_category_left_to_the_model_is_summed_out():
    model, guide, v, exact, _ = mixture(guide_has_z=False)
    for evidence in ("importance", "ais"):
        rows = pplvae.compare(model, guide, v, evidence=evidence, simulated=0).rows
        error, stderr = rows["log_evidence"].values - exact, rows["log_evidence_stderr"].values
        low = -0.5 * stderr**2 if evidence == "importance" else -np.inf  # chains may all stay with one category
        assert_within(error, stderr, low=low, degrees=499, what=evidence)
        assert np.median(abs(error) / stderr) < 1.5, evidence  # 0.67 of a normal


@pytest.mark.statistical
def test_a_latent_of_all_rows_is_held_at_its_guide():
    """A Bayesian decoder: the ELBO of a row is a mean over its weights, in closed form."""
    centre, spread = torch.randn(2, 4), 0.2

    def model(v):
        weight = pyro.sample("weight", dist.Normal(torch.zeros(2, 4), 1.0).to_event(2))
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h @ weight, 1.0).to_event(1), obs=v)

    def guide(v):
        pyro.sample("weight", dist.Normal(centre, spread).to_event(2))
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0.1 * v[:, :2], 0.8).to_event(1))

    v = torch.randn(4, 4)
    second = centre @ centre.T + 4 * spread**2 * torch.eye(2)  # E[W W']
    precision = torch.eye(2) + second

    def elbo(loc, variance):
        fit = -0.5 * (v.square().sum(1) + 4 * np.log(2 * np.pi)) + (loc * (v @ centre.T)).sum(1)
        fit = fit - 0.5 * ((loc @ second) * loc).sum(1) - 0.5 * (second.diagonal() * variance).sum(-1)
        return (fit - 0.5 * (loc**2 + variance - 1 - variance.log()).sum(-1)).numpy()

    result = pplvae.amortisation_gap(model, guide, v, particles=100, max_steps=250)
    rows = result.rows
    best = elbo(torch.linalg.solve(precision, centre @ v.T).T, 1 / precision.diagonal().expand(4, 2))
    for name, exact in (("elbo_amortised", elbo(0.1 * v[:, :2], torch.full((4, 2), 0.64))), ("elbo_local", best)):
        error, low = rows[name].values - exact, -SEARCH if name == "elbo_local" else 0.0
        assert_within(error, rows[f"{name}_stderr"], low=low, degrees=49, what=name)
    assert rows.attrs["held"] == "weight"
    assert "weight" in str(result)
    # One weight is drawn for all rows: their errors are one, not ten.
    summary = result.summary().isel(part=0)
    stderr = float(summary["mc_stderr"].sel(term="elbo_amortised"))
    np.testing.assert_allclose(stderr, rows["elbo_amortised_stderr"].mean())
    with pytest.raises(ProgramError, match=r"weight.*evidence=None"):
        pplvae.compare(model, guide, v, particles=4, max_steps=0)


def test_states():
    fn = dist.Bernoulli(torch.full((5, 3), 0.5)).to_event(1)
    site = {"fn": fn, "value": torch.zeros(5, 3), "mask": None}
    states = states_of(site, -1)
    assert states.values.shape == (8, 3)
    assert states.over(5).shape == (40, 3)
    site = {"fn": dist.OneHotCategorical(torch.ones(2, 5, 3)), "value": torch.zeros(2, 5, 3), "mask": None}
    states = states_of(site, -1)  # a plate of two left of the rows
    assert states.values.shape == (9, 2, 3)
    assert states.over(5).shape == (2, 45, 3)
    assert (states.values.sum(-1) == 1).all()
    together = joint_states({"a": States(torch.arange(2), 0), "b": States(torch.arange(3), 0)})
    assert [*zip(together["a"].values.tolist(), together["b"].values.tolist(), strict=True)] == [
        (a, b) for a in range(2) for b in range(3)
    ]


@pytest.mark.parametrize(
    ("fn", "counts"),
    [
        (dist.Categorical(torch.tensor([0.1, 0.6, 0.3])), [0.1, 0.6, 0.3]),
        (dist.Binomial(2, torch.tensor(0.3)), [0.49, 0.42, 0.09]),
    ],
)
def test_draws_have_their_probabilities(fn, counts):
    keys = row_keys([torch.arange(4000.0)])
    with RowNoise(keys, 1, (0,)):
        drawn = draw(fn.expand([4000]))
    found = np.array([(drawn == k).double().mean() for k in range(3)])
    assert_within(found - counts, np.sqrt(np.array(counts) * (1 - np.array(counts)) / 4000))


def test_drawn_states_belong_to_their_rows():
    switches = Switches()
    weights = pplvae.log_weights(switches.model, switches.guide, switches.v, particles=3)
    alone = pplvae.log_weights(switches.model, switches.guide, switches.v[4:5], particles=3)
    torch.testing.assert_close(alone, weights[:, 4:5])


def masked_category(seen, in_guide):
    """A category that the likelihood ignores, masked in some rows; without it the model is one observed Gaussian."""

    def model(v, seen):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            with pyro.poutine.mask(mask=seen):
                pyro.sample("z", dist.Categorical(torch.ones(3)))
            pyro.sample("v", dist.Normal(h, 1.0), obs=v)

    def guide(v, seen):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(v / 2, 0.5**0.5))
            if in_guide:
                with pyro.poutine.mask(mask=seen):
                    pyro.sample("z", dist.Categorical(logits=torch.zeros(len(v), 3)))

    return model, guide


def test_masked_states_are_not_counted():
    v, seen = torch.randn(4), torch.tensor([True, False, True, False])
    model, guide = masked_category(seen, in_guide=True)
    rows = pplvae.compare(model, guide, (v, seen), particles=200, max_steps=25, simulated=0).rows
    exact = dist.Normal(0.0, 2**0.5).log_prob(v)
    # Log 3 too high if masked states counted.
    assert_within(rows["log_evidence"].values - exact.numpy(), 1e-9 + rows["log_evidence_stderr"].values, degrees=199)
    with pytest.raises(RowwiseError, match="masked"):
        pplvae.compare(*masked_category(seen, in_guide=False), (v, seen))


def test_states_that_the_guide_excludes():
    def model(v):
        with pyro.plate("data", len(v)):
            z = pyro.sample("z", dist.Categorical(torch.tensor([0.5, 0.3, 0.2])))
            pyro.sample("v", dist.Normal(z.to(v), 1.0), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("z", dist.Categorical(logits=torch.tensor([0.0, 0.0, -torch.inf]).expand(len(v), 3)))

    v = torch.linspace(-1, 1, 3)
    rows = pplvae.compare(model, guide, v, simulated=0).rows
    terms = [torch.tensor(p).log() + dist.Normal(z, 1.0).log_prob(v) for p, z in ((0.5, 0.0), (0.3, 1.0))]
    np.testing.assert_allclose(rows["log_evidence"], torch.stack(terms).logsumexp(0), atol=1e-6)
    assert (rows["status"] == "converged").all()


def test_a_screen_bounds_summed_states_too():
    switches = Switches(rows=3)
    rows = pplvae.compare(switches.model, switches.guide, switches.v, screen=0.1, max_steps=50, simulated=0).rows
    exact = (switches.log_joint.logsumexp(0) - switches.elbo(switches.encoder(switches.v))).detach().numpy()
    np.testing.assert_allclose(rows["amortisation_gap_bound"], exact, atol=1e-9)


def test_what_moves_real_numbers_refuses_other_latents():
    switches = Switches(rows=3)
    for call in (
        lambda: pplvae.posterior_means(switches.model, switches.guide, switches.v, max_steps=0),
        lambda: pplvae.log_evidence(switches.model, switches.guide, switches.v, method="ais", max_steps=0),
        lambda: pplvae.compare(switches.model, switches.guide, switches.v, families=["flow"], max_steps=0, simulated=0),
    ):
        with pytest.raises(ProgramError, match="are discrete"):
            call()


def test_log_weights_draw_a_latent_of_all_rows_every_time():
    def model(v):
        weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.sample("v", dist.Normal(weight + 0 * h, 1.0), obs=v)

    def guide(v):
        pyro.sample("weight", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0.0 * v, 1.0))

    weights = pplvae.log_weights(model, guide, torch.zeros(2), particles=50)
    assert weights.shape == (50, 2)
    assert len(weights[:, 0].unique()) == 50
    with pytest.raises(ProgramError, match="belong to all rows"):
        pplvae.compare(model, guide, torch.zeros(2), evidence=None, families=["flow"], max_steps=0, particles=4)
