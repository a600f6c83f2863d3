"""Every guide: a distribution of h per row, whose density, gradients and parameters are what they should be."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn
from workflow import check_command, check_name, check_pair

import pplvae
from pplvae.errors import DataError, ProgramError, ShapeError, UnknownNameError
from pplvae.guides import (
    GUIDES,
    ByRow,
    FactorisedGaussian,
    Flow,
    FullCovarianceGaussian,
    IndependentComponents,
    LowRankGaussian,
    MixtureOfGaussians,
    PerRow,
)
from pplvae.guides.inverse_transform import Kumaraswamy, Logistic
from pplvae.models import FactorAnalysis
from pplvae.models.composed import composed_vae
from pplvae.programs.families import free_parameters, map_parameters

HIDDEN = [8]


def rows(count=20, columns=6):
    generator = torch.Generator().manual_seed(0)
    return (torch.rand(count, columns, generator=generator) < 0.5).double()


def by_row(visible, latent):
    return ByRow(
        FactorisedGaussian(visible, latent, HIDDEN),
        IndependentComponents(visible, latent, HIDDEN),
        lambda v: v[:, 0] > 0.5,
    )


# A new guide is a line here, unless it is in GUIDES and needs nothing but `visible`, `latent` and `hidden`.
BY_NAME = sorted(GUIDES.keys() - {"iterative", "semi-amortised"})  # these need the model, and have tests of their own
FAMILIES = {name: lambda visible, latent, name=name: GUIDES[name](visible, latent, HIDDEN) for name in BY_NAME} | {
    "low-rank, 3": lambda visible, latent: LowRankGaussian(visible, latent, HIDDEN, rank=3),
    "logistic sources": lambda visible, latent: IndependentComponents(visible, latent, HIDDEN, "logistic"),
    "student-t sources": lambda visible, latent: IndependentComponents(visible, latent, HIDDEN, "student-t"),
    "per row": lambda visible, latent: PerRow(rows(columns=visible), latent),
    "by row": by_row,
}


@pytest.fixture(params=FAMILIES, ids=str)
def named(request):
    torch.manual_seed(0)
    return request.param, FAMILIES[request.param]


class UnitInterval(nn.Module):
    def forward(self, like):
        return dist.Uniform(like.new_zeros(2), like.new_ones(2)).to_event(1)


def vae(name, make):
    prior = UnitInterval() if "kumaraswamy" in name else "standard-normal"
    return composed_vae(6, 2, HIDDEN, guide=make(6, 2), prior=prior)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("latent", [1, 3])
def test_shapes_and_dtype(named, dtype, latent):
    family, v = named[1](6, latent).to(dtype), rows().to(dtype)
    fn = family(v)
    assert (fn.batch_shape, fn.event_shape) == ((20,), (latent,))
    for draw in (fn.rsample(), fn.sample(), fn()):
        log_q = fn.log_prob(draw)
        assert (draw.shape, draw.dtype, log_q.shape, log_q.dtype) == ((20, latent), dtype, (20,), dtype)
    assert fn.rsample((4,)).shape == (4, 20, latent)
    # The same density from a fresh distribution, which cannot have kept it.
    tolerance = 1e-4 if dtype == torch.float32 else 1e-9
    torch.testing.assert_close(family(v).log_prob(draw.detach()), log_q, rtol=tolerance, atol=tolerance)


def grid(name):
    """Points h and weights dh over the whole support."""
    t = torch.linspace(-30, 30, 20001) if "kumaraswamy" in name else torch.linspace(-6.5, 6.5, 20001)
    h, slope = (t.sigmoid(), t.sigmoid() * (-t).sigmoid()) if "kumaraswamy" in name else (t.sinh(), t.cosh())
    return h, slope * (t[1] - t[0])


@pytest.mark.parametrize("row", [0, 1])
def test_density_integrates_to_one(named, row):
    h, weight = grid(named[0])
    log_q = named[1](6, 1)(rows()[row : row + 1]).log_prob(h.reshape(-1, 1, 1)).flatten()
    assert float((log_q.exp() * weight).sum().detach()) == pytest.approx(1, abs=1e-6)


def answers(family):
    """What the encoder adds last, or the whole table of a guide without one."""
    found = [p for name, p in family.named_parameters() if "encoder.heads" in name and name.endswith("bias")]
    return found or [*family.parameters()]


def gradients_by_draws(fn_of, of, moment, blocks=60, draws=2000):
    flat = []
    for _ in range(blocks):
        value = moment(fn_of().rsample((draws,))).mean()
        flat.append(torch.cat([g.flatten() for g in torch.autograd.grad(value, of, materialize_grads=True)]))
    found = torch.stack(flat)
    return found.mean(0), found.std(0) / blocks**0.5


def check_close(mean, stderr, exact):
    assert float(exact.abs().max()) > 0.01
    assert (mean - exact).abs().max() < 0.1 * exact.abs().max()
    assert ((mean - exact).abs() <= 4 * stderr + 1e-9).all()


@pytest.mark.statistical
def test_gradient_of_draws(named):
    """That of E[h²] with respect to lambda, by draws and by quadrature."""
    family, v = named[1](6, 1), rows()[:1]
    of = answers(family)
    h, weight = grid(named[0])
    exact = (family(v).log_prob(h.reshape(-1, 1, 1)).flatten().exp() * h**2 * weight).sum()
    exact = torch.cat([g.flatten() for g in torch.autograd.grad(exact, of, materialize_grads=True)])
    check_close(*gradients_by_draws(lambda: family(v), of, lambda h: h**2), exact)


class Answers(nn.Module):
    """An encoder that says the same of every row."""

    def __init__(self, *heads):
        super().__init__()
        self.answers = heads

    def forward(self, v):
        return self.answers


@pytest.mark.statistical
def test_gradient_of_a_mixtures_draws_in_two_dimensions():
    """The second dimension moves with the first: E[h1 h2²], by draws and by quadrature."""
    torch.manual_seed(1)
    logits, locs, log_scales = torch.randn(1, 3), torch.randn(1, 3, 2), 0.3 * torch.randn(1, 3, 2)
    of = [t.requires_grad_() for t in (logits, locs, log_scales)]
    family = MixtureOfGaussians(6, 2, [])
    family.encoder = Answers(logits, locs.flatten(1), log_scales.flatten(1))  # pyright: ignore[reportAttributeAccessIssue]
    t = torch.linspace(-9, 9, 401)
    h = torch.cartesian_prod(t, t).unsqueeze(1)
    density = family(rows()[:1]).log_prob(h).flatten().exp() * (t[1] - t[0]) ** 2
    exact = torch.autograd.grad((density * h[:, 0, 0] * h[:, 0, 1] ** 2).sum(), of)
    exact = torch.cat([g.flatten() for g in exact])
    moment = lambda h: h[..., 0] * h[..., 1] ** 2  # noqa: E731
    check_close(*gradients_by_draws(lambda: family(rows()[:1]), of, moment, draws=4000), exact)


def test_taken_apart_and_put_together(named):
    fn = named[1](6, 2)(rows())
    value = fn.sample()
    rebuilt = map_parameters(fn, lambda p: p.value, -1)
    torch.testing.assert_close(rebuilt.log_prob(value), fn.log_prob(value))
    assert bool(free_parameters(fn)) == (named[0] != "flow")  # which names its context instead


@pytest.mark.parametrize("source", ["laplace", "logistic", "student-t"])
def test_the_map_of_independent_components_is_lambda(source):
    """And not the location and scale of the sources, which would leave the mixing alone."""
    fn = IndependentComponents(6, 2, HIDDEN, source)(rows())
    assert [p.name for p in free_parameters(fn)] == ["loc", "scale_tril"]


def test_an_offset_of_zero_is_the_guide(named):
    pair = vae(*named)
    gap = pplvae.amortisation_gap(pair.model, pair.guide, rows(), particles=10, max_steps=0)
    assert (gap.rows["amortisation_gap"] == 0).all()


@pytest.mark.parametrize("name", [*BY_NAME, "per row", "by row"])
def test_every_guide_is_fitted_saved_and_compared(name, tmp_path):
    _, gap = check_pair(lambda: vae(name, FAMILIES[name]), rows(), tmp_path / "run", objective="Trace_ELBO")
    assert (gap.rows["amortisation_gap"] > 0).any()


@pytest.fixture
def file(tmp_path):
    np.save(tmp_path / "rows.npy", rows().numpy().astype("float32"))
    return tmp_path / "rows.npy"


@pytest.mark.parametrize("name", GUIDES)
def test_every_guide_by_name(name, file):
    family = check_name(file, likelihood="bernoulli", guide=name).family
    assert type(family).__name__.lower().startswith(name.replace("-", ""))


def test_a_guide_on_the_command_line(file, tmp_path):
    check_command(file, tmp_path, likelihood="bernoulli", guide="flow")


def guided_by(model, family):
    def guide(v):
        pyro.module("family", family)
        with pyro.plate("data", len(v)):
            pyro.sample("h", family(v))

    return guide


def exact_heads(model):
    """The weight and bias that give the posterior's mean, and its covariance."""
    covariance = model.posterior_precision().inverse()
    weight = covariance @ (model.factors / model.noise.unsqueeze(-1)).T
    return weight, -weight @ model.mean, covariance


def full_covariance_posterior(model):
    family = FullCovarianceGaussian(model.visible, model.latent, [])
    covariance = exact_heads(model)[2]
    free = torch.distributions.transforms.LowerCholeskyTransform().inv(torch.linalg.cholesky(covariance))
    return family, [free.flatten()]  # pyright: ignore[reportOptionalMemberAccess]


def low_rank_posterior(model):
    family = LowRankGaussian(model.visible, model.latent, [], rank=model.latent)
    covariance = exact_heads(model)[2]
    diagonal = 0.5 * torch.linalg.eigvalsh(covariance)[0] * torch.ones(model.latent)
    return family, [torch.linalg.cholesky(covariance - torch.diag(diagonal)).flatten(), 0.5 * diagonal.log()]


@pytest.mark.parametrize("exact", [full_covariance_posterior, low_rank_posterior])
def test_exact_posterior_has_constant_weights(exact):
    torch.manual_seed(0)
    model, v = FactorAnalysis(7, 3), torch.randn(10, 7)
    with torch.no_grad():
        family, biases = exact(model)
        weight, bias, _ = exact_heads(model)
        for head in family.encoder.heads[1:]:
            head.weight.zero_()
        family.encoder.heads[0].weight.copy_(weight)
        for head, value in zip(family.encoder.heads, [bias, *biases], strict=True):
            head.bias.copy_(value)
        weights = pplvae.log_weights(model.model, guided_by(model, family), v, particles=50)
    torch.testing.assert_close(weights, model.log_evidence(v).detach().expand(50, -1), rtol=0, atol=1e-9)


def test_draws_belong_to_rows(named):
    """Whatever a guide draws from, a row's noise does not depend on the rows beside it."""
    pair, v = vae(*named), rows()
    some = [17, 3, 8]
    all_weights = pplvae.log_weights(pair.model, pair.guide, v, particles=3)
    torch.testing.assert_close(pplvae.log_weights(pair.model, pair.guide, v[some], particles=3), all_weights[:, some])


@pytest.mark.parametrize("concentration", [1e-4, 1.0, 1e4])
@pytest.mark.parametrize("other", [1e-4, 1.0, 1e4])
def test_kumaraswamy_stays_inside_in_single_precision(concentration, other):
    log_first, log_second = (torch.full((1000, 1), x, dtype=torch.float32).log() for x in (concentration, other))
    of = [log_first.requires_grad_(), log_second.requires_grad_()]
    fn = Kumaraswamy(log_first.exp(), log_second.exp()).to_event(1)
    draw = fn.rsample()
    loss = fn.log_prob(draw).sum()
    assert ((draw > 0) & (draw < 1)).all()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, of))


def test_kumaraswamy_is_torchs_where_that_is_accurate():
    a, b = (torch.rand(500) * 2 + 0.5 for _ in range(2))
    ours, torchs = Kumaraswamy(a, b), dist.Kumaraswamy(a, b)
    value = torchs.sample()
    torch.testing.assert_close(ours.log_prob(value), torchs.log_prob(value), rtol=1e-9, atol=1e-9)


def test_logistic_draws_are_finite(monkeypatch):
    """Torch's uniforms include 0, too rarely to wait for."""
    monkeypatch.setattr(torch, "rand_like", torch.zeros_like)
    assert torch.isfinite(Logistic(torch.zeros(3), torch.ones(3)).rsample()).all()


def test_flow_keeps_zuko_from_switching_validation_off():
    Flow(6, 2, HIDDEN)
    assert torch.distributions.Distribution._validate_args


@pytest.mark.parametrize("broken", [1, 2])
def test_by_row_wants_one_boolean_per_row(broken):
    chooses = {1: lambda v: v[:, 0], 2: lambda v: v > 0.5}[broken]
    guide = ByRow(FactorisedGaussian(6, 2), FactorisedGaussian(6, 2), chooses)
    with pytest.raises(ProgramError, match=r"one boolean per row, of shape \(20,\)"):
        guide(rows())


def test_by_row_is_each_family_on_its_own_rows():
    guide, v = by_row(6, 2), rows()
    second = v[:, 0] > 0.5
    value = guide(v).sample()
    for family, mine in ((guide.first, ~second), (guide.second, second)):
        torch.testing.assert_close(guide(v).log_prob(value)[mine], family(v[mine]).log_prob(value[mine]))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: IndependentComponents(6, 2, source="laplas"), UnknownNameError, "Did you mean 'laplace'"),
        (lambda: IndependentComponents(6, 2, source="student-t", df=0), ValueError, "`df` must be above 0"),
        (lambda: LowRankGaussian(6, 2, rank=0), ValueError, "FactorisedGaussian"),
        (lambda: MixtureOfGaussians(6, 2, components=0), ValueError, "`components` must be at least 1"),
        (lambda: Flow(6, 2, couplings=0), ValueError, "`couplings` must be at least 1"),
        (lambda: PerRow(torch.ones(3), 2), ShapeError, r"shape \(row, column\)"),
        (lambda: PerRow(torch.full((3, 2), torch.nan), 2), DataError, "NaN"),
    ],
)
def test_what_cannot_be_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def numbered(v):
    """A guide per row that knows which row has which parameters, and those parameters."""
    guide = PerRow(v, 1)
    with torch.no_grad():
        guide.mean.copy_(torch.arange(len(guide.mean)).unsqueeze(1))
    return guide, guide(v).mean[:, 0]


def test_per_row_finds_rows_by_their_content():
    v = torch.randn(50, 4)
    v[7] = v[3]
    v[9, 0] = 0.0
    guide, own = numbered(v)
    assert len(guide.mean) == 49
    assert own[7] == own[3]
    order = torch.randperm(50).repeat(3)
    assert torch.equal(guide(v[order]).mean[:, 0], own[order])
    v[9, 0] = -0.0
    assert torch.equal(guide(v).mean[:, 0], own)


def test_per_row_in_single_precision():
    v = torch.randn(50, 4)
    guide, own = numbered(v)
    assert torch.equal(guide.float()(v.float()).mean[:, 0].double(), own)


def test_per_row_refuses_rows_it_has_not_seen():
    guide = PerRow(rows(), 2)
    with pytest.raises(DataError, match=r"2 of 3 rows \(the first at position 1\).*no encoder"):
        guide(torch.cat([rows()[:1], torch.full((2, 6), 0.5)]))


def test_per_row_tells_rows_of_one_hash_apart(monkeypatch):
    monkeypatch.setattr("pplvae.guides.per_row._keys", lambda v: torch.zeros(len(v), dtype=torch.int64))
    with pytest.raises(DataError, match="same hash"):
        PerRow(torch.randn(3, 2), 2)


def fitted(model, family, v):
    """A family that is fitted to rows of a fixed model: its exact ELBO in nats per row, and the fit."""
    objective = TraceMeanField_ELBO(num_particles=20, vectorize_particles=True, max_plate_nesting=1)
    for epochs, lr in ((100, 0.1), (60, 0.01)):
        fit = pplvae.fit(
            model.model, guided_by(model, family), v, epochs=epochs, lr=lr, batch_size=8, objective=objective
        )
    fn = family(v)
    return float(model.elbo(v, fn.mean, fn.stddev).mean().detach()), fit


@pytest.mark.statistical
def test_per_row_has_no_amortisation_gap_after_fitting():
    """Against the closed form: the best factorised Gaussian of every row. A narrow encoder stays below."""
    torch.manual_seed(0)
    model, v = FactorAnalysis(7, 2).requires_grad_(False).eval(), torch.randn(16, 7)
    best = float(model.elbo(v, *model.best_factorised(v)).mean())
    own, fit = fitted(model, PerRow(v, 2), v)
    amortised, _ = fitted(model, FactorisedGaussian(7, 2, [1]), v)
    assert best - 0.01 < own <= best
    assert amortised < best - 0.1
    gap = pplvae.amortisation_gap(fit.model, fit.guide, v, particles=200, max_steps=100)
    assert float(gap.rows["amortisation_gap"].mean()) == pytest.approx(best - own, abs=0.005)
