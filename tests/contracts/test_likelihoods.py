"""Every likelihood: it takes its heads, sums or integrates to 1, and has a finite gradient at the edges."""

import itertools

import numpy as np
import pytest
import torch
from scipy import integrate

from pplvae.likelihoods import Bernoulli, Gaussian

# A new likelihood is a line here: how to make it, and its support for one column (None: the real line).
LIKELIHOODS = {
    "Bernoulli": (Bernoulli, (0.0, 1.0)),
    "Gaussian": (Gaussian, None),
    "Gaussian, narrow": (lambda: Gaussian(0.2, 0.5), None),
}


@pytest.fixture(params=LIKELIHOODS, ids=str)
def likelihood(request):
    make, support = LIKELIHOODS[request.param]
    return make(), support


def heads(likelihood, rows, columns, scale=1.0):
    generator = torch.Generator().manual_seed(0)
    return [
        (scale * torch.randn(rows, columns, generator=generator, dtype=torch.float64)).requires_grad_()
        for _ in likelihood.heads(columns)
    ]


def test_shapes(likelihood):
    fn = likelihood[0](*heads(likelihood[0], 7, 4))
    assert (fn.batch_shape, fn.event_shape) == ((7,), (4,))
    assert fn.log_prob(fn.sample()).shape == (7,)


def test_total_probability_is_one(likelihood):
    law, support = likelihood
    if support is None:
        fn = law(*heads(law, 1, 1))
        total, _ = integrate.quad(
            lambda x: float(fn.log_prob(torch.tensor([[x]])).exp().detach()), -40, 40, points=[-1, 0, 1], limit=400
        )
    else:
        fn = law(*heads(law, 1, 3))
        points = torch.tensor(list(itertools.product(support, repeat=3)))
        total = float(fn.log_prob(points).exp().sum().detach())
    assert total == pytest.approx(1, abs=1e-6)


def test_extreme_heads_stay_finite(likelihood):
    law, _ = likelihood
    inputs = heads(law, 50, 3, scale=100.0)
    fn = law(*inputs)
    loss = fn.log_prob(fn.sample()).sum()
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, inputs))


def test_gaussian_variance_is_bounded():
    """A perfectly reproduced pixel has a bounded density, however the network pulls."""
    law = Gaussian(0.1, 2.0)
    for free, bound in ((-1e6, 0.1), (1e6, 2.0)):
        fn = law(torch.zeros(1, 1), torch.full((1, 1), free))
        assert float(fn.base_dist.scale) == pytest.approx(bound)
    assert np.exp(float(law(torch.zeros(1, 1), torch.full((1, 1), -1e6)).log_prob(torch.zeros(1, 1)))) < 4
    with pytest.raises(ValueError, match="smallest < largest"):
        Gaussian(1.0, 0.5)
