"""The climb at fixed nodes: its gradient, and where it ends."""

import pytest
import torch

from pplvae.programs.batch import Batch
from pplvae.search.climb import _NodeElbo, climb
from pplvae.search.density import Density
from pplvae.search.gaussian import Factorised, FullCovariance
from pplvae.search.nodes import nodes_of

ROWS, ELEMENTS = 4, 3


class Skewed(Density):
    """log p with a third and a fourth derivative, in axes that are stretched a thousandfold and turned."""

    def __init__(self):
        turned = torch.linalg.qr(torch.randn(ROWS, ELEMENTS, ELEMENTS))[0]
        self.axes = turned * torch.logspace(0, 1.5, ELEMENTS)

    def _along(self, u, batch):
        return torch.einsum("sre,rek->srk", u, self.axes[batch.positions])

    def value(self, u, batch):
        along = self._along(u, batch)
        return (along - 0.4 * along.exp() - 0.3 * along.square() - 0.02 * along**4).sum(-1)

    def slope(self, u, batch):
        u = u.detach().requires_grad_()
        with torch.enable_grad():
            return torch.autograd.grad(self.value(u, batch).sum(), u)[0]


def problem(family):
    density, batch = Skewed(), Batch.of((torch.randn(ROWS, 2),))
    known = density.axes @ density.axes.mT
    mean = 0.1 * torch.randn(ROWS, ELEMENTS)
    precision = known.diagonal(dim1=-2, dim2=-1) if family is Factorised else known
    gaussians = family(mean, 3 * precision)
    return density, gaussians, known, batch, nodes_of(gaussians, batch, 64, (0, 1), "matched")


@pytest.mark.parametrize("family", [Factorised, FullCovariance])
def test_the_gradient_is_that_of_the_value(family):
    density, gaussians, known, batch, nodes = problem(family)
    elbo, rows = _NodeElbo(density, gaussians, known, batch, nodes), torch.arange(ROWS)
    place = 0.3 * torch.randn_like(elbo.start())
    gradient = elbo.gradient(place, rows)
    for k in range(place.shape[1]):
        step = torch.zeros_like(place).index_fill(1, torch.tensor([k]), 1e-5)
        slope = (elbo.value(place + step, rows) - elbo.value(place - step, rows)) / 2e-5
        torch.testing.assert_close(gradient[:, k], slope, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("family", [Factorised, FullCovariance])
def test_zero_is_where_it_began(family):
    density, gaussians, known, batch, nodes = problem(family)
    elbo = _NodeElbo(density, gaussians, known, batch, nodes)
    began = elbo.gaussians(elbo.start())
    torch.testing.assert_close(began.mean, gaussians.mean)
    torch.testing.assert_close(began.precision, gaussians.precision)


@pytest.mark.parametrize("family", [Factorised, FullCovariance])
def test_it_ends_where_nothing_is_left_at_these_nodes_and_soon(family):
    density, gaussians, known, batch, nodes = problem(family)
    found, rows = gaussians.copy(), torch.arange(ROWS)
    before = _NodeElbo(density, gaussians, known, batch, nodes)
    began = before.value(before.start(), rows)
    steps = climb(density, found, known, batch, nodes, 1e-4, 200)
    after = _NodeElbo(density, found, known, batch, nodes)
    place = after.start()
    assert (after.value(place, rows) > began).all()
    gradient = after.gradient(place, rows)
    assert gradient.square().sum(1).max() < 1e-4  # about twice what is left
    assert steps.max() <= 30


def test_rows_do_not_meet():
    density, gaussians, known, batch, nodes = problem(FullCovariance)
    together, alone = gaussians.copy(), gaussians.take(slice(2, 3))
    climb(density, together, known.clone(), batch, nodes, 1e-3, 200)
    climb(density, alone, known[2:3].clone(), batch.take(slice(2, 3)), nodes.take(torch.tensor([2])), 1e-3, 200)
    torch.testing.assert_close(together.mean[2:3], alone.mean, rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(together.precision[2:3], alone.precision, rtol=1e-9, atol=0)
