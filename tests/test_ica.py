"""Noisy ICA: its distance, its guide against closed forms, and whether it finds sources where its peers do."""

import math

import numpy as np
import pyro
import pytest
import torch
import workflow
from oracles import random_linear
from sklearn.decomposition import PCA, FastICA

import pplvae
from pplvae.errors import DataError, ShapeError, UnknownNameError
from pplvae.models import ICA, amari_distance
from pplvae.priors import StandardNormal


def mixed(seed, *, rows=1000, visible=5, noise=0.1, flat=False):
    """Three sources of unit variance, Laplace or uniform, in noise: the mixing matrix and the rows."""
    generator = np.random.default_rng(seed)
    size = (rows, 3)
    h = generator.uniform(-math.sqrt(3), math.sqrt(3), size) if flat else generator.laplace(0, math.sqrt(0.5), size)
    mixing = generator.normal(size=(visible, 3))
    v = h @ mixing.T + noise * generator.normal(size=(rows, visible))
    return torch.tensor(mixing), torch.tensor(v)


def fitted(v, prior):
    """As a user would fit it: fast, then slowly."""
    torch.manual_seed(0)
    ica = ICA.from_rows(v, 3, prior=prior)
    for seed, lr in enumerate((0.02, 0.003)):
        pplvae.fit(ica.model, ica.guide, v, epochs=40, batch_size=100, lr=lr, objective="Trace_ELBO", seed=seed)
    return ica


def distances(ica, v, truth):
    """Amari's distance of ours, of FastICA and of PCA to the truth."""
    fast = FastICA(3, random_state=0, whiten="unit-variance").fit(v.numpy()).mixing_
    components = PCA(3).fit(v.numpy()).components_.T
    found = (ica.mixing.detach(), torch.tensor(fast), torch.tensor(components.copy()))
    return [float(amari_distance(matrix, truth)) for matrix in found]


def textbook_distance(p):
    """Amari's index, element by element."""
    p, n = np.abs(p), len(p)
    rows = sum(sum(p[i, j] / max(p[i]) for j in range(n)) - 1 for i in range(n))
    columns = sum(sum(p[i, j] / max(p[:, j]) for i in range(n)) - 1 for j in range(n))
    return (rows + columns) / (2 * n * (n - 1))


def test_distance_is_the_textbook_one():
    generator = np.random.default_rng(0)
    for _ in range(5):
        found, truth = (generator.normal(size=(4, 4)) for _ in range(2))
        units = [m / np.sqrt((m**2).sum(0)) for m in (found, truth)]
        expected = textbook_distance(np.linalg.inv(units[0]) @ units[1])
        assert float(amari_distance(*map(torch.tensor, (found, truth)))) == pytest.approx(expected, abs=1e-12)


def test_distance_ignores_order_sign_and_scale_of_columns():
    found, truth = torch.randn(6, 3), torch.randn(6, 3)
    distance = amari_distance(found, truth)
    assert 0.01 < float(distance) < 1
    scales = torch.tensor([-0.01, 3.0, 100.0])
    for other in (found[:, [2, 0, 1]], found * scales):
        torch.testing.assert_close(amari_distance(other, truth), distance)
    for other in (truth[:, [1, 0, 2]], truth * scales):
        torch.testing.assert_close(amari_distance(found, other), distance)
    assert float(amari_distance(found, (found * scales)[:, [1, 2, 0]])) < 1e-12


def test_distance_is_at_most_one():
    assert float(amari_distance(torch.eye(4), torch.ones(4, 4))) == pytest.approx(1)


def test_distance_refuses_what_has_none():
    with pytest.raises(ShapeError, match="one shape"):
        amari_distance(torch.eye(3), torch.eye(4))
    with pytest.raises(ShapeError, match="at least two"):
        amari_distance(torch.ones(4, 1), torch.ones(4, 1))
    with pytest.raises(DataError, match="zero"):
        amari_distance(torch.eye(3), torch.diag(torch.tensor([1.0, 0.0, 1.0])))


def test_the_guide_is_the_posterior_of_gaussian_sources():
    """Where the prior is what stands in for it, the guide has no gap: its ELBO is log p(v) of factor analysis."""
    linear, v = random_linear(3, rows=7)
    ica = ICA(linear.visible, linear.latent, prior=StandardNormal(linear.latent)).double()
    with torch.no_grad():
        ica.basis.copy_(linear.factors)
        ica.mean.copy_(linear.mean)
        ica.log_noise.copy_(linear.log_noise)
    q, p = pyro.poutine.trace(ica.guide).get_trace(v).nodes["h"]["fn"], linear.posterior(v)
    torch.testing.assert_close(q.mean, p.mean)
    torch.testing.assert_close(q.covariance_matrix, p.covariance_matrix.expand_as(q.covariance_matrix))
    weights = pplvae.log_weights(ica.model, ica.guide, v)
    torch.testing.assert_close(weights[0], linear.log_evidence(v).detach())


def test_from_rows_is_probabilistic_pca():
    """With Gaussian sources the model it begins with has scikit-learn's likelihood, and a rotation changes nothing."""
    _, v = mixed(0, noise=1.0)
    ica = ICA.from_rows(v, 3, prior=StandardNormal(3))
    found = pplvae.log_weights(ica.model, ica.guide, v).mean()
    assert float(found) == pytest.approx(PCA(3, svd_solver="full").fit(v.numpy()).score(v.numpy()), abs=1e-4)
    torch.testing.assert_close(ica.turn @ ica.turn.T, torch.eye(3))
    assert ICA.from_rows(v.float(), 5).mixing.dtype == torch.float32
    assert ICA.from_rows(v, 5).generate(4).shape == (4, 5)
    with pytest.raises(DataError, match="do not vary"):
        ICA.from_rows(v[:3], 2)


def test_wrong_arguments():
    with pytest.raises(ValueError, match="at most one per column"):
        ICA(3, 4)
    with pytest.raises(UnknownNameError, match="student-t"):
        ICA(3, 2, prior="student")
    with pytest.raises(ShapeError, match="3 columns"):
        ICA(3, 2).model(torch.zeros(2, 4))


@pytest.mark.parametrize("prior", ["independent-mixtures", "laplace", "logistic", "student-t"])
def test_it_is_fitted_saved_and_compared(prior, tmp_path):
    _, v = mixed(1, rows=40)
    workflow.check_pair(lambda: ICA(5, 2, prior=prior), v, tmp_path / "run")


def test_on_the_command_line(tmp_path):
    np.save(tmp_path / "rows.npy", mixed(1, rows=40)[1].numpy())
    workflow.check_command(tmp_path / "rows.npy", tmp_path, model="ica", prior="laplace")


@pytest.mark.statistical
@pytest.mark.parametrize("seed", [0, 1])
def test_it_recovers_the_mixing_matrix(seed):
    truth, v = mixed(seed)
    ours, fast, principal = distances(fitted(v, "laplace"), v, truth)
    assert ours < 0.06
    assert ours < principal / 5
    assert ours < fast + 0.03


@pytest.mark.statistical
def test_flat_sources_need_a_prior_that_can_be_flat():
    truth, v = mixed(2, flat=True)
    ours, fast, principal = distances(fitted(v, "independent-mixtures"), v, truth)
    assert ours < 0.06
    assert ours < principal / 5
    assert ours < fast + 0.03
    assert distances(fitted(v, "laplace"), v, truth)[0] > 0.15
