"""Noise keyed by row: the right distributions, and numbers that belong to rows."""

import hashlib
import struct

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from conftest import process_state
from scipy import stats
from statistics_ import LEVEL, assert_spread_is_one, assert_within

from pplvae.programs.keys import row_keys
from pplvae.programs.noise import RowNoise, _match_moments, matchable

COUNT = 20_000


def keys(rows=COUNT):
    return row_keys([torch.arange(rows, dtype=torch.float64)])


def test_a_key_is_the_hash_of_a_rows_bytes():
    """In every tensor, one after the other, and whatever the tensors' strides: written out with `struct`."""
    pixels = torch.randn(3, 4, 2, dtype=torch.float32)[:, ::2]
    counts, empty, seen = torch.tensor([3, -1, 2**40]), torch.zeros(3, 0), torch.tensor([True, False, True])
    expected = []
    for i in range(3):
        row = struct.pack("<4fq?", *pixels[i].flatten().tolist(), int(counts[i]), bool(seen[i]))
        expected += struct.unpack("<q", hashlib.blake2b(row, digest_size=8).digest())
    assert row_keys([pixels, counts, empty, seen]).tolist() == expected


def test_no_rows_and_rows_of_nothing_have_keys():
    assert row_keys([torch.zeros(0, 4)]).shape == (0,)
    assert len(row_keys([torch.zeros(3, 0)]).unique()) == 1


FAMILIES = {
    "Normal": (lambda n: dist.Normal(torch.zeros(n), 2.0), stats.norm(0, 2)),
    "LogNormal": (lambda n: dist.LogNormal(torch.zeros(n), 0.5), stats.lognorm(0.5)),
    "Gamma, small": (lambda n: dist.Gamma(torch.full((n,), 0.3), 1.0), stats.gamma(0.3)),
    "Gamma, large": (lambda n: dist.Gamma(torch.full((n,), 7.5), 2.0), stats.gamma(7.5, scale=0.5)),
    "Beta": (lambda n: dist.Beta(torch.full((n,), 0.5), 2.0), stats.beta(0.5, 2)),
    "StudentT": (lambda n: dist.StudentT(torch.full((n,), 3.0)), stats.t(3)),
    "Laplace": (lambda n: dist.Laplace(torch.zeros(n), 1.0), stats.laplace()),
    "Gumbel": (lambda n: dist.Gumbel(torch.zeros(n), 1.0), stats.gumbel_r()),
    "Exponential": (lambda n: dist.Exponential(torch.ones(n)), stats.expon()),
    "Cauchy": (lambda n: dist.Cauchy(torch.zeros(n), 1.0), stats.cauchy()),
    "Uniform": (lambda n: dist.Uniform(torch.zeros(n), 1.0), stats.uniform()),
    "Weibull": (lambda n: dist.Weibull(torch.ones(n), 1.5), stats.weibull_min(1.5)),
    "Kumaraswamy": (lambda n: dist.Kumaraswamy(torch.ones(n), 1.0), stats.uniform()),
}


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["independent", "antithetic"])
@pytest.mark.parametrize("name", FAMILIES)
def test_distribution(name, kind):
    make, truth = FAMILIES[name]
    with RowNoise(keys(COUNT // 2), 2, (1,), kind):
        draws = make(COUNT).rsample()
    half = COUNT // 2  # under mirroring, only one half is independent
    for part in (draws[:half], draws[half:]):
        assert stats.kstest(part.numpy(), truth.cdf).pvalue > LEVEL


def test_dirichlet_mean_and_variance():
    concentration = torch.tensor([0.5, 1.0, 2.5])
    with RowNoise(keys(), 1, (1,)):
        draws = dist.Dirichlet(concentration.expand(COUNT, 3)).rsample().numpy()
    truth = stats.dirichlet(concentration.numpy())
    assert_within(draws.mean(0) - truth.mean(), np.sqrt(truth.var() / COUNT))
    each = stats.beta(concentration.numpy(), concentration.sum().numpy() - concentration.numpy())
    assert_within(draws.var(0) / truth.var() - 1, np.sqrt((each.stats("k") + 2) / COUNT))


def test_gamma_gradient_is_implicit_reparametrisation():
    """dE[h]/da = 1 and dE[h²]/da = 2a + 1 for Gamma(a, 1)."""
    shape = torch.full((COUNT,), 0.7, requires_grad=True)
    with RowNoise(keys(), 1, (2,)):
        draws = dist.Gamma(shape, 1.0).rsample()
    for power, truth in ((1, 1.0), (2, 2 * 0.7 + 1)):
        gradient = torch.autograd.grad((draws**power).sum(), shape, retain_graph=True)[0]
        assert_within(gradient.mean() - truth, gradient.std() / COUNT**0.5)


def test_numbers_belong_to_rows():
    rows = torch.randn(6, 3)
    order = torch.tensor([4, 1, 5])

    def draw(some, particles, address=(0,)):
        with RowNoise(row_keys([some]), particles, address):
            return torch.randn(particles * len(some), 2).reshape(particles, len(some), 2)

    whole = draw(rows, 5)
    assert torch.equal(draw(rows[order], 5), whole[:, order])
    assert torch.equal(draw(rows, 3), whole[:3])
    assert not torch.equal(draw(rows, 5, (1,)), whole)
    assert len(whole.flatten().unique()) == whole.numel()


def test_streams_are_uncorrelated():
    def draw(*address):
        with RowNoise(keys(2000), 5, address):
            return torch.randn(10_000, 3).flatten().numpy()

    series = np.stack([draw(seed, step) for seed in (0, 1) for step in range(10)])
    off_diagonal = (np.corrcoef(series) - np.eye(20))[np.triu_indices(20, 1)] * np.sqrt(series.shape[1])
    assert_within(off_diagonal, 1.0)
    assert_spread_is_one(off_diagonal)


def test_antithetic_draws_mirror():
    with RowNoise(keys(10), 4, (0,), "antithetic"):
        normal, uniform = torch.randn(40, 2), torch.rand(40)
    assert torch.equal(normal[:20], -normal[20:])
    torch.testing.assert_close(uniform[:20], 1 - uniform[20:])


def test_matched_draws_have_unit_moments():
    with RowNoise(keys(3), 40, (0,), "matched"):
        z = torch.randn(120, 4).reshape(40, 3, 4)
    moments = torch.einsum("srk,srl->rkl", z, z) / 40
    torch.testing.assert_close(moments, torch.eye(4).expand(3, 4, 4), atol=1e-10, rtol=0)
    torch.testing.assert_close(z.mean(0), torch.zeros(3, 4), atol=1e-12, rtol=0)


@pytest.mark.parametrize("elements", [2, 10, 50])
def test_few_draws_can_be_matched_in_single_precision(elements):
    draws = 2 * matchable(elements)
    with RowNoise(keys(3), draws, (0,), "matched"):
        z = torch.randn(3 * draws, elements, dtype=torch.float32).reshape(draws, 3, elements)
    moments = torch.einsum("srk,srl->rkl", z, z) / draws
    torch.testing.assert_close(moments, torch.eye(elements, dtype=torch.float32).expand(3, -1, -1), rtol=0, atol=1e-4)


def test_draws_that_cannot_be_matched_have_unit_moments_each():
    z = torch.randn(8, 40, 3)
    z[:, 1:, 2] = z[:, 1:, 1]  # of all rows but the first, as a draw in 10^8 nearly is
    found = _match_moments(z)
    torch.testing.assert_close(found[:, 0].T @ found[:, 0] / 8, torch.eye(3))
    torch.testing.assert_close(found[:, 1:].square().mean(0), torch.ones(39, 3))


def test_mirrored_draws_need_an_even_number():
    with pytest.raises(ValueError, match="even"):
        RowNoise(keys(3), 5, (0,), "antithetic")


def test_global_generator_is_not_used():
    before = process_state()
    with RowNoise(keys(5), 2, (0,)):
        dist.Gamma(torch.ones(10), 1.0).rsample()
        torch.rand(3)  # no axis of rows: the same for every batch
        torch.normal(torch.zeros(10), 1.0)
        torch.randn_like(torch.zeros(10))
    assert process_state()["torch"] == before["torch"]
