"""Guides that refine lambda: exact on linear models, row by row, trained through, worth their cost on the digits."""

import copy

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import random_linear
from statistics_ import standard_errors
from workflow import check_command, check_pair

import pplvae
from pplvae.guides import FactorisedGaussian, Iterative, SemiAmortised
from pplvae.likelihoods import Bernoulli
from pplvae.models import VAE, composed_vae
from pplvae.nets import MLP
from pplvae.priors import StandardNormal

RULES = {"iterative": Iterative, "semi-amortised": SemiAmortised}


class LinearGaussian(torch.nn.Module):
    """The likelihood of a factor analysis; its decoder is `mean_of`."""

    takes_total = False

    def __init__(self, model):
        super().__init__()
        self.scale = model.noise.detach().sqrt()

    def heads(self, visible):
        return [visible]

    def features(self, v):
        return v

    def forward(self, mean):
        return dist.Normal(mean, self.scale).to_event(1)


class Poisson(torch.nn.Module):
    """Counts, the smallest likelihood of them: log shares in, rates out."""

    takes_total = True

    def heads(self, visible):
        return [visible]

    def features(self, v):
        return torch.log1p(v)

    def forward(self, logits, total):
        return dist.Poisson(total * torch.softmax(logits, -1)).to_event(1)


def linear(seed, rule, **options):
    """A linear-Gaussian model, its rows, and a guide that refines a random encoder's lambda under it."""
    model, v = random_linear(seed, rows=6)

    def mean_of(h):
        return (model.mean + h @ model.factors.T,)

    parts = StandardNormal(model.latent), mean_of, LinearGaussian(model)
    guide = RULES[rule](model.visible, model.latent, [5], *parts, particles=2 * model.latent, **options).double()
    return model, v, guide


def binary(name, rows=40, visible=6):
    return composed_vae(visible, 2, [8], guide=name).double(), (torch.rand(rows, visible) < 0.4).double()


def counts(name):
    law, prior, decoder = Poisson(), StandardNormal(2), MLP(2, [8], [6])
    return VAE(6, prior, decoder, law, RULES[name](6, 2, [8], prior, decoder, law)).double()


@pytest.fixture(params=RULES)
def name(request):
    return request.param


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_elbo_and_slope_are_those_of_a_linear_model(seed, name):
    model, v, guide = linear(seed, name)
    mean, log_scale = torch.randn(6, model.latent), 0.5 * torch.randn(6, model.latent)
    lam = torch.cat([mean, log_scale], -1)
    torch.testing.assert_close(guide.elbo(lam, v), model.elbo(v, mean, log_scale.exp()))
    precision = model.posterior_precision()
    exact = torch.cat(
        [(model.posterior(v).mean - mean) @ precision, 1 - precision.diagonal() * (2 * log_scale).exp()], -1
    )
    torch.testing.assert_close(guide.slope(lam, v), exact)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ascent_reaches_the_best_factorised(seed):
    model, v, guide = linear(seed, "semi-amortised", steps=500)
    precision = model.posterior_precision().detach()
    guide.log_step.data.fill_(float(-torch.linalg.eigvalsh(precision).max().log()))  # as long as is stable
    with torch.no_grad():
        path = guide.path(v, v)
        elbos = torch.stack([guide.elbo(lam, v) for lam in path])
        loc, scale = model.best_factorised(v)
    assert (elbos.diff(dim=0) > -1e-9).all()
    torch.testing.assert_close(path[-1], torch.cat([loc, scale.log()], -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("count", "latent"), [(8, 3), (8, 4), (4, 5), (2, 3)])
def test_draws_are_mirrored_with_unit_moments(name, count, latent):
    law, prior, decoder = Bernoulli(), StandardNormal(latent), MLP(latent, [], [6])
    z = RULES[name](6, latent, [8], prior, decoder, law, particles=count).draws
    assert z.shape == (count, latent)
    assert torch.equal(z[: count // 2], -z[count // 2 :])
    second = z.T @ z / count
    torch.testing.assert_close(second.diagonal(), torch.ones(latent))
    if count >= 2 * latent:
        torch.testing.assert_close(second, torch.eye(latent))


def test_rows_stay_apart(name):
    vae, v = binary(name)
    together = vae.family.path(v, v)[-1]
    alone = torch.cat([vae.family.path(v[[i]], v[[i]])[-1] for i in range(len(v))])
    torch.testing.assert_close(together, alone)
    moved = v.clone().requires_grad_()
    (slope,) = torch.autograd.grad(vae.family.path(moved, moved)[-1][3].sum(), moved)
    assert slope[3].any()
    assert not slope[[i for i in range(len(v)) if i != 3]].any()


def test_without_gradients_the_answer_is_the_same(name):
    vae, v = binary(name)
    with_graph = vae.family(v, v).mean
    with torch.no_grad():
        without = vae.family(v, v).mean
    assert with_graph.requires_grad
    assert not without.requires_grad
    torch.testing.assert_close(without, with_graph)


def test_a_frozen_encoder_is_refined_too(name):
    vae, v = binary(name)
    expected = vae.family(v, v).mean
    vae.family.encoder.requires_grad_(False)
    torch.testing.assert_close(vae.family(v, v).mean, expected)


def test_training_goes_through_the_refinement(name):
    """The gradient of the refined lambda agrees with central differences: encoder, rule and decoder."""
    vae, v = composed_vae(6, 2, [8], likelihood="gaussian", guide=name).double(), torch.randn(5, 6)
    weight = torch.randn(5, 4)
    rule = "family.log_step" if name == "semi-amortised" else "family.network.heads.1.bias"
    parameters = dict(vae.named_parameters())

    def answer():
        return (weight * vae.family.path(v, v)[-1]).sum()

    for which in ("family.encoder.heads.1.bias", rule, "decoder.heads.0.bias"):
        parameter = parameters[which]
        (slope,) = torch.autograd.grad(answer(), parameter)
        direction = torch.randn_like(parameter)
        values = []
        for sign in (1, -1):
            with torch.no_grad():
                parameter.add_(sign * 1e-5 * direction)
                values.append(answer())
                parameter.sub_(sign * 1e-5 * direction)
        assert float((values[0] - values[1]) / 2e-5) == pytest.approx(float((slope * direction).sum()), rel=1e-4)
        assert slope.any()


def test_an_update_is_no_longer_than_the_clip():
    law, prior, decoder = Bernoulli(), StandardNormal(2), MLP(2, [8], [6])
    guide = SemiAmortised(6, 2, [8], prior, decoder, law, step_size=0.1, clip=3.0).double()
    slope = torch.tensor([[1e6, 0, 0, 0], [0.3, 0, 0, 0.4], [0, 0, 0, 0]])
    moves = guide.update(0, torch.zeros(3, 4), slope.requires_grad_())
    torch.testing.assert_close(moves, 0.1 * torch.tensor([[3.0, 0, 0, 0], [0.3, 0, 0, 0.4], [0, 0, 0, 0]]))
    (back,) = torch.autograd.grad(moves.sum(), slope)
    assert back.isfinite().all()


def test_far_away_everything_is_finite_in_single_precision(name, single_precision):
    vae = composed_vae(6, 2, [8], guide=name)
    v = (torch.rand(4, 6) < 0.5).float()
    for bias in (-30.0, 30.0):
        for head in vae.family.encoder.heads:
            torch.nn.init.constant_(head.bias, bias)
        mean = vae.family(v, v).mean
        assert mean.isfinite().all()
        assert all(g.isfinite().all() for g in torch.autograd.grad(mean.sum(), list(vae.family.parameters())))


def test_the_models_parts_stay_the_models(name):
    """Each parameter has one name, and a copy of the model refines under its own decoder."""
    vae, v = binary(name)
    names = [parameter_name for parameter_name, _ in vae.named_parameters(remove_duplicate=False)]
    assert len(names) == len({id(parameter) for parameter in vae.parameters()})
    assert not [n for n in names if n.startswith("family.") and "decoder" in n]
    twin = copy.deepcopy(vae)
    before = vae.family(v, v).mean
    torch.nn.init.normal_(twin.decoder.heads[0].weight)
    assert torch.equal(vae.family(v, v).mean, before)
    assert not torch.equal(twin.family(v, v).mean, before)


@pytest.mark.parametrize("likelihood", ["bernoulli", "gaussian"])
def test_workflow(name, likelihood, tmp_path):
    rows = (torch.rand(30, 6) < 0.4).double() if likelihood == "bernoulli" else torch.randn(30, 6)
    check_pair(lambda: composed_vae(6, 2, [8], likelihood=likelihood, guide=name), rows, tmp_path / "run")


def test_workflow_of_counts(name, tmp_path):
    rows = torch.poisson(torch.full((30, 6), 3.0)) + 1
    check_pair(lambda: counts(name), rows, tmp_path / "sums")
    check_pair(lambda: counts(name), (rows, 2 * rows.sum(-1, keepdim=True)), tmp_path / "given")


def test_command_line(name, tmp_path):
    np.save(tmp_path / "rows.npy", (np.random.default_rng(0).random((40, 6)) < 0.4).astype(float))
    check_command(tmp_path / "rows.npy", tmp_path, model="vae", guide=name)


def test_totals_are_those_of_the_rows(name):
    """By default the sum of a row; a total that is given changes the refined lambda, not the encoder's."""
    vae, v = counts(name), torch.poisson(torch.full((5, 6), 3.0)) + 1
    total = v.sum(-1, keepdim=True)

    def mean(*rows):
        return pyro.poutine.trace(vae.guide).get_trace(*rows).nodes["h"]["fn"].mean

    assert torch.equal(mean(v), mean(v, total))
    assert not torch.equal(mean(v, 3 * total), mean(v))
    features = vae.likelihood.features(v)
    assert torch.equal(vae.family.path(features, v, 3 * total)[0], vae.family.path(features, v, total)[0])


def test_the_guide_alone_is_trained(name):
    vae, v = binary(name)
    before = {key: p.clone() for key, p in vae.named_parameters()}
    pplvae.fit(vae.model, vae.guide, v, train="guide", epochs=2)
    moved = {key for key, p in vae.named_parameters() if not torch.equal(p, before[key])}
    assert moved == {key for key in before if key.startswith("family.")}


def test_refusals():
    law, prior, decoder = Bernoulli(), StandardNormal(2), MLP(2, [8], [6])
    for rule in RULES.values():
        for options, text in (({"steps": 0}, "steps"), ({"particles": 3}, "even"), ({"particles": 0}, "at least 2")):
            with pytest.raises(ValueError, match=text):
                rule(6, 2, [8], prior, decoder, law, **options)
    for options in ({"step_size": 0.0}, {"clip": -1.0}):
        with pytest.raises(ValueError, match="positive"):
            SemiAmortised(6, 2, [8], prior, decoder, law, **options)


@pytest.mark.statistical
def test_refinement_closes_the_gap_of_a_small_encoder_of_the_digits(single_precision):
    """One decoder, fitted with an encoder of 16 hidden units; all three guides go on from that encoder."""
    data = pplvae.load_data("digits", seed=0)
    train, test = data.train, data.test[:200]
    base = composed_vae(64, 8, [64], guide=FactorisedGaussian(64, 8, [16]))
    pplvae.fit(base.model, base.guide, train, epochs=20, lr=3e-3)
    parts = base.prior, base.decoder, base.likelihood
    families = {
        "plain": FactorisedGaussian(64, 8, [16]),
        **{name: rule(64, 8, [16], *parts, steps=2) for name, rule in RULES.items()},
    }
    gaps = {}
    for name, family in families.items():
        family.encoder.load_state_dict(base.family.encoder.state_dict())
        vae = VAE(64, base.prior, base.decoder, base.likelihood, family)
        pplvae.fit(vae.model, vae.guide, train, train="guide", epochs=15, lr=2e-3)
        result = pplvae.amortisation_gap(vae.model, vae.guide, test, particles=40, max_steps=300)
        gaps[name] = result.rows["amortisation_gap"].values
    for name in RULES:
        less = gaps["plain"] - gaps[name]
        assert less.mean() > standard_errors(len(less) - 1) * less.std(ddof=1) / len(less) ** 0.5, name
