"""Every objective: gradients against closed forms on a linear-Gaussian model, values against each other."""

import json
import math

import numpy as np
import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from statistics_ import assert_within
from torch import nn
from workflow import check_command, check_pair

import pplvae
from pplvae.errors import ProgramError, RowwiseError, UnknownNameError
from pplvae.models import FactorAnalysis, composed_vae
from pplvae.objectives import (
    IWAE,
    OBJECTIVES,
    DReG,
    EntropyELBO,
    FreeBits,
    InfoVAE,
    Objective,
    RenyiELBO,
    RowObjective,
    ScoreFunction,
    StickingTheLanding,
    cyclical,
    maximum_mean_discrepancy,
    named_objective,
    warm_up,
)
from pplvae.objectives.draws import draw
from pplvae.programs.batch import Batch
from pplvae.programs.inspection import inspect_pair

# A new objective is a line here. Those whose mean gradient is the ELBO's, at these settings:
OF_THE_ELBO = {
    "Trace_ELBO": {},
    "TraceMeanField_ELBO": {},
    "TraceGraph_ELBO": {},
    "TraceEnum_ELBO": {},
    "EntropyELBO": {},
    "ScoreFunction": {"particles": 4},
    "StickingTheLanding": {"particles": 2},
    "IWAE": {"particles": 1},
    "DReG": {"particles": 1},
    "RenyiELBO": {"particles": 1},
    "FreeBits": {"nats": 0.0},
    "InfoVAE": {"penalty": 1.0},
}
COPIES, REPLICATES = 2000, 40  # of the rows in a call, and of calls


@pytest.fixture
def linear():
    torch.manual_seed(3)
    model = FactorAnalysis(4, 2)
    with torch.no_grad():
        model.mean.add_(torch.tensor([0.5, -1.0, 0.0, 2.0]))
        model.log_noise.copy_(torch.tensor([-0.5, 0.3, 0.0, -1.0]))
        model.log_scale.copy_(torch.tensor([-0.7, 0.4]))
    return model, torch.randn(3, 4)


def gradients(objective, model, guide, v, parameters, weight=1.0):
    """Gradients of the negative objective per row, one line each time it is asked; and its value."""
    layout = inspect_pair(model, guide, (v,))
    pyro.clear_param_store()
    found, values = [], []
    objective = named_objective(objective) if isinstance(objective, str) else objective
    chosen, batch = Objective(objective), Batch.of((v,))
    for _ in range(REPLICATES):
        if isinstance(objective, RowObjective):
            loss = chosen.loss(model, guide, layout, batch, 1 / len(v), weight)
            slopes = torch.autograd.grad(loss, parameters, allow_unused=True)
        else:
            loss = chosen.backward(model, guide, layout, batch, parameters, 1 / len(v), weight)
            slopes = [p.grad for p in parameters]
        values.append(-float(loss.detach()))
        filled = [torch.zeros_like(p) if s is None else s for p, s in zip(parameters, slopes, strict=True)]
        found.append(torch.cat([s.flatten() for s in filled]))
    return -torch.stack(found), np.array(values)


def check_mean(samples, exact):
    """The mean of the samples is exact, within its standard errors and rounding."""
    error, stderr = samples.mean(0) - exact, samples.std(0) / len(samples) ** 0.5
    assert_within(error.numpy(), stderr.numpy(), low=-1e-10, high=1e-10, degrees=len(samples) - 1)


def check_same_mean(samples, others):
    """Two independent sets of samples have one mean."""
    stderr = ((samples.var(0) + others.var(0)) / REPLICATES).sqrt()
    assert_within((samples.mean(0) - others.mean(0)).numpy(), stderr.numpy(), degrees=REPLICATES - 1)


def exact_gradient(model, v, parameters, weight=1.0):
    """Of E_q[log p(v|h)] - weight KL per row, in closed form."""
    loc, scale = model.encoder(v), model.log_scale.exp().expand(len(v), -1)
    kl = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).sum(-1)
    value = (model.elbo(v, loc, scale) + (1 - weight) * kl).mean()
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters)]), float(value.detach())


def test_every_objective_has_a_line():
    assert set(OF_THE_ELBO) == set(OBJECTIVES)


@pytest.mark.statistical
@pytest.mark.parametrize("name", OF_THE_ELBO)
@pytest.mark.parametrize("weight", [1.0, 0.3])
def test_mean_gradient_is_the_analytic_one(linear, name, weight):
    model, v = linear
    parameters = [p for n, p in model.named_parameters()]
    objective = OBJECTIVES[name](**OF_THE_ELBO[name])
    exact, value = exact_gradient(model, v, parameters, weight)
    found, values = gradients(objective, model.model, model.guide, v.repeat(COPIES, 1), parameters, weight)
    check_mean(found, exact)
    check_mean(torch.from_numpy(values), value)


@pytest.mark.statistical
@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_doubly_reparameterised_gradient_is_that_of_iwae(linear, weight):
    model, v = linear
    encoder = [*model.encoder.parameters(), model.log_scale]
    parameters = [model.factors, model.mean, model.log_noise, *encoder]
    rows, count = v.repeat(COPIES, 1), sum(p.numel() for p in encoder)
    plain, value = gradients(IWAE(5), model.model, model.guide, rows, parameters, weight)
    for other in (DReG(5), RenyiELBO(0.0, 5)):
        found, values = gradients(other, model.model, model.guide, rows, parameters, weight)
        check_same_mean(found, plain)
        check_same_mean(torch.from_numpy(values), torch.from_numpy(value))
        if isinstance(other, DReG):
            assert found[:, -count:].var(0).sum() < plain[:, -count:].var(0).sum()


@pytest.mark.statistical
@pytest.mark.parametrize("alpha", [0.5, -1.0, 2.0])
def test_renyi_bound_with_many_draws(alpha):
    """With many draws, 1/(1 - alpha) log E_q[w^(1 - alpha)], which a linear-Gaussian model gives by quadrature."""
    torch.manual_seed(0)
    model, v = FactorAnalysis(3, 1), torch.randn(1, 3)
    with torch.no_grad():  # the posterior's own width: the moments of the weights are finite
        model.log_scale.copy_(-0.5 * model.posterior_precision().diagonal().log())
    h = torch.linspace(-15, 15, 20001).unsqueeze(-1)
    with torch.no_grad():
        log_q = dist.Normal(model.encoder(v), model.log_scale.exp()).log_prob(h).squeeze(-1)
        mean = model.mean + h @ model.factors.T
        log_p = dist.Normal(0.0, 1.0).log_prob(h).squeeze(-1) + dist.Normal(mean, model.noise.sqrt()).log_prob(v).sum(
            -1
        )
        step = float(h[1] - h[0])
        exact = (log_q + (1 - alpha) * (log_p - log_q)).logsumexp(0).add(math.log(step)) / (1 - alpha)
    rows = v.repeat(12, 1)
    _, values = gradients(RenyiELBO(alpha, 4000), model.model, model.guide, rows, list(model.parameters()))
    check_mean(torch.from_numpy(values), exact)


def test_iwae_rises_with_draws_to_the_evidence():
    torch.manual_seed(1)
    model, v = FactorAnalysis(3, 1), torch.randn(4, 3)
    make_exact(model)
    with torch.no_grad():
        model.log_scale.add_(0.7)  # wider than the posterior
    rows, bounds = v.repeat(100, 1), []
    layout = inspect_pair(model.model, model.guide, (rows,))
    for particles in (1, 3, 10, 100, 1000):
        with torch.no_grad():
            draws = draw(model.model, model.guide, layout, Batch.of((rows,)).times(particles))
            bounds.append(float(IWAE(particles)(draws)) / len(rows))
    exact = float(model.log_evidence(v).mean().detach())
    assert bounds == sorted(bounds)
    assert bounds[0] < exact - 0.3
    assert abs(bounds[-1] - exact) < 0.005


def make_exact(model):
    """Set the guide to the posterior, of a model with one latent."""
    with torch.no_grad():
        precision = model.posterior_precision()
        weight = (model.factors / model.noise.unsqueeze(-1)).T / precision
        model.log_scale.copy_(-0.5 * precision.diagonal().log())
        model.encoder.weight.copy_(weight)
        model.encoder.bias.copy_(-weight @ model.mean)


def test_no_noise_where_the_guide_is_the_posterior():
    """Each single gradient of the encoder vanishes, draw by draw; with the score function's term it does not."""
    torch.manual_seed(1)
    model, v = FactorAnalysis(3, 1), torch.randn(6, 3)
    make_exact(model)
    parameters = [*model.encoder.parameters(), model.log_scale]
    for objective in (StickingTheLanding(3), DReG(5)):
        found, _ = gradients(objective, model.model, model.guide, v, parameters)
        assert found.abs().max() < 1e-12
    found, _ = gradients("Trace_ELBO", model.model, model.guide, v, parameters)
    assert found.std(0).max() > 0.1


class Chain(nn.Module):
    """Two latents in a chain, in model and guide."""

    def __init__(self):
        super().__init__()
        self.a = nn.Parameter(torch.tensor([0.7, -0.4, 0.3]))
        self.b = nn.Parameter(torch.tensor([0.5, -0.2, 0.8, 0.1, -0.6]))

    def model(self, v):
        with pyro.plate("data", len(v)):
            first = pyro.sample("first", dist.Normal(0.0, 1.0))
            second = pyro.sample("second", dist.Normal(self.a[0] * first, 1.0))
            pyro.sample("v", dist.Normal(self.a[1] * first + second.tanh() + self.a[2], 0.5), obs=v)

    def guide(self, v):
        with pyro.plate("data", len(v)):
            first = pyro.sample("first", dist.Normal(self.b[0] * v, self.b[1].exp()))
            pyro.sample("second", dist.Normal(self.b[2] * first + self.b[3] * v, self.b[4].exp()))


@pytest.mark.statistical
@pytest.mark.parametrize("particles", [1, 5])
def test_path_gradients_through_a_chain_of_latents(particles):
    """Where lambda of one latent depends on another, against the plain gradient of the same bound."""
    torch.manual_seed(0)
    chain, v = Chain(), torch.randn(3).repeat(8000)
    plain, _ = gradients(IWAE(particles), chain.model, chain.guide, v, [chain.a, chain.b])
    for objective in [DReG(particles)] + [StickingTheLanding(5)] * (particles == 1):
        check_same_mean(gradients(objective, chain.model, chain.guide, v, [chain.a, chain.b])[0], plain)


class Coins(nn.Module):
    """Two binary latents, of which the decoder makes a mean that is not differentiable in them."""

    def __init__(self):
        super().__init__()
        self.means = nn.Parameter(torch.tensor([[-1.0, 0.3], [0.4, 1.5]]))
        self.prior = nn.Parameter(torch.tensor([0.2, -0.5]))
        self.slope = nn.Parameter(torch.tensor([0.6, -0.9]))

    def model(self, v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Bernoulli(logits=self.prior).to_event(1)).long()
            pyro.sample("v", dist.Normal(self.means[h[..., 0], h[..., 1]], 0.7), obs=v)

    def guide(self, v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Bernoulli(logits=v.unsqueeze(-1) * self.slope).to_event(1))

    def elbo(self, v):
        total = 0
        q, p = dist.Bernoulli(logits=v.unsqueeze(-1) * self.slope), dist.Bernoulli(logits=self.prior)
        for i, j in [(0, 0), (0, 1), (1, 0), (1, 1)]:
            h = torch.tensor([i, j]).double()
            log_q = q.log_prob(h).sum(-1)
            log_p = p.log_prob(h).sum() + dist.Normal(self.means[i, j], 0.7).log_prob(v)
            total = total + log_q.exp() * (log_p - log_q)
        return total


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["ScoreFunction", "Trace_ELBO", "TraceGraph_ELBO"])
def test_discrete_latents_against_a_sum_over_states(name):
    torch.manual_seed(0)
    coins, v = Coins(), torch.tensor([-0.5, 1.0, 2.0])
    parameters = list(coins.parameters())
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(coins.elbo(v).mean(), parameters)])
    found, values = gradients(name, coins.model, coins.guide, v.repeat(COPIES), parameters)
    check_mean(found, exact)
    check_mean(torch.from_numpy(values), float(coins.elbo(v).mean().detach()))


@pytest.mark.parametrize(
    "name", ["StickingTheLanding", "DReG", "IWAE", "RenyiELBO", "EntropyELBO", "FreeBits", "InfoVAE"]
)
def test_draws_without_gradients_are_refused(name):
    """Their gradients would lack the path through the decoder, silently."""
    coins, v = Coins(), torch.randn(4)
    with pytest.raises(ProgramError, match=r"'h'.*discrete.*ScoreFunction"):
        pplvae.fit(coins.model, coins.guide, v, objective=name, epochs=1)


def test_models_without_latents_are_refused():
    chain = pplvae.models.ChainRule(4).double()
    with pytest.raises(ProgramError, match="no latents"):
        pplvae.fit(chain.model, chain.guide, (torch.rand(9, 4) < 0.5).double(), objective="IWAE", epochs=1)


class Upward(nn.Module):
    """A guide that draws from the data upwards, where the model goes down; `seen` masks the second latent."""

    def __init__(self, coupling):
        super().__init__()
        self.coupling = nn.Parameter(torch.tensor(coupling))

    def model(self, v, seen):
        with pyro.plate("data", len(v)):
            with pyro.poutine.mask(mask=seen.bool()):
                second = pyro.sample("second", dist.Normal(0.0, 1.0))
            first = pyro.sample("first", dist.Normal(0.9 * second * seen, 0.5))
            pyro.sample("v", dist.Normal(first, 1.0), obs=v)

    def guide(self, v, seen):
        with pyro.plate("data", len(v)):
            first = pyro.sample("first", dist.Normal(0.3 * v, 0.8))
            with pyro.poutine.mask(mask=seen.bool()):
                pyro.sample("second", dist.Normal(self.coupling * first, 0.6))


def drawn(pair, rows, particles, times=1):
    """What an objective is made of, so many times."""
    layout = inspect_pair(pair.model, pair.guide, rows)
    batch = Batch.of(rows).times(particles)
    with torch.no_grad():
        return [draw(pair.model, pair.guide, layout, batch) for _ in range(times)]


@pytest.mark.statistical
@pytest.mark.parametrize("name", ["EntropyELBO", "FreeBits"])
@pytest.mark.parametrize("coupling", [0.8, -0.8])
def test_guides_in_another_order_and_masked_latents(name, coupling):
    """The mean of the objective is the ELBO: no prior is held against a guide that its own latents depend on."""
    pair, options = Upward(coupling), {"nats": -1e9} if name == "FreeBits" else {}
    rows = (torch.tensor([-0.5, 1.0, 2.0, 0.3]), torch.tensor([1.0, 0.0, 1.0, 1.0]))
    found = drawn(pair, rows, 2000, REPLICATES)
    values = torch.stack([OBJECTIVES[name](particles=2000, **options)(draws) for draws in found])
    elbos = torch.stack([draws.log_weights.mean(0).sum() for draws in found])
    check_mean(values - elbos, torch.tensor(0.0))


def test_free_bits_count_rows_in_which_a_latent_is_there():
    pair = Upward(0.8)
    rows = (torch.zeros(4), torch.tensor([1.0, 0.0, 0.0, 0.0]))
    (draws,) = drawn(pair, rows, 10)
    value = FreeBits(nats=100.0, particles=10)(draws)
    torch.testing.assert_close(value, draws.log_likelihood.mean(0).sum() - 100.0 * (4 + 1))


def test_free_bits_refuse_helpers():
    model, guide, rows = programs.auxiliary_latent_with_a_delta()
    with pytest.raises(ProgramError, match="no prior"):
        pplvae.fit(model, guide, rows, objective="FreeBits", epochs=1)


def test_weight_of_latents_that_are_summed_out():
    def model(v):
        with pyro.plate("data", len(v)):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)), infer={"enumerate": "parallel"})
            h = pyro.sample("h", dist.Normal(2 * k - 1, 1.0))
            pyro.sample("v", dist.Normal(h, 1.0), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(pyro.param("a", torch.tensor(0.3)) * v, 1.0))

    v = torch.randn(6)
    pplvae.fit(model, guide, v, objective="TraceEnum_ELBO", epochs=1)
    with pytest.raises(ProgramError, match=r"'k'.*summed out"):
        pplvae.fit(model, guide, v, objective="TraceEnum_ELBO", kl_weight=0.5, epochs=1)


def test_entropy_needs_a_closed_form():
    def guide(v):
        with pyro.plate("data", len(v)):
            scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
            base = dist.Normal(torch.zeros(len(v)), scale)
            pyro.sample("first", dist.TransformedDistribution(base, [dist.transforms.TanhTransform()]))
            pyro.sample("second", dist.Normal(torch.zeros(len(v)), 1.0))

    with pytest.raises(ProgramError, match="entropy"):
        pplvae.fit(Chain().model, guide, torch.randn(5), objective="EntropyELBO", epochs=1)


def test_free_bits_are_not_charged(linear):
    model, v = linear
    encoder = [model.encoder.weight, model.encoder.bias, model.log_scale]
    layout = inspect_pair(model.model, model.guide, (v,))
    draws = draw(model.model, model.guide, layout, Batch.of((v,)))
    likelihood, free = draws.log_likelihood.sum(), FreeBits(nats=1e3)(draws)
    with_floor, without = (torch.autograd.grad(x, encoder, retain_graph=True)[0] for x in (free, likelihood))
    torch.testing.assert_close(with_floor, without)  # a KL below the floor has no gradient
    torch.testing.assert_close(free, likelihood - 3 * 2 * 1e3)
    loc, scale = model.encoder(v), model.log_scale.exp()
    each = (0.5 * (loc**2 + scale**2 - 1) - scale.log()).mean(0)
    floor = float(each.mean().detach())  # one element below it, one above
    torch.testing.assert_close(FreeBits(nats=floor)(draws), likelihood - 3 * each.clamp(min=floor).sum())


@pytest.mark.statistical
def test_discrepancy_is_unbiased_and_sees_a_difference():
    """Of samples of one law it is 0 on average; of two, the sum by quadrature over the kernel."""
    torch.manual_seed(0)
    same = torch.stack([maximum_mean_discrepancy(torch.randn(30, 2), torch.randn(30, 2)) for _ in range(400)])
    check_mean(same, torch.tensor(0.0))
    apart = torch.stack([maximum_mean_discrepancy(torch.randn(30, 1) + 1, torch.randn(30, 1)) for _ in range(400)])
    # X - Y is N(0, 2) within a sample and N(1, 2) between.
    z = torch.linspace(-25, 25, 100001)
    kernel = sum(2 * s / (2 * s + z**2) for s in (0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0))
    step = z[1] - z[0]
    inside, between = (float((kernel * dist.Normal(m, 2**0.5).log_prob(z).exp()).sum() * step) for m in (0.0, 1.0))
    check_mean(apart, torch.tensor(2 * inside - 2 * between))


@pytest.mark.statistical
def test_info_vae_has_no_pressure_at_the_prior():
    """Where q(h | v) is the prior the penalty is 0 on average, whatever the number of draws."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h.sum(-1), 1.0), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0 * v.unsqueeze(-1) + torch.zeros(2), 1.0).to_event(1))

    v = torch.randn(20)
    layout, batch = inspect_pair(model, guide, (v,)), Batch.of((v,)).times(8)
    found = []
    for _ in range(200):
        draws = draw(model, guide, layout, batch)
        found.append(draws.log_likelihood.mean(0).sum() - InfoVAE(alpha=1.0, penalty=5.0, particles=8)(draws))
    check_mean(torch.stack(found), torch.tensor(0.0))


def test_info_vae_leaves_running_means_alone_and_takes_a_row_of_its_own():
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm, self.encoder = nn.BatchNorm1d(2), nn.Linear(2, 2)

        def model(self, v):
            with pyro.plate("data", len(v)):
                h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                h = self.norm(h) if len(h) > 1 else h
                pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)

        def guide(self, v):
            with pyro.plate("data", len(v)):
                pyro.sample("h", dist.Normal(10 + self.encoder(v), 1e-3).to_event(1))

    pair, v = Normed(), torch.zeros(17, 2)
    pplvae.fit(pair.model, pair.guide, v, objective=InfoVAE(), batch_size=16, epochs=40, lr=1e-9)
    assert pair.norm.running_mean.min() > 9  # of rows' latents, which lie near 10; those of the prior near 0


def test_info_vae_pulls_the_aggregate_to_the_prior(linear):
    """Without the KL term of a row, the penalty alone moves a shifted aggregate towards the prior."""
    model, v = linear
    with torch.no_grad():
        model.encoder.bias.add_(3.0)
    before = float(model.encoder(v).mean().detach())
    rows = v.repeat(30, 1)
    pplvae.fit(model.model, model.guide, rows, objective=InfoVAE(1.0, 1e4), epochs=60, lr=0.02, train="guide")
    assert abs(float(model.encoder(v).mean().detach())) < 0.4 * abs(before)


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_by_name(name, tmp_path):
    rows = (torch.rand(24, 6) < 0.5).double()
    check_pair(lambda: composed_vae(6, 2, [8]), rows, tmp_path / "run", objective=named_objective(name, 2))
    assert type(named_objective(name)) is type(named_objective(name, 2)) is type(OBJECTIVES[name]())


def test_an_objective_on_the_command_line(tmp_path):
    np.save(tmp_path / "rows.npy", (torch.rand(24, 6) < 0.5).double().numpy())
    check_command(tmp_path / "rows.npy", tmp_path, objective="DReG", objective_particles=2)
    asked = json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["objective"]
    assert "DReG" in asked
    assert "2" in asked


def test_fits_raise_the_elbo():
    torch.manual_seed(0)
    rows = pplvae.load_data("digits", seed=0).train.values[:300].double()
    for objective in (IWAE(5), DReG(5), StickingTheLanding(), ScoreFunction(10), EntropyELBO(), FreeBits(0.01)):
        vae = composed_vae(64, 2, [32]).double()
        fit = pplvae.fit(vae.model, vae.guide, rows, validation=rows, objective=objective, epochs=12, lr=5e-3)
        elbo = fit.history["elbo_validation"].values
        assert elbo.max() > elbo[0] + 5, objective


def test_number_of_draws():
    assert named_objective("IWAE", 7) == IWAE(7)
    assert named_objective("Trace_ELBO", 7).num_particles == 7
    assert named_objective("DReG") == DReG()


def test_refusals():
    with pytest.raises(UnknownNameError, match="Did you mean 'IWAE'"):
        Objective("IWAEE")
    with pytest.raises(TypeError, match=r"objectives\.IWAE"):
        Objective(3)
    with pytest.raises(ValueError, match="alpha = 1"):
        RenyiELBO(1.0)
    with pytest.raises(ValueError, match="at least 2"):
        ScoreFunction(1)

    def weights_too(v):
        pyro.sample("w", dist.Normal(0.0, 1.0))
        Chain().model(v)

    def guide(v):
        pyro.sample("w", dist.Normal(pyro.param("m", torch.tensor(0.0)), 1.0))
        Chain().guide(v)

    with pytest.raises(ProgramError, match=r"'w'.*Trace_ELBO"):
        pplvae.fit(weights_too, guide, torch.randn(5), objective="IWAE", epochs=1)

    def without_plate(v):
        h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h, 1.0).expand([len(v)]).to_event(1), obs=v)

    def guide_without_plate(v):
        pyro.sample("h", dist.Normal(pyro.param("m", torch.zeros(1)), 1.0).to_event(1))

    with pytest.raises(RowwiseError, match="row by row"):
        pplvae.fit(without_plate, guide_without_plate, torch.randn(5), objective="IWAE", epochs=1)


def test_weights_that_never_rise_are_refused():
    for weight in (lambda: warm_up(0), lambda: cyclical(0.0), lambda: cyclical(3.0, rising=0.0)):
        with pytest.raises(ValueError, match="positive"):
            weight()


def test_a_pyro_object_may_be_used_again(tmp_path):
    elbo, rows = pyro.infer.TraceEnum_ELBO(strict_enumeration_warning=False), torch.randn(9)
    chain = Chain()
    pplvae.fit(chain.model, chain.guide, rows, objective=elbo, epochs=1, run=tmp_path / "run")
    again = pplvae.fit(
        chain.model, chain.guide, rows, objective=elbo, epochs=2, run=tmp_path / "run", existing="resume"
    )
    assert again.history.sizes["epoch"] == 2


def test_cyclical_weight():
    weight = cyclical(4.0, rising=0.25)
    assert [weight(e) for e in (0.0, 0.5, 1.0, 3.9, 4.5)] == pytest.approx([0.0, 0.5, 1.0, 1.0, 0.5])


@pytest.mark.parametrize(
    ("objective", "instead"),
    [
        (pyro.infer.ReweightedWakeSleep(), r"DReG\(particles=10\).*ScoreFunction"),
        (pyro.infer.ReweightedWakeSleep(insomnia=0.5, num_particles=3), r"DReG"),
        (pyro.infer.TraceTailAdaptive_ELBO(num_particles=4, vectorize_particles=True), r"RenyiELBO\(alpha=0.5\)"),
        (pyro.infer.EnergyDistance(), "InfoVAE"),
        (pyro.infer.SVI(None, None, pyro.optim.Adam({}), pyro.infer.Trace_ELBO()), "the ELBO that it was made with"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_pyros_other_objectives_are_refused_with_what_to_write(linear, objective, instead):
    model, v = linear
    with pytest.raises(ProgramError, match=f"{type(objective).__name__} cannot be .*{instead}"):
        pplvae.fit(model.model, model.guide, v, objective=objective, epochs=1)


@pytest.mark.parametrize("kind", [pyro.infer.Trace_ELBO, pyro.infer.RenyiELBO, IWAE, FreeBits])
def test_a_class_is_told_from_an_object(linear, kind):
    model, v = linear
    with pytest.raises(TypeError, match=rf"is the class {kind.__name__}; .*`objective={kind.__name__}\(\)`"):
        pplvae.fit(model.model, model.guide, v, objective=kind, epochs=1)


@pytest.mark.parametrize("name", ["Trace_ELBO", "TraceMeanField_ELBO", "TraceGraph_ELBO", "TraceEnum_ELBO"])
def test_pyros_traced_objectives_are_the_plain_ones(name):
    """Those of torch.jit fail on a last batch that is smaller; here they are what they are a faster version of."""
    found = []
    for kind in (getattr(pyro.infer, f"Jit{name}"), getattr(pyro.infer, name)):
        torch.manual_seed(1)
        pair = FactorAnalysis(4, 2)
        v = torch.linspace(-1, 1, 40).reshape(10, 4)
        options = {"objective": kind(num_particles=2, max_plate_nesting=1, strict_enumeration_warning=False)}
        found.append(pplvae.fit(pair.model, pair.guide, v, epochs=2, batch_size=6, **options).history["objective"])
    np.testing.assert_array_equal(*found)


def test_discrete_latents_under_the_default_objective():
    """Told before any step, with the lines to write, which work."""
    coins, v = Coins(), torch.randn(4)
    before = [parameter.clone() for parameter in coins.parameters()]
    with pytest.raises(ProgramError, match=r"draws \['h'\] without a gradient.*TraceMeanField_ELBO") as refused:
        pplvae.fit(coins.model, coins.guide, v, epochs=1)
    assert all(torch.equal(a, b) for a, b in zip(before, coins.parameters(), strict=True))
    for name in ("ScoreFunction", "TraceGraph_ELBO", "TraceEnum_ELBO"):
        assert f'objective="{name}"' in str(refused.value)
        assert pplvae.fit(coins.model, coins.guide, v, objective=name, epochs=1).status is pplvae.FitStatus.COMPLETED


@pytest.mark.parametrize("name", ["TraceMeanField_ELBO", "Trace_ELBO", "TraceEnum_ELBO"])
def test_discrete_latents_that_nobody_sums_out(name):
    """The guide leaves k to the model, which does not mark it: Pyro would draw it from the prior."""

    def model(v):
        with pyro.plate("data", len(v)):
            k = pyro.sample("k", dist.Bernoulli(torch.tensor(0.5)))
            h = pyro.sample("h", dist.Normal(2 * k - 1, 1.0))
            pyro.sample("v", dist.Normal(h, 1.0), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(pyro.param("a", torch.tensor(0.3)) * v, 1.0))

    with pytest.raises(ProgramError, match=r"does not draw \['k'\].*enumerate.*TraceEnum_ELBO"):
        pplvae.fit(model, guide, torch.randn(6), objective=name, epochs=1)
    marked = pyro.infer.config_enumerate(model)
    pplvae.fit(marked, guide, torch.randn(6), objective="TraceEnum_ELBO", epochs=1)
