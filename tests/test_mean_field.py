"""The default objective on pairs drawn at random: any order of latents, edges, masks, and scales in one program only.

Everything is linear and Gaussian, so the mean of what `Trace_ELBO` estimates, and its gradient, are exact.
"""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from statistics_ import assert_within
from torch import nn

import pplvae
from pplvae.objectives import Objective, ScaleLatents
from pplvae.programs.batch import Batch
from pplvae.programs.elements import closed_forms
from pplvae.programs.inspection import inspect_pair
from pplvae.programs.reading import run_guide, run_model
from pplvae.programs.sites import values_of

pytestmark = pytest.mark.filterwarnings("ignore:.*poutine.scale")
COPIES, REPLICATES = 60, 100


class Graphs(nn.Module):
    """Scalar latents h0, h1, ..., in an order and with parents of their own in the model and in the guide."""

    def __init__(self, orders, parents):
        super().__init__()
        self.orders, self.parents, self.count = orders, parents, len(orders["model"])
        self.edges = nn.ParameterDict({side: torch.randn(self.count, self.count) for side in orders})
        self.log_scales = nn.ParameterDict({side: 0.5 * torch.randn(self.count) for side in orders})
        self.encoder, self.weights = nn.Parameter(torch.randn(self.count)), nn.Parameter(torch.randn(self.count))
        self.scale = dict.fromkeys(orders, 1.0)
        self.odd = dict.fromkeys(orders)  # a latent that is masked, on rows where v > 0

    @classmethod
    def at_random(cls, seed, uneven=False):
        torch.manual_seed(seed)
        draw = np.random.default_rng(seed)
        count = int(draw.integers(2, 5))
        orders = {side: draw.permutation(count).tolist() for side in ("model", "guide")}
        parents = {
            side: {k: [j for j in order[:i] if draw.random() < 0.6] for i, k in enumerate(order)}
            for side, order in orders.items()
        }
        pair = cls(orders, parents)
        if uneven:
            side = ("model", "guide")[seed % 2]
            pair.odd = dict.fromkeys(orders, int(draw.integers(count)))
            pair.scale[side] = 0.5 if seed % 3 else 1.0
        return pair

    def latents(self, side, v):
        h = {}
        for k in self.orders[side]:
            loc = sum((self.edges[side][k, j] * h[j] for j in self.parents[side][k]), torch.zeros_like(v))
            loc = loc + self.encoder[k] * v if side == "guide" else loc
            mask = v <= 0 if k == self.odd[side] else torch.ones_like(v, dtype=torch.bool)
            with pyro.poutine.mask(mask=mask), pyro.poutine.scale(scale=self.scale[side]):
                h[k] = pyro.sample(f"h{k}", dist.Normal(loc, self.log_scales[side][k].exp()))
        return torch.stack([h[k] for k in range(self.count)], -1)

    def model(self, v):
        with pyro.plate("data", len(v)):
            pyro.sample("v", dist.Normal(self.latents("model", v) @ self.weights, 0.7), obs=v)

    def guide(self, v):
        with pyro.plate("data", len(v)):
            self.latents("guide", v)

    def elbo(self, v, weight=1.0):
        """The mean over rows of what `Trace_ELBO` estimates, with the KL term weighed."""
        identity = torch.eye(self.count)
        mixing = torch.linalg.inv(identity - self.linear("guide"))
        mean = v.unsqueeze(-1) * (mixing @ self.encoder)
        covariance = mixing @ torch.diag((2 * self.log_scales["guide"]).exp()) @ mixing.T
        likelihood = gaussian(
            v - mean @ self.weights, self.weights @ covariance @ self.weights, torch.tensor(0.7).log()
        )
        terms = 0.0
        for side, sign in (("model", 1.0), ("guide", -1.0)):
            residual = identity - self.linear(side)
            centre = mean @ residual.T - (v.unsqueeze(-1) * self.encoder if side == "guide" else 0.0)
            each = gaussian(centre, (residual @ covariance @ residual.T).diagonal(), self.log_scales[side])
            if self.odd[side] is not None:
                hidden = torch.arange(self.count) == self.odd[side]
                each = torch.where(hidden & (v > 0).unsqueeze(-1), 0.0, each)
            terms = terms + sign * self.scale[side] * each.sum(-1)
        return (likelihood + weight * terms).mean()

    def evidence(self, v):
        """The mean over rows of log p(v)."""
        mixing = torch.linalg.inv(torch.eye(self.count) - self.linear("model").detach())
        scales = (mixing.T @ self.weights) * self.log_scales["model"].exp()
        return float(dist.Normal(0.0, (scales.square().sum() + 0.7**2).sqrt()).log_prob(v).mean())

    def linear(self, side):
        wanted = torch.zeros(self.count, self.count)
        for k, parents in self.parents[side].items():
            wanted[k, parents] = 1.0
        return wanted * self.edges[side]


def gaussian(centre, variance, log_scale):
    """E log N(x; 0, scale) of an x with that mean and variance."""
    return -0.5 * math.log(2 * math.pi) - log_scale - 0.5 * (centre**2 + variance) / (2 * log_scale).exp()


@pytest.mark.parametrize("uneven", [False, True])
@pytest.mark.parametrize("seed", range(6))
def test_value_and_gradient_are_those_of_trace_elbo(seed, uneven):
    pair, v, weight = Graphs.at_random(seed, uneven), torch.tensor([-0.8, 0.3, 1.4]), (1.0, 0.3)[seed % 2]
    parameters, many = list(pair.parameters()), v.repeat(COPIES)
    layout, objective = inspect_pair(pair.model, pair.guide, (v,)), Objective("TraceMeanField_ELBO")
    exact = pair.elbo(v, weight)
    found = []
    for _ in range(REPLICATES):
        elbo = -objective.loss(pair.model, pair.guide, layout, Batch.of((many,)), 1 / len(many), weight)
        found.append(torch.cat([elbo.detach().reshape(1), flat(elbo, parameters)]))
    samples, expected = torch.stack(found), torch.cat([exact.detach().reshape(1), flat(exact, parameters)])
    rounding = 1e-10
    assert_within(samples.mean(0) - expected, rounding + samples.std(0) / REPLICATES**0.5, degrees=REPLICATES - 1)


def flat(value, parameters):
    slopes = torch.autograd.grad(value, parameters, allow_unused=True)
    pairs = zip(slopes, parameters, strict=True)
    return torch.cat([(torch.zeros_like(p) if slope is None else slope).flatten() for slope, p in pairs])


def named(pair, v):
    layout = inspect_pair(pair.model, pair.guide, (v,))
    guide = run_guide(pair.guide, Batch.of((v,)), layout.guide, None)
    return closed_forms(guide, run_model(pair.model, Batch.of((v,)), values_of(guide)), layout)


@pytest.mark.parametrize("seed", range(12))
def test_closed_forms_are_used_exactly_where_they_are_right(seed):
    """In a graph: unless a parent of the latent in the model follows from it in the guide."""
    pair = Graphs.at_random(seed)
    below = {k: {k} for k in range(pair.count)}
    for k in pair.orders["guide"]:
        for j in below:
            if below[j] & set(pair.parents["guide"][k]):
                below[j].add(k)
    right = {f"h{k}" for k in below if not below[k] & set(pair.parents["model"][k])}
    assert named(pair, torch.randn(5)) == right


@pytest.mark.parametrize("objective", [TraceMeanField_ELBO, Trace_ELBO])
def test_where_no_closed_form_holds_the_loss_is_trace_elbos_to_the_bit(objective):
    """The guide draws upwards, and the upper latent's prior has no closed form: the same noise, the same numbers."""
    up = nn.Parameter(torch.tensor([0.4, 0.9]))

    def model(v):
        with pyro.plate("data", len(v)):
            second = pyro.sample("second", dist.StudentT(4.0, torch.zeros(len(v)), 1.0))
            first = pyro.sample("first", dist.Normal(second, 0.5))
            pyro.sample("v", dist.Normal(first, 1.0), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            first = pyro.sample("first", dist.Normal(up[0] * v, 0.8))
            pyro.sample("second", dist.Normal(up[1] * first, 0.6))

    v = torch.randn(7)
    layout = inspect_pair(model, guide, (v,))
    torch.manual_seed(5)
    ours = Objective(objective()).loss(model, guide, layout, Batch.of((v,)), 1.0, 1.0)
    torch.manual_seed(5)
    theirs = Trace_ELBO().differentiable_loss(model, guide, v)
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for a, b in zip(*(torch.autograd.grad(loss, up) for loss in (ours, theirs)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=0)


def test_helpers_of_a_guide_count_as_in_trace_elbo():
    """Those that it draws and those that it observes; the KL weight is of what is drawn."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.StudentT(4.0, torch.zeros(len(v)), 1.0))
            pyro.sample("v", dist.Normal(h, 1.0), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            helper = pyro.sample("drawn", dist.Normal(v, 5.0), infer={"is_auxiliary": True})
            pyro.sample("observed", dist.Normal(helper, 5.0), obs=v, infer={"is_auxiliary": True})
            pyro.sample("h", dist.Normal(0.1 * helper, 0.7))

    v = torch.randn(7)
    for weight in (1.0, 0.3):
        torch.manual_seed(3)
        ours = Objective("TraceMeanField_ELBO").loss(model, guide, None, Batch.of((v,)), 1.0, weight)
        torch.manual_seed(3)
        with ScaleLatents(weight):
            theirs = Trace_ELBO().differentiable_loss(model, guide, v)
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)


def chain(link):
    """A model of two latents, whose second has a distribution around what `link` makes of the first."""

    def model(v):
        with pyro.plate("data", len(v)):
            top = pyro.sample("top", dist.Normal(torch.zeros(len(v)), 1.0))
            low = pyro.sample("low", dist.Normal(link(top), 0.5))
            pyro.sample("v", dist.Normal(low, 1.0), obs=v)

    return model


def written(top):
    memory = torch.zeros(2, len(top))
    view = memory[1]
    memory[1] = top
    return view


def scattered(top):
    memory = torch.zeros(2, len(top))
    memory.chunk(2)[0].copy_(top)
    return memory


@pytest.mark.parametrize(
    ("link", "right"),
    [
        (lambda top: 0.0 * top.detach().sign(), {"top"}),  # no gradient flows, and the number is always the same
        (lambda top: torch.where(top > 30.0, 1.0, 0.0), {"top"}),  # nor does a draw ever show it
        (written, {"top"}),
        (lambda top: scattered(top)[0], {"top"}),
        (torch.ones_like, {"top", "low"}),
        (lambda top: torch.full_like(top, 0.3), {"top", "low"}),
        (lambda top: torch.zeros(len(top)) if float(top.sum()) < 1e9 else top, {"top"}),  # a branch cannot be seen
    ],
)
def test_what_a_prior_follows_from_is_read_off_the_operations(link, right):
    v = torch.randn(6)

    def guide(v):
        with pyro.plate("data", len(v)):
            low = pyro.sample("low", dist.Normal(0.5 * v, 0.7))
            pyro.sample("top", dist.Normal(0.5 * low, 0.7))

    assert inspect_pair(chain(link), guide, (v,)).unmoved == right


@pytest.mark.parametrize("particles", [1, 3])
def test_a_guide_from_the_data_upwards_reaches_the_evidence(particles):
    """h1 -> h0 -> v in the model, v -> h0 -> h1 in the guide, whose family holds the posterior."""
    torch.manual_seed(0)
    pair = Graphs({"model": [1, 0], "guide": [0, 1]}, {"model": {1: [], 0: [1]}, "guide": {0: [], 1: [0]}})
    for fixed in (pair.edges["model"], pair.log_scales["model"], pair.weights):
        fixed.requires_grad_(False)
    v = torch.linspace(-2, 2, 64)
    objective = TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True)
    pplvae.fit(pair.model, pair.guide, v, objective=objective, epochs=400, lr=0.02, batch_size=64)
    assert pair.evidence(v) - 0.02 < float(pair.elbo(v).detach()) < pair.evidence(v) + 1e-9
