"""Every likelihood: its density is the one it says, keeps its digits at the edges, and is what is drawn from."""

import inspect
import itertools
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from scipy import integrate, special, stats
from workflow import check_command, check_name, check_pair

from pplvae import likelihoods
from pplvae.isolate import validation
from pplvae.likelihoods import (
    Bernoulli,
    Beta,
    Categorical,
    ContinuousBernoulli,
    Gaussian,
    GaussianFixed,
    GaussianShared,
    Multinomial,
    NegativeBinomial,
    Poisson,
    ZeroInflatedNegativeBinomial,
)
from pplvae.models import composed_vae

BITS, COUNTS, PIXELS, REALS = ((0, 0, 0), (1, 0, 1)), ((0, 0, 0), (1, 0, 5), (1e6, 0, 3)), ((0, 0.5, 1),), ((0, -3, 3),)


class Case(NamedTuple):
    """A likelihood, an independent log density of single columns (or of rows), and what its columns take."""

    make: Any  # from the number of columns
    reference: Any  # (law, v, total, *heads), all NumPy but the law
    support: Any  # the values of a column, or None for the real line, or the ends of an interval
    edges: Any  # rows of three columns


def bounded(free, low=0.03, high=3.0):
    return low * (high / low) ** special.expit(free)


def parameter(law):
    return next(law.parameters()).detach().numpy()


def continuous_bernoulli(law, v, total, head):
    logit = 255 * np.tanh(head / 255)
    return v * logit - np.log([[integrate.quad(lambda u, x=x: np.exp(x * u), 0, 1)[0] for x in row] for row in logit])


def beta(law, v, total, logit, free):
    width, concentration = 1 + 2 / 512, bounded(free, 0.1, 1000)
    ends = [concentration * (special.expit(sign * logit) + 1 / 512) / width for sign in (1, -1)]
    return stats.beta.logpdf(v, *ends, loc=-1 / 512, scale=width)


def categorical(law, v, total, logit):
    log_prob = special.log_softmax(logit.reshape(len(logit), -1, 3), -1)
    return np.take_along_axis(log_prob, v.astype(int)[..., None], -1)[..., 0]


def negative_binomial(law, v, total, logit):
    r, mean = bounded(parameter(law), 1e-4, 1e4), total * special.softmax(logit, -1)
    return stats.nbinom.logpmf(v, r, r / (r + mean))


def zero_inflated(law, v, total, logit, zero):
    counts = negative_binomial(law, v, total, logit) + special.log_expit(-zero)
    return np.where(v == 0, np.logaddexp(counts, special.log_expit(zero)), counts)


def multinomial(law, v, total, logit):
    return stats.multinomial.logpmf(v, total[:, 0], special.softmax(logit, -1))[:, None]


# A new likelihood is a line here.
CASES = {
    "bernoulli": Case(
        lambda d: Bernoulli(), lambda law, v, t, x: stats.bernoulli.logpmf(v, special.expit(x)), (0.0, 1.0), BITS
    ),
    "beta": Case(lambda d: Beta(), beta, "[-1/512, 1+1/512]", PIXELS),
    "categorical": Case(lambda d: Categorical(3), categorical, (0.0, 1.0, 2.0), ((0, 1, 2),)),
    "continuous-bernoulli": Case(lambda d: ContinuousBernoulli(), continuous_bernoulli, "[0, 1]", PIXELS),
    "gaussian": Case(
        lambda d: Gaussian(0.2, 2),
        lambda law, v, t, m, s: stats.norm.logpdf(v, m, bounded(s, 0.2, 2)),
        None,
        REALS,
    ),
    "gaussian-fixed": Case(
        lambda d: GaussianFixed(0.7), lambda law, v, t, m: stats.norm.logpdf(v, m, 0.7), None, REALS
    ),
    "gaussian-shared": Case(
        GaussianShared, lambda law, v, t, m: stats.norm.logpdf(v, m, bounded(parameter(law))), None, REALS
    ),
    "multinomial": Case(lambda d: Multinomial(), multinomial, range(6), COUNTS),
    "negative-binomial": Case(NegativeBinomial, negative_binomial, range(120), COUNTS),
    "poisson": Case(
        lambda d: Poisson(),
        lambda law, v, t, x: stats.poisson.logpmf(v, t * special.softmax(x, -1)),
        range(120),
        COUNTS,
    ),
    "zero-inflated-negative-binomial": Case(ZeroInflatedNegativeBinomial, zero_inflated, range(120), COUNTS),
}


@pytest.fixture(params=CASES, ids=str)
def case(request):
    return CASES[request.param]


def made(case, columns):
    """A likelihood whose own parameters, if it has any, are no longer alike."""
    law = case.make(columns)
    for p in law.parameters():
        torch.nn.init.uniform_(p, -0.1, 0.3)
    return law


def heads(law, rows, columns, scale=1.0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    return [
        (scale * torch.randn(rows, width, generator=generator, dtype=torch.float32)).to(dtype).requires_grad_()
        for width in law.heads(columns)
    ]


def given(law, inputs, total):
    return law(*inputs, total) if law.takes_total else law(*inputs)


def totals(rows, size=5.0):
    return torch.full((rows, 1), size)


def some_rows(law, rows, columns):
    """Rows that a likelihood has made, of different totals where it takes them."""
    total = (5.0 + torch.arange(rows) % 30).unsqueeze(-1)
    return given(law, heads(law, rows, columns), total).sample(), total


def test_every_name_has_a_line():
    assert CASES.keys() == likelihoods.LIKELIHOODS.keys()
    assert all(isinstance(case.make(3), likelihoods.LIKELIHOODS[name]) for name, case in CASES.items())
    assert all(isinstance(case.make(3), likelihoods.Likelihood) for case in CASES.values())


def test_shapes(case):
    law = made(case, 4)
    v, total = some_rows(law, 7, 4)
    fn = given(law, heads(law, 7, 4), total)
    assert (fn.batch_shape, fn.event_shape, v.shape) == ((7,), (4,), (7, 4))
    assert fn.log_prob(v).shape == (7,)
    wide = fn.expand((3, 7))
    assert wide.sample().shape == (3, 7, 4)
    assert torch.allclose(wide.log_prob(v), fn.log_prob(v).expand(3, 7))
    assert law.features(v).shape[0] == 7
    assert law.features(torch.tensor(case.edges, dtype=torch.float64)).abs().max() < 20


def test_density_is_that_of_another_library(case):
    law = made(case, 4)
    v, total = some_rows(law, 40, 4)
    inputs = heads(law, 40, 4)
    ours = given(law, inputs, total).log_prob(v).detach().numpy()
    theirs = case.reference(law, v.numpy(), total.numpy(), *(x.detach().numpy() for x in inputs)).sum(-1)
    np.testing.assert_allclose(ours, theirs, rtol=1e-9, atol=1e-9)


def test_total_probability_is_one(case):
    law = made(case, 2)
    if isinstance(case.support, (tuple, range)):
        fn = given(law, heads(law, 1, 2), totals(1))
        points = torch.tensor(list(itertools.product(case.support, repeat=2)), dtype=torch.float64)
        total = float(fn.log_prob(points[fn.support.check(points)]).exp().sum().detach())
    else:
        law = made(case, 1)
        fn = law(*heads(law, 1, 1))
        ends = {None: (-40, 40), "[0, 1]": (0, 1), "[-1/512, 1+1/512]": (-1 / 512, 1 + 1 / 512)}[case.support]
        total, _ = integrate.quad(
            lambda x: float(fn.log_prob(torch.tensor([[x]])).exp().detach()), *ends, points=[0.01, 0.5, 0.99], limit=400
        )
    assert total == pytest.approx(1, abs=1e-6)


def test_gradient_is_that_of_the_density(case):
    law = made(case, 3)
    v, total = some_rows(law, 4, 3)
    inputs = [*heads(law, 4, 3), *law.parameters()]
    count = len(law.heads(3))
    assert torch.autograd.gradcheck(lambda *x: given(law, x[:count], total).log_prob(v), inputs)


@pytest.mark.parametrize("scale", [0.0, 1e-8, 1e-6, 1e-4, 1e-3, 1e-2, 0.5, 1.0, 30.0, 1000.0])
def test_edges_keep_their_digits_in_float32(case, scale):
    """The same inputs in both precisions; torch's own laws of counts and of [0, 1] are wrong by nats here."""
    results = {}
    for dtype in (torch.float32, torch.float64):
        law = made_alike(case).to(dtype)
        v = torch.tensor(case.edges, dtype=dtype)
        inputs = heads(law, len(v), 3, scale, dtype)
        log_prob = given(law, inputs, v.sum(-1, keepdim=True)).log_prob(v)
        gradients = torch.autograd.grad(log_prob.sum(), [*inputs, *law.parameters()])
        assert all(torch.isfinite(x).all() for x in (log_prob, *gradients))
        assert all(x.dtype == dtype for x in (log_prob, *gradients))
        results[dtype] = log_prob.detach().double(), [g.double() for g in gradients]
    (single, single_gradients), (double, double_gradients) = results.values()
    assert torch.allclose(single, double, rtol=2e-5, atol=5e-3)
    for a, b in zip(single_gradients, double_gradients, strict=True):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()) + 5e-3)


def made_alike(case):
    torch.manual_seed(0)
    return made(case, 3)


def test_extreme_heads_and_their_own_draws_stay_finite(case):
    for dtype in (torch.float32, torch.float64):
        law = made_alike(case).to(dtype)
        inputs = heads(law, 50, 3, 100.0, dtype)
        total = (torch.arange(50, dtype=dtype) * 1000).unsqueeze(-1)
        fn = given(law, inputs, total)
        loss = fn.log_prob(fn.sample()).sum()
        assert torch.isfinite(loss)
        assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, inputs))


@pytest.mark.statistical
def test_draws_have_the_support_and_the_mean(case):
    law = made(case, 3)
    fn = given(law, heads(law, 4, 3), torch.tensor([[0.0], [3.0], [40.0], [1e4]]))
    with torch.no_grad():
        draws = fn.sample((20_000,))
        assert fn.support.check(draws).all()
        if isinstance(law, Categorical):  # codes have no mean; their indicators have
            draws, mean = law.features(draws.flatten(0, 1)).reshape(20_000, 4, -1), fn.base_dist.probs.flatten(1)
        else:
            mean = fn.mean
    error = draws.std(0) / 20_000**0.5
    assert ((draws.mean(0) - mean).abs() <= 4 * error + 1e-12).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_follow_the_heads(case, dtype):
    law = made(case, 3).to(dtype)
    v, total = some_rows(law, 5, 3)
    fn = given(law, heads(law, 5, 3, dtype=dtype), total.to(dtype))
    assert {fn.sample().dtype, fn.log_prob(v.to(dtype)).dtype, law.features(v.to(dtype)).dtype} == {dtype}
    with validation(False):  # tensors without data show where a tensor is made on the wrong device
        law = law.to("meta")
        fn = given(law, [x.to("meta") for x in heads(law, 5, 3, dtype=dtype)], total.to("meta", dtype))
        assert fn.log_prob(v.to("meta", dtype)).device.type == "meta"
        assert law.features(v.to("meta", dtype)).device.type == "meta"


@pytest.mark.parametrize("name", CASES)
def test_fit_load_and_compare(name, tmp_path):
    case = CASES[name]
    rows, _ = some_rows(made(case, 6), 30, 6)
    rows = torch.cat([torch.zeros(1, 6), rows.clamp(0, 1) if case.edges is PIXELS else rows])
    check_pair(lambda: composed_vae(6, 2, [8], likelihood=case.make(6)), rows, tmp_path)


def saved(name, folder):
    """A file of rows that the likelihood of this name has made."""
    make = likelihoods.LIKELIHOODS[name]
    law = make(visible=6) if "visible" in inspect.signature(make).parameters else make()
    np.save(folder / "rows.npy", some_rows(law, 40, 6)[0].clamp(0 if "beta" in name else -10).numpy())
    return folder / "rows.npy"


@pytest.mark.parametrize("name", CASES)
def test_every_likelihood_by_name(name, tmp_path):
    program = check_name(saved(name, tmp_path), likelihood=name)
    assert type(program.likelihood) is likelihoods.LIKELIHOODS[name]


def test_a_likelihood_on_the_command_line(tmp_path):
    check_command(saved("negative-binomial", tmp_path), tmp_path, likelihood="negative-binomial")
