"""What counts in log p and log q of a row: masks, scales of plates, and terms of a guide that are no latents."""

import math
from functools import partial

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.contrib import cevae
from statistics_ import SEARCH, assert_within
from torch import nn

import pplvae
from pplvae.errors import PplvaeWarning, ProgramError, RowwiseError

V = torch.randn(20, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 2**0.5
EXACT = dist.Normal(0.0, torch.tensor(2.0).double().sqrt()).log_prob(V[:, 0]).numpy()
USED = torch.arange(20) % 2 == 0


def model(v, *_):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)


def exact_guide(v, *_):
    with pyro.plate("data", len(v)):
        return pyro.sample("h", dist.Normal(v / 2, 0.5**0.5).to_event(1))


# Masks


def around(mask, fn):
    with pyro.poutine.mask(mask=mask):
        return pyro.sample("spare", fn)


def inside(mask, fn):
    return pyro.sample("spare", fn.expand([len(mask), 3]).mask(mask.unsqueeze(-1)).to_event(1))


def by_element(mask, fn):
    elements = torch.stack([mask, ~mask, mask], -1)
    return pyro.sample("spare", fn.expand([len(mask), 3]).mask(elements).to_event(1))


def without(mask, fn):
    return pyro.sample("spare", fn)


def without_three(mask, fn):
    return pyro.sample("spare", fn.expand([len(mask), 3]).to_event(1))


def with_spare(write, program, scale):
    """A program with a latent more, which nothing depends on."""

    def wider(v, used):
        program(v)
        with pyro.plate("data", len(v)):
            write(used.bool(), dist.Normal(torch.zeros(len(v) if write in (around, without) else 1), scale))

    return wider


@pytest.mark.parametrize(
    ("in_model", "in_guide"),
    [(around, without), (without, around), (inside, without_three), (without_three, by_element), (by_element, inside)],
)
@pytest.mark.parametrize("verb", ["compare", "log_weights", "fit"])
def test_masks_that_differ_are_refused(in_model, in_guide, verb):
    pair = with_spare(in_model, model, 1.0), with_spare(in_guide, exact_guide, 2.0)
    with pytest.raises(ProgramError, match=r"'spare' is masked in one.*the mask is \[.*in the guide.*poutine\.mask"):
        getattr(pplvae, verb)(*pair, (V, USED))


@pytest.mark.parametrize("write", [around, inside, by_element])
def test_the_same_mask_in_both_leaves_the_evidence_as_it_is(write):
    pair = with_spare(write, model, 1.0), with_spare(write, exact_guide, 1.0)
    np.testing.assert_allclose(pplvae.log_weights(*pair, (V, USED), particles=5), np.tile(EXACT, (5, 1)), rtol=1e-9)


def test_a_mask_that_follows_a_latent():
    """In few of the draws the masks differ: one draw of a row would not show it."""

    def masked(threshold, program):
        def wider(v):
            h = program(v)
            with pyro.plate("data", len(v)), pyro.poutine.mask(mask=h[:, 0] > threshold):
                pyro.sample("spare", dist.Normal(torch.zeros(len(v)), 1.0))

        return wider

    def prior(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)
        return h

    rows = V[:2]
    weights = pplvae.log_weights(masked(0.5, prior), masked(0.5, exact_guide), rows, particles=20)
    np.testing.assert_allclose(weights, np.tile(EXACT[:2], (20, 1)), rtol=1e-9)
    with pytest.raises(ProgramError, match="'spare' is masked in one"):
        pplvae.log_weights(masked(0.5, prior), masked(0.55, exact_guide), rows)


@pytest.mark.parametrize("masked", [True, False])
def test_what_is_not_observed(masked):
    """`obs_mask` makes a latent of each row, masked where there is a value; its density is that of nothing new."""

    def partly(v, there):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(()), 1.0))
            pyro.sample("v", dist.Normal(h, 1.0), obs=v[:, 0], obs_mask=there.bool())

    def guide(v, there):
        with pyro.plate("data", len(v)):
            there = there.bool()
            h = pyro.sample("h", dist.Normal(torch.where(there, v[:, 0] / 2, 0.0), torch.where(there, 0.5**0.5, 1.0)))
            with pyro.poutine.mask(mask=~there | (not masked)):
                pyro.sample("v_unobserved", dist.Normal(h, 1.0))

    if not masked:
        with pytest.raises(ProgramError, match="'v_unobserved' is masked in one"):
            pplvae.log_weights(partly, guide, (V, USED))
        return
    weights = pplvae.log_weights(partly, guide, (V, USED), particles=3)
    np.testing.assert_allclose(weights, np.tile(np.where(USED, EXACT, 0.0), (3, 1)), rtol=1e-6, atol=1e-6)


# Terms of a guide that are no latents


def observed(v, h):
    pyro.sample("helper", dist.Normal(0.0, 5.0), obs=torch.zeros(len(v)), infer={"is_auxiliary": True})


def factor(v, h):
    pyro.factor("extra", -torch.ones(len(v)), has_rsample=False)


def factor_of_the_draw(v, h):
    pyro.factor("extra", -3 * h[:, 0].square(), has_rsample=True)


def named_as_in_the_model(v, h):
    pyro.sample("v", dist.Normal(0 * h, 2.0).to_event(1), obs=v, infer={"is_auxiliary": True})


def guide_with(extra, bias=0.0):
    def guide(v, *_):
        h = exact_guide(v + bias)
        with pyro.plate("data", len(v)):
            extra(v, h)

    return guide


@pytest.mark.parametrize("extra", [observed, factor, factor_of_the_draw, named_as_in_the_model])
def test_log_q_is_that_of_the_latents(extra):
    """With the posterior as its latent's distribution a guide has weights of log p(v), whatever else is in it."""
    np.testing.assert_allclose(pplvae.log_weights(model, guide_with(extra), V), EXACT[None], rtol=1e-9)
    rows = pplvae.compare(model, guide_with(extra, bias=1.0), V, particles=200, evidence="importance", simulated=0).rows
    plain = pplvae.compare(model, guide_with(lambda *_: None, bias=1.0), V, particles=200, simulated=0).rows
    for name in ("elbo_amortised", "elbo_local", "log_evidence", "method"):
        assert (rows[name].values == plain[name].values).all(), name
    assert (rows["elbo_amortised"].values < EXACT).all()


def test_latent_use_passes_over_such_terms():
    options = {"particles": 50, "mixture_draws": 100}
    found, plain = (pplvae.latent_use(model, guide_with(extra), V, **options) for extra in (observed, lambda *_: None))
    assert found.aggregate.equals(plain.aggregate)


def test_a_latent_that_the_guide_observes_is_missing():
    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(v, 1.0).to_event(1), obs=v)

    with pytest.raises(ProgramError, match=r"misses \['h'\]"):
        pplvae.log_weights(model, guide, V)


@pytest.mark.parametrize("objective", ["Trace_ELBO", "IWAE", "InfoVAE", "EntropyELBO", "FreeBits"])
@pytest.mark.parametrize("train", ["both", "guide"])
def test_such_terms_count_in_training(objective, train):
    """The helper's mean has no other slope than through its own term, which is subtracted as a part of log q."""

    def guide(v):
        exact_guide(v + pyro.param("bias", torch.zeros(1)))
        with pyro.plate("data", len(v)):
            helper = dist.Normal(pyro.param("mean", torch.zeros(())), 1.0)
            pyro.sample("helper", helper, obs=torch.full((len(v),), 2.0), infer={"is_auxiliary": True})

    found = pplvae.fit(model, guide, V, objective=objective, epochs=1, lr=0.1, train=train)
    mean = found.guide.store["params"]["mean"].detach()
    assert float(mean) == pytest.approx(-0.1, rel=1e-3)


@pytest.mark.parametrize("objective", ["StickingTheLanding", "DReG", "ScoreFunction"])
def test_objectives_that_cut_the_graph_refuse_such_terms(objective):
    guide = guide_with(factor_of_the_draw)
    with pytest.raises(ProgramError, match=r"\['extra'\] of the guide would lose their gradients"):
        pplvae.fit(nn_model(), guide, V, objective=objective, epochs=1)


@pytest.mark.parametrize("objective", ["StickingTheLanding", "DReG"])
def test_a_latent_that_is_masked_changes_no_gradient(objective):
    """It is drawn in both programs, as in a step behind the end of a sequence, and counts in neither."""
    weights = []
    for masked in (False, True):

        def unused(v, masked=masked):
            if masked:
                with pyro.plate("data", len(v)):
                    scale = pyro.param("scale", torch.ones(()), constraint=dist.constraints.positive)
                    pyro.sample("unused", dist.Normal(v.new_zeros(1), scale).to_event(1).mask(False))

        torch.manual_seed(0)
        linear = nn_model()

        def both(v, linear=linear, unused=unused):
            linear(v)
            unused(v)

        def guide(v, unused=unused):
            exact_guide(v + pyro.param("bias", torch.zeros(1)))
            unused(v)

        found = pplvae.fit(both, guide, V, objective=objective, epochs=1, optimiser=partial(torch.optim.SGD, lr=0.1))
        weights.append(found.guide.store["params"]["bias"].detach())
    assert weights[0].abs() > 0.001
    torch.testing.assert_close(*weights)


def nn_model():
    layer = nn.Linear(1, 1).double()

    def with_layer(v):
        pyro.module("layer", layer)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(layer(h), 1.0).to_event(1), obs=v)

    return with_layer


def test_pyros_own_causal_effect_autoencoder():
    """Its guide observes treatment and outcome; the truth is the mean of p(v | h) over many draws from the prior."""
    torch.manual_seed(0)
    config = {"feature_dim": 3, "latent_dim": 1, "hidden_dim": 5, "num_layers": 2, "outcome_dist": "normal"}
    model, guide = cevae.Model(config).double(), cevae.Guide(config).double()
    x, t, y = torch.randn(4, 3), (torch.arange(4) % 2).double(), torch.randn(4)
    rows = pplvae.compare(model, guide, (x, t, y), particles=2000, simulated=0).rows
    h = torch.linspace(-8, 8, 2001).unsqueeze(-1)
    with torch.no_grad():
        terms = [
            model.x_dist(h).log_prob(x[i])
            + model.t_dist(h).log_prob(t[i])
            + model.y_dist(t[i].expand(len(h)), h).log_prob(y[i])
            + model.z_dist().log_prob(h)
            for i in range(4)
        ]
    exact = (torch.stack(terms).logsumexp(1) + math.log(16 / 2000)).numpy()
    stderr = rows["log_evidence_stderr"].values
    assert_within(rows["log_evidence"].values - exact, stderr, low=-0.5 * stderr**2, degrees=999)
    assert_within(rows["elbo_amortised"].values - exact, rows["elbo_amortised_stderr"], low=-np.inf, degrees=999)


# Scales


SEEN = torch.tensor([0, 2, 3])
WEIGHTS = torch.linspace(0.5, 1.5, 5, dtype=torch.float64)


def columns_of(v, size=5, **plate):
    """One latent, five columns, of which a plate holds some."""
    with pyro.plate("data", 1000, subsample_size=len(v), dim=-2):
        h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0))
        with pyro.plate("columns", size, dim=-1, **plate) as column:
            pyro.sample("v", dist.Normal(h * WEIGHTS[column], 1.0), obs=v[:, column])


def columns_guide(v):
    with pyro.plate("data", 1000, subsample_size=len(v), dim=-2):
        pyro.sample("h", dist.Normal(v[:, :1] / 2, 0.5))


def loop_over_columns(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(()), 1.0))
        for column in pyro.plate("columns", 5, subsample=SEEN):
            pyro.sample(f"v{column}", dist.Normal(h * WEIGHTS[column], 1.0), obs=v[:, column])


def loop_guide(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal(v[:, 0] / 2, 0.5))


@pytest.mark.parametrize(
    ("program", "guide"),
    [(lambda v: columns_of(v, subsample=SEEN), columns_guide), (loop_over_columns, loop_guide)],
    ids=["context", "loop"],
)
@pytest.mark.parametrize("count", [3, 20])
def test_some_columns_stand_for_all(program, guide, count):
    """A Gaussian whose likelihood counts 5 / 3 times: ELBO and integral in closed form."""
    v = torch.randn(count, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    times, w, x = 5 / 3, WEIGHTS[SEEN], v[:, SEEN]
    mean, variance = v[:, 0] / 2, 0.25
    squares = (x - mean[:, None] * w).square().sum(1) + variance * w.square().sum()
    divergence = 0.5 * (mean.square() + variance - 1 - math.log(variance))
    elbo = times * (-0.5 * squares - 1.5 * math.log(2 * math.pi)) - divergence
    precision, slope = 1 + times * w.square().sum(), times * (x * w).sum(1)
    integral = times * (-0.5 * x.square().sum(1) - 1.5 * math.log(2 * math.pi))
    integral = integral + 0.5 * slope.square() / precision - 0.5 * precision.log()
    rows = pplvae.compare(program, guide, v, particles=400, simulated=0).rows
    assert "second_order" in rows["method"].values
    rounding = 1e-9
    for name, exact in (("elbo_amortised", elbo), ("elbo_local", integral), ("log_evidence", integral)):
        low = -SEARCH if name == "elbo_local" else 0.0
        stderr = rounding + rows[f"{name}_stderr"].values
        assert_within(rows[name].values - exact.numpy(), stderr, low=low, degrees=199, what=name)


@pytest.mark.parametrize("objective", ["TraceMeanField_ELBO", "IWAE"])
def test_fit_divides_by_the_rows_not_by_the_columns(objective):
    """A parameter that moves nothing else: its slope is that of one row, whichever plates scale."""

    def program(v, **plate):
        bias = pyro.param("bias", torch.zeros(()))
        with pyro.plate("data", dim=-2, **plate):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0))
            with pyro.plate("columns", 6, subsample=SEEN, dim=-1) as column:
                pyro.sample("v", dist.Normal(0 * h + bias, 1.0), obs=v[:, column])

    def guide(v, **plate):
        with pyro.plate("data", dim=-2, **plate):
            pyro.sample("h", dist.Normal(torch.zeros(len(v), 1), 1.0))

    def moved(plate):
        pair = (lambda v: program(v, **plate(v))), (lambda v: guide(v, **plate(v)))
        plain = {"optimiser": lambda parameters: torch.optim.SGD(parameters, lr=0.01)}
        found = pplvae.fit(*pair, torch.ones(8, 6), objective=objective, epochs=1, batch_size=4, **plain)
        return float(found.model.store["params"]["bias"].detach())

    # Two steps towards 1, six columns each.
    expected = 1 - (1 - 0.01 * 6) ** 2
    assert moved(lambda v: {"size": len(v)}) == pytest.approx(expected, rel=1e-9)
    assert moved(lambda v: {"size": 8, "subsample_size": len(v)}) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("size", [3, 4, 5])
@pytest.mark.parametrize("verb", ["log_weights", "fit"])
def test_columns_at_random_are_refused(size, verb):
    """Also as many as the rows that programs are tried on."""
    rows = torch.randn(size, 6, dtype=torch.float64)
    with pytest.raises(ProgramError, match=rf"'columns' takes {size} of its 6 at random.*subsample=index"):
        getattr(pplvae, verb)(lambda v: columns_of(v, size=6, subsample_size=size), columns_guide, rows)


@pytest.mark.parametrize("where", ["both", "model"])
def test_a_latent_for_some_of_the_columns_is_refused(where):
    def program(v, seen, observed):
        with pyro.plate("data", len(v), dim=-2):
            with pyro.plate("columns", 5 if seen else 3, subsample=SEEN if seen else None, dim=-1):
                h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 3), 1.0))
                if observed:
                    pyro.sample("v", dist.Normal(h, 1.0), obs=v[:, SEEN])

    pair = (lambda v: program(v, True, True)), (lambda v: program(v, where == "both", False))
    with pytest.raises(RowwiseError, match=r"'h' lies in the plate 'columns', which holds 3 of its 5"):
        pplvae.log_weights(*pair, torch.randn(6, 5))


def weighed(prior, likelihood):
    """The pair with a weight, of the row or of all, on each of its sites."""

    def weighed_model(v):
        with pyro.plate("data", 1000, subsample_size=len(v)):
            with pyro.poutine.scale(scale=prior(v)):
                h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            with pyro.poutine.scale(scale=likelihood(v)):
                pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)

    def weighed_guide(v):
        with pyro.plate("data", len(v)), pyro.poutine.scale(scale=prior(v)):
            pyro.sample("h", dist.Normal(v / 2, 0.5**0.5).to_event(1))

    return weighed_model, weighed_guide


def one(v):
    return 1.0


def tenth(v):
    return 0.1


def by_row(v):
    return v[:, 0].abs() + 0.1


@pytest.mark.parametrize("weight", [tenth, by_row])
def test_a_weight_of_all_sites_is_a_unit(weight):
    np.testing.assert_allclose(pplvae.log_weights(*weighed(weight, weight), V), EXACT[None], rtol=1e-9)


@pytest.mark.parametrize(
    ("prior", "likelihood", "name"), [(tenth, one, "h"), (one, tenth, "v"), (one, by_row, "v"), (tenth, by_row, "h")]
)
def test_a_weight_of_some_sites_is_left_out_and_said(prior, likelihood, name):
    with pytest.warns(PplvaeWarning, match=rf"scale` weights the sites \['{name}'.*counts in training"):
        weights = pplvae.log_weights(*weighed(prior, likelihood), V)
    np.testing.assert_allclose(weights, EXACT[None], rtol=1e-9)
