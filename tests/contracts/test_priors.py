"""Every prior: of the right shape, it integrates to 1, draws what it says, learns, and can be annealed."""

import inspect
import itertools
import math

import numpy as np
import pytest
import torch
import workflow
from torch.distributions import biject_to

import pplvae
from pplvae.errors import ProgramError, ShapeError
from pplvae.evidence.annealing import Annealing
from pplvae.guides import GUIDES, FactorisedGaussian
from pplvae.models import composed_vae
from pplvae.priors import (
    PRIORS,
    Categorical,
    Flow,
    Gaussian,
    GaussianMixture,
    IndependentMixtures,
    Laplace,
    Logistic,
    StandardNormal,
    StudentT,
    Uniform,
    VampPrior,
)


def vamp(latent):
    return VampPrior(FactorisedGaussian(6, latent, [8]), 6, 5, start=3 * torch.randn(5, 6))


# A new prior is a line here: how to make it from `latent`.
CONTINUOUS = {
    "standard-normal": StandardNormal,
    "gaussian": Gaussian,
    "gaussian-mixture": GaussianMixture,
    "vamp": vamp,
    "flow": Flow,
    "laplace": Laplace,
    "laplace, learned scale": lambda latent: Laplace(latent, learn_scale=True),
    "logistic": Logistic,
    "logistic, learned scale": lambda latent: Logistic(latent, learn_scale=True),
    "student-t": StudentT,
    "student-t, learned scale": lambda latent: StudentT(latent, learn_scale=True),
    "independent-mixtures": IndependentMixtures,
}
BOUNDED = {"uniform": Uniform}  # on the unit cube
DISCRETE = {"categorical": lambda latent: Categorical(latent, 3)}
ALL = CONTINUOUS | BOUNDED | DISCRETE
COMPOSED = sorted(CONTINUOUS.keys() & PRIORS.keys())


@pytest.fixture(params=ALL, ids=str)
def make(request):
    return ALL[request.param]


@pytest.fixture(params=CONTINUOUS, ids=str)
def continuous(request):
    return CONTINUOUS[request.param]


def moved(prior):
    """The prior with parameters that are not those it starts with."""
    with torch.no_grad():
        for parameter in prior.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return prior


def test_every_name_has_a_line():
    assert PRIORS.keys() <= ALL.keys()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_shapes_and_dtype(make, dtype):
    p = make(2).to(dtype)(torch.zeros(7, 5, dtype=dtype))
    h = p.sample()
    assert p.batch_shape == ()
    assert p.event_shape[0] == 2
    assert (h.shape, h.dtype) == (p.event_shape, dtype)
    assert p.sample((4, 3)).shape == (4, 3, *p.event_shape)
    rows = p.expand((5,))
    assert (rows.batch_shape, rows.sample().shape) == ((5,), (5, *p.event_shape))
    for fn in (p, rows):
        log_prob = fn.log_prob(rows.sample())
        assert (log_prob.shape, log_prob.dtype) == ((5,), dtype)


def test_support_is_the_whole_space(continuous):
    """Annealing moves in the coordinates that `biject_to` gives."""
    p = continuous(2)(torch.zeros(1))
    h = p.sample((5,))
    torch.testing.assert_close(biject_to(p.support)(h), h)
    assert biject_to(p.support).log_abs_det_jacobian(h, h).shape == (5,)


def test_integrates_to_one_and_draws_what_it_says(continuous):
    p = moved(continuous(1))(torch.zeros(1))
    grid = torch.linspace(-80, 80, 160_001)
    with torch.no_grad():
        density = p.log_prob(grid.unsqueeze(-1)).exp()
        h = p.sample((20_000,)).squeeze(-1)
    assert float(torch.trapezoid(density, grid)) == pytest.approx(1, abs=1e-6)
    for power in (1, 2):
        moment = float(torch.trapezoid(density * grid**power, grid))
        drawn = h**power
        assert abs(float(drawn.mean()) - moment) < 4 * float(drawn.std()) / math.sqrt(len(h))


def test_total_probability_of_classes_is_one():
    p = moved(Categorical(2, 3))(torch.zeros(1))
    states = torch.eye(3)[torch.tensor([*itertools.product(range(3), repeat=2)])]
    assert float(p.log_prob(states).exp().sum().detach()) == pytest.approx(1, abs=1e-12)
    count = 20_000
    share, probability = p.sample((count,)).mean(0), p.base_dist.probs.detach()
    assert ((share - probability).abs() < 4 * (probability * (1 - probability) / count).sqrt()).all()


def test_gradients_reach_every_parameter(make):
    prior = make(2)
    p = prior(torch.zeros(1))
    log_prob = p.log_prob(p.sample((100,)).detach()).sum()
    assert log_prob.requires_grad == any(True for _ in prior.parameters())
    if log_prob.requires_grad:
        log_prob.backward()
    for name, parameter in prior.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


def test_far_points_stay_finite_in_single_precision(continuous):
    prior = continuous(2).float()
    h = torch.tensor([[1e3, -1e3], [0.0, 0.0], [30.0, -5.0]], dtype=torch.float32, requires_grad=True)
    log_prob = prior(h).log_prob(h)
    log_prob.sum().backward()
    assert log_prob.isfinite().all()
    assert h.grad.isfinite().all()


def test_uniform_is_flat_on_the_unit_cube():
    p = Uniform(2)(torch.zeros(1))
    h = p.sample((1000,))
    assert not p.log_prob(h).any()
    torch.testing.assert_close(biject_to(p.support).inv(h).sigmoid(), h)
    assert abs(float(h.mean()) - 0.5) < 4 / math.sqrt(12 * h.numel())


@pytest.mark.parametrize("make", [Laplace, Logistic, StudentT, IndependentMixtures])
def test_fixed_scales_have_unit_variance(make):
    prior = make(3)
    p = (moved(prior) if make is IndependentMixtures else prior)(torch.zeros(1))
    if make is Logistic:  # Pyro's has no variance
        assert float(p.base_dist.scale[0]) * math.pi / math.sqrt(3) == pytest.approx(1)
    else:
        torch.testing.assert_close(p.variance, torch.ones(3))
        torch.testing.assert_close(p.mean, torch.zeros(3), atol=1e-12, rtol=0)


def test_a_mixture_starts_apart_and_about_standard():
    torch.manual_seed(1)
    prior = GaussianMixture(3, components=200)
    p = prior(torch.zeros(1))
    assert float(torch.pdist(prior.loc.detach()).min()) > 0.01
    torch.testing.assert_close(p.mean, torch.zeros(3), atol=0.3, rtol=0)
    torch.testing.assert_close(p.variance, torch.ones(3), atol=0.3, rtol=0)


@pytest.mark.parametrize("name", GUIDES)
def test_vamp_is_the_mean_of_any_guide(name):
    if "prior" in inspect.signature(GUIDES[name]).parameters:
        with pytest.raises(ValueError, match="made of the model's"):
            composed_vae(6, 2, [8], prior="vamp", guide=name)
        return
    vae = composed_vae(6, 2, [8], prior="vamp", guide=name).double()
    p, q = vae.prior(torch.zeros(1)), vae.family(vae.prior.pseudo_inputs)
    h = p.sample((4,))
    each = torch.stack([q.log_prob(point.expand(50, 2)) for point in h])
    torch.testing.assert_close(p.log_prob(h), each.logsumexp(1) - math.log(50))


def test_vamp_begins_where_it_is_told():
    family, rows = FactorisedGaussian(6, 2, [8]), torch.randn(9, 6)
    prior = VampPrior(family, 6, 4, start=rows)
    assert torch.equal(prior.pseudo_inputs, rows[:4])
    assert prior.pseudo_inputs.data_ptr() != rows.data_ptr()
    for shape in ((3, 6), (9, 5)):
        with pytest.raises(ShapeError, match="`start` must have 6 columns"):
            VampPrior(family, 6, 4, start=torch.zeros(shape))


def test_vamp_refuses_what_is_no_distribution_per_row():
    with pytest.raises(ProgramError, match="one distribution per row"):
        VampPrior(lambda v: StandardNormal(2)(v), 6)(torch.zeros(1))
    family = FactorisedGaussian(6, 2)
    family.sees_rows = True
    with pytest.raises(ProgramError, match="itself made of the prior"):
        VampPrior(family, 6)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: GaussianMixture(2, 0), "at least one"),
        (lambda: IndependentMixtures(2, 1), "two components"),
        (lambda: VampPrior(FactorisedGaussian(6, 2), 6, 0), "at least one"),
        (lambda: StudentT(2, dof=2.0), "more than 2"),
        (lambda: Categorical(2, 1), "two classes"),
    ],
)
def test_nonsense_is_refused(make, text):
    with pytest.raises(ValueError, match=text):
        make()


@pytest.mark.parametrize("name", COMPOSED)
def test_it_is_fitted_saved_and_compared(name, tmp_path):
    def make():
        return composed_vae(6, 2, [8], prior=name)

    program, _ = workflow.check_pair(make, (torch.rand(40, 6) < 0.5).double(), tmp_path / "run")
    torch.manual_seed(0)  # as `check_pair` begins
    before = dict(make().double().prior.named_parameters())
    assert not any(torch.equal(before[key], value) for key, value in program.prior.named_parameters())
    assert program.generate(3).shape == (3, 6)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.npy"
    np.save(path, (np.random.default_rng(0).random((40, 6)) < 0.5).astype(float))
    return path


@pytest.mark.parametrize("name", COMPOSED)
def test_every_prior_by_name(name, file):
    assert type(workflow.check_name(file, prior=name).prior) is type(CONTINUOUS[name](2))


def test_a_prior_on_the_command_line(file, tmp_path):
    workflow.check_command(file, tmp_path, prior="vamp")


@pytest.mark.parametrize("name", ["gaussian-mixture", "flow"])
def test_it_is_annealed_row_by_row(name):
    """From either end, and what a row draws from the prior does not depend on which rows are beside it."""
    torch.manual_seed(0)
    vae, rows = composed_vae(6, 2, [8], prior=name).double(), (torch.rand(8, 6) < 0.5).double()
    for start in ("guide", "prior"):
        settings = Annealing(start=start, particles=4, temperatures=3, leapfrog=1)
        options = {"method": "ais", "annealing": settings, "max_steps": 3}
        whole, part = (pplvae.log_evidence(vae.model, vae.guide, some, **options) for some in (rows, rows[5:]))
        np.testing.assert_allclose(part.rows["log_evidence"], whole.rows["log_evidence"][5:], rtol=1e-9)


def test_a_comparison_anneals_with_a_mixture():
    torch.manual_seed(0)
    vae, rows = composed_vae(6, 2, [8], prior="gaussian-mixture").double(), (torch.rand(2, 6) < 0.5).double()
    result = pplvae.compare(vae.model, vae.guide, rows, evidence="ais", particles=10, max_steps=3, simulated=0)
    assert result.rows["log_evidence"].notnull().all()


@pytest.mark.statistical
@pytest.mark.parametrize("make", [lambda: GaussianMixture(2, 8), lambda: Flow(2, width=16)], ids=["mixture", "flow"])
def test_learning_raises_the_density_of_held_out_latents(make):
    """A ring: nothing lies where a normal, of whatever scale, has its peak."""
    angle = 2 * math.pi * torch.rand(1500)
    ring = torch.stack([angle.cos(), angle.sin()], -1) * math.sqrt(2) + 0.15 * torch.randn(1500, 2)
    train, held_out = ring[:1000], ring[1000:]
    prior = make()
    optimiser = torch.optim.Adam(prior.parameters(), lr=0.02)
    for _ in range(150):
        optimiser.zero_grad()
        (-prior(train).log_prob(train).mean()).backward()
        optimiser.step()
    with torch.no_grad():
        gain = prior(held_out).log_prob(held_out) - StandardNormal(2)(held_out).log_prob(held_out)
    assert float(gain.mean()) > 0.5
    assert float(gain.mean()) > 4 * float(gain.std()) / math.sqrt(len(gain))
