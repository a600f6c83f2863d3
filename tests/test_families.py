"""Taking distributions apart and putting them together."""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms as flows
from torch.distributions import transforms

from pplvae.likelihoods.multinomial import RowMultinomial
from pplvae.likelihoods.zero_inflated_negative_binomial import LogitZeroInflated
from pplvae.programs.families import bijection, conditional_transforms, free_parameters, map_parameters
from pplvae.programs.transforms import LowerCholeskyAffine

ONES = torch.ones(4, 3)
LOWER = torch.ones(3, 3).tril(-1)
CHOICE = dist.MaskedMixture(
    torch.arange(4) % 2 == 0,
    dist.Normal(ONES, ONES).to_event(1),
    dist.MultivariateNormal(ONES, scale_tril=torch.eye(3).expand(4, 3, 3)),
)
CHOICE_NAMES = ["component0.loc", "component0.scale", "component1.loc", "component1.scale_tril"]
FAMILIES = {
    "Normal": (dist.Normal(ONES, ONES).to_event(1), ["loc", "scale"]),
    "no event": (dist.Normal(ONES, ONES), ["loc", "scale"]),
    "covariance": (
        dist.MultivariateNormal(ONES, covariance_matrix=(torch.eye(3) + 0.3).expand(4, 3, 3)),
        ["loc", "scale_tril"],
    ),
    "precision": (
        dist.MultivariateNormal(ONES, precision_matrix=(torch.eye(3) + 0.3).expand(4, 3, 3)),
        ["loc", "scale_tril"],
    ),
    "low rank": (
        dist.LowRankMultivariateNormal(ONES, torch.ones(4, 3, 2), ONES),
        ["loc", "cov_factor", "cov_diag"],
    ),
    "LogNormal": (dist.LogNormal(ONES, ONES).to_event(1), ["loc", "scale"]),
    "Gamma": (dist.Gamma(ONES, ONES).to_event(1), ["concentration", "rate"]),
    "InverseGamma": (dist.InverseGamma(ONES, ONES).to_event(1), ["concentration", "rate"]),
    "Beta": (dist.Beta(ONES, 2 * ONES).to_event(1), ["concentration1", "concentration0"]),
    "Dirichlet": (dist.Dirichlet(ONES), ["concentration"]),
    "HalfNormal": (dist.HalfNormal(ONES).to_event(1), ["scale"]),
    "StudentT": (dist.StudentT(3 * ONES, ONES, ONES).to_event(1), ["df", "loc", "scale"]),
    "Kumaraswamy": (dist.Kumaraswamy(ONES, ONES).to_event(1), ["concentration1", "concentration0"]),
    "relaxed": (dist.RelaxedOneHotCategorical(torch.tensor(0.5), probs=ONES / 3), ["logits"]),
    "squashed": (
        dist.TransformedDistribution(dist.Normal(ONES, ONES), [transforms.SigmoidTransform()]).to_event(1),
        ["loc", "scale"],
    ),
    "logistic": (
        dist.TransformedDistribution(
            dist.Uniform(0 * ONES, ONES), [transforms.SigmoidTransform().inv, transforms.AffineTransform(ONES, ONES)]
        ).to_event(1),
        ["loc", "scale"],
    ),
    "matrix": (
        dist.TransformedDistribution(
            dist.Uniform(0 * ONES, ONES).to_event(1),
            [transforms.SigmoidTransform().inv, LowerCholeskyAffine(ONES, torch.eye(3).expand(4, 3, 3) + LOWER)],
        ),
        ["loc", "scale_tril"],
    ),
    "one matrix for all rows": (
        dist.TransformedDistribution(
            dist.Uniform(0 * ONES, ONES).to_event(1),
            [transforms.SigmoidTransform().inv, flows.LowerCholeskyAffine(ONES[0], torch.eye(3) + LOWER)],
        ),
        ["loc", "scale_tril"],
    ),
    "matrix around a normal": (
        dist.TransformedDistribution(dist.Normal(ONES, ONES).to_event(1), [LowerCholeskyAffine(ONES, torch.eye(3))]),
        ["loc", "scale"],
    ),
    "mixture": (
        dist.MixtureOfDiagNormals(torch.arange(6.0).reshape(2, 3).expand(4, 2, 3), torch.ones(4, 2, 3), ONES[:, :2]),
        ["locs", "coord_scale", "component_logits"],
    ),
    "choice": (CHOICE, CHOICE_NAMES),
    "choice, expanded": (CHOICE.expand((4,)), CHOICE_NAMES),
    "masked": (dist.Normal(ONES, ONES).mask(torch.arange(3) < 2).to_event(1), ["loc", "scale"]),
    "Binomial": (dist.Binomial(5 * ONES, logits=ONES).to_event(1), ["logits"]),
    "totals by row": (RowMultinomial(torch.arange(2.0, 6.0), ONES), ["logits"]),
    "zero-inflated": (dist.ZeroInflatedPoisson(2 * ONES, gate_logits=-ONES).to_event(1), ["rate", "gate_logits"]),
    "zero-inflated, made of others": (
        LogitZeroInflated(dist.NegativeBinomial(2 * ONES, logits=ONES), gate_logits=ONES).to_event(1),
        ["gate_logits", "total_count", "logits"],
    ),
    "Uniform": (dist.Uniform(0 * ONES, ONES).to_event(1), []),
    "Delta": (dist.Delta(ONES).to_event(1), []),
}


@pytest.fixture(params=FAMILIES, ids=str)
def family(request):
    return FAMILIES[request.param]


def test_names(family):
    fn, names = family
    assert [p.name for p in free_parameters(fn)] == names


def test_through_the_whole_space_and_back(family):
    fn, _ = family

    def there_and_back(p):
        to = bijection(p.constraint)
        return to(to.inv(p.value))

    rebuilt = map_parameters(fn, there_and_back, -1)
    value = fn.sample()
    assert rebuilt.shape() == fn.shape()
    assert rebuilt.event_dim == fn.event_dim
    torch.testing.assert_close(rebuilt.log_prob(value), fn.log_prob(value))


def test_row_axis(family):
    """The rows of every parameter lie where `axis` says: moving row 2 changes the log-probability of row 2 alone."""
    fn, names = family

    def move(p):
        to = bijection(p.constraint)
        free = to.inv(p.value).clone()
        free.movedim(p.axis, 0)[2] += torch.rand_like(free.movedim(p.axis, 0)[2])
        return to(free)

    value = fn.sample()
    moved = map_parameters(fn, move, -1 if len(fn.batch_shape) == 1 else -2)
    changed = (moved.log_prob(value) - fn.log_prob(value)).abs() > 1e-6
    rows = changed.reshape(4, -1).any(1).tolist()
    assert rows == [False, False, bool(names), False]


@pytest.mark.parametrize("name", ["choice", "choice, expanded"])
def test_a_row_has_the_parameters_of_its_own_component(name):
    """Whatever is made of the others neither moves the row nor has a gradient."""
    fn, _ = FAMILIES[name]
    free = torch.zeros(4, requires_grad=True)
    kept = torch.arange(4) % 2 == 0  # rows of component 1

    def move_first(p):
        return p.value + free.reshape(4, *[1] * (p.value.ndim - 1)) if p.name == "component0.loc" else p.value

    value = fn.sample()
    moved = map_parameters(fn, move_first, -1)
    (slope,) = torch.autograd.grad(moved.log_prob(value).sum(), free)
    assert torch.equal(slope == 0, kept)
    assert moved.mask(torch.zeros(4, dtype=torch.bool)).log_prob(value).eq(0).all()


def test_a_component_without_a_density_at_the_draws_of_the_other_does_no_harm():
    fn = dist.MaskedMixture(
        torch.arange(4) % 2 == 0, dist.Beta(ONES, ONES).to_event(1), dist.Normal(ONES, ONES).to_event(1)
    )
    free = torch.zeros(4, 1, requires_grad=True)
    moved = map_parameters(fn, lambda p: p.value + free, -1)
    value = torch.where(torch.arange(4) % 2 == 0, -3.0, 0.5).unsqueeze(1).expand(4, 3)
    (slope,) = torch.autograd.grad(moved.log_prob(value).sum(), free)
    assert torch.isfinite(slope).all()


def test_matrix_affine_has_the_density_of_a_multivariate_normal():
    root = torch.randn(4, 3, 3).tril(-1) + torch.rand(4, 3).add(0.5).diag_embed()
    standard = dist.Normal(torch.zeros(4, 3), torch.ones(4, 3)).to_event(1)
    loc = torch.randn(4, 3)
    mapped = dist.TransformedDistribution(standard, [LowerCholeskyAffine(loc, root).with_cache()])
    value = mapped.sample((5,))
    torch.testing.assert_close(mapped.log_prob(value), dist.MultivariateNormal(loc, scale_tril=root).log_prob(value))


def test_detaching_cuts_the_gradient():
    loc = torch.zeros(4, 3, requires_grad=True)
    fn = dist.Normal(loc, 1.0).to_event(1)
    detached = map_parameters(fn, lambda p: p.value.detach(), -1)
    assert not detached.log_prob(torch.zeros(4, 3)).requires_grad


def test_flows_are_recognised():
    conditioned = flows.conditional_spline(3, context_dim=2).condition(torch.ones(4, 2))
    flow = dist.TransformedDistribution(dist.Normal(ONES, ONES).to_event(1), [conditioned])
    assert conditional_transforms(flow) == ["ConditionedSpline"]
    assert conditional_transforms(FAMILIES["logistic"][0]) == []
    assert conditional_transforms(FAMILIES["matrix"][0]) == []
    choice = dist.MaskedMixture(torch.arange(4) % 2 == 0, FAMILIES["Dirichlet"][0], flow)
    assert conditional_transforms(choice.expand((4,))) == ["ConditionedSpline"]
