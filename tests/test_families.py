"""Taking distributions apart and putting them together."""

import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms as flows
from torch.distributions import transforms

from pplvae.families import bijection, conditional_transforms, free_parameters, map_parameters

ONES = torch.ones(4, 3)
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
    "masked": (dist.Normal(ONES, ONES).mask(torch.arange(3) < 2).to_event(1), ["loc", "scale"]),
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
    changed = (
        map_parameters(fn, move, -1 if len(fn.batch_shape) == 1 else -2).log_prob(value) - fn.log_prob(value)
    ) != 0
    rows = changed.reshape(4, -1).any(1).tolist()
    assert rows == [False, False, bool(names), False]


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
