"""Simulation-based calibration: exact guides pass, wrong ones fail in the right way, and bands have their level."""

import numpy as np
import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import process_state
from oracles import random_linear
from scipy import stats
from statistics_ import assert_within

from pplvae.diagnostics.calibration import LOG_JOINT, _ranks_from, calibrate
from pplvae.plots.diagnostics import calibration_ecdf
from pplvae.statistics.calibration import Compared, latents_of
from pplvae.statistics.uniformity import UniformRanks


def changed_posterior(model, scale=1.0, shift=0.0):
    """The exact posterior, stretched about its mean and moved by so many standard deviations."""

    def guide(v):
        posterior = model.posterior(v)
        deviation = posterior.stddev[0]
        covariance = scale**2 * posterior.covariance_matrix
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.MultivariateNormal(posterior.mean + shift * deviation, covariance_matrix=covariance))

    return guide


def without_log_joint(calibration):
    return calibration.latents.sel(latent=calibration.latents["latent"] != LOG_JOINT)


@pytest.mark.parametrize("seed", [1, 3])
def test_the_exact_posterior_is_calibrated(seed):
    model, v = random_linear(seed, rows=600)
    found = calibrate(model.model, model.exact_guide, v, seed=seed)
    assert found.outside == []
    for latent in found.rows["latent"].values:
        counts = np.histogram(found.rows["rank"].sel(latent=latent), bins=20, range=(-0.5, 199.5))[0]
        assert stats.chisquare(counts).pvalue > 1e-3, latent
    deviation = (found.latents["coverage"] - found.latents["nominal"]) / found.latents["coverage_stderr"]
    assert float(np.abs(deviation).max()) < 4
    assert (found.latents["z_mean"] ** 2 < 16 / 600).sel(latent=without_log_joint(found)["latent"]).all()
    np.testing.assert_allclose(without_log_joint(found)["z_rms"], 1.0, atol=4 * np.sqrt(0.5 / 600))
    covariance = torch.linalg.inv(model.posterior_precision()).detach().numpy()
    np.testing.assert_allclose(without_log_joint(found)["contraction"], 1 - np.diag(covariance), atol=0.1)
    assert "0 of" in str(found)


@pytest.mark.parametrize(
    ("change", "verdict"),
    [
        ({"scale": 0.75}, "too narrow"),
        ({"scale": 1.33}, "too wide"),
        ({"shift": 0.4}, "too high"),
        ({"shift": -0.4}, "too low"),
    ],
)
def test_wrong_guides_fail_in_the_right_direction(change, verdict):
    model, v = random_linear(1, rows=600)
    found = without_log_joint(calibrate(model.model, changed_posterior(model, **change), v))
    assert (found["verdict"] == verdict).all()
    difference, coverage = found["ecdf_difference"], found["coverage"] - found["nominal"]
    below_the_middle, above = difference.sel(point=0.1), difference.sel(point=0.9)
    signs = {"too narrow": (1, -1, -1), "too wide": (-1, 1, 1), "too high": (1, 1, -1), "too low": (-1, -1, -1)}
    for value, sign in zip((below_the_middle, above, coverage.mean("level")), signs[verdict], strict=True):
        assert (np.sign(value) == sign).all()
    # Of z: an error of unit variance and the shift, in units of the guide's width.
    expected = np.sqrt(1 + change.get("shift", 0.0) ** 2) / change.get("scale", 1.0)
    stderr = np.sqrt(0.5 / 600)
    assert_within(found["z_rms"].values / expected - 1, stderr, what="z_rms")


def test_joint_density_shows_what_single_latents_do_not():
    """Right marginals without their correlation, and the prior as a guide: every h has uniform ranks."""
    model, v = random_linear(1, rows=1000)
    with torch.no_grad():
        model.factors[:, 1] = 2 * model.factors[:, 0] + 0.1 * model.factors[:, 1]

    def marginals(v):
        posterior = model.posterior(v)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(posterior.mean, posterior.stddev).to_event(1))

    def prior(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(torch.zeros(model.latent), 1.0).to_event(1))

    for guide in (marginals, prior):
        assert calibrate(model.model, guide, v).outside == [LOG_JOINT]


def coin(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Beta(1.0, 1.0))
        pyro.sample("v", dist.Bernoulli(h), obs=v)


def exact_coin(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Beta(1.0 + v, 2.0 - v))


def test_rows_that_can_only_be_zero_or_one():
    """Six hundred simulated rows of which only two differ: each must have draws of its own."""
    found = calibrate(coin, exact_coin, torch.zeros(1), simulated=600, particles=49)  # few draws, if they were shared
    assert found.latents["count"].values.tolist() == [600, 600]
    assert found.outside == []
    assert found.rows["latent"].values.tolist() == [LOG_JOINT, "h"]


def test_in_pieces_and_alone():
    model, guide, rows = programs.two_latents_in_a_chain()
    whole = calibrate(model, guide, rows, particles=19, seed=2)
    for pieces in (calibrate(model, guide, rows, particles=19, seed=2, chunk_size=size) for size in (1, 5)):
        np.testing.assert_array_equal(pieces.rows["rank"], whole.rows["rank"])
        np.testing.assert_allclose(pieces.rows["z_score"], whole.rows["z_score"], rtol=1e-8)
    alone = calibrate(model, guide, rows[7:8], particles=19, seed=2)
    np.testing.assert_array_equal(alone.rows["rank"][0], whole.rows["rank"][7])
    other = calibrate(model, guide, rows, particles=19, seed=3)
    assert not np.array_equal(other.rows["rank"], whole.rows["rank"])


@pytest.mark.parametrize(("count", "draws", "alpha"), [(100, 99, 0.05), (1000, 199, 0.05), (37, 19, 0.1)])
def test_the_band_has_its_level(count, draws, alpha):
    uniform = UniformRanks.of(count, draws, alpha, seed=0)
    ranks = np.random.default_rng(5).integers(0, draws + 1, size=(2000, count))
    below = np.stack([np.bincount(each, minlength=draws + 1).cumsum()[:-1] for each in ranks])
    lower, upper = uniform.band
    outside = ((below < lower) | (below > upper)).any(1)
    # Never above the level, beyond its errors; ranks are discrete, so below it by one step of the statistic.
    error = 3.5 * np.sqrt(alpha * (1 - alpha) * (1 / 2000 + 1 / 10_000))
    assert alpha - 0.012 - error < outside.mean() < alpha + error
    p_values = np.array([uniform.p_value(b) for b in below])
    np.testing.assert_array_equal(p_values <= alpha, outside)
    for level in (0.2, 0.5):
        assert abs((p_values <= level).mean() - level) < 4.5 * np.sqrt(level * (1 - level) / 2000) + 0.02


def test_the_band_against_an_exact_probability():
    """Three ranks, two points: every outcome can be listed."""
    count, draws, alpha = 12, 2, 0.2
    lower, upper = UniformRanks.of(count, draws, alpha, seed=1).band
    inside = 0.0
    for a in range(count + 1):
        for b in range(a, count + 1):
            if lower[0] <= a <= upper[0] and lower[1] <= b <= upper[1]:
                inside += stats.multinomial(count, [1 / 3] * 3).pmf([a, b - a, count - b])
    narrower = UniformRanks.of(count, draws, 0.5, seed=1).band
    assert 1 - alpha <= inside + 0.01 < 0.95
    assert (narrower[0] >= lower).all()
    assert (narrower[1] <= upper).all()


def test_every_rank_once_is_exactly_uniform():
    below = np.arange(200).reshape(-1, 1)
    zeros = np.zeros((200, 1))
    compared = Compared(
        ["h"], below, zeros, zeros == 0, zeros != 0, stats.norm.ppf((below + 0.5) / 200), zeros, zeros + 1
    )
    ranks = _ranks_from(compared, seed=0).assign_attrs(particles=199, level=0.95, seed=0)
    summary = latents_of(ranks, compared)
    np.testing.assert_allclose(summary["coverage"][0], summary["nominal"], rtol=1e-12)
    np.testing.assert_allclose(summary["ecdf_difference"], 0.0, atol=1e-12)
    assert float(summary["p_value"][0]) == 1.0
    assert summary["verdict"].values.tolist() == ["inside"]


def test_equal_numbers_are_ordered_at_random():
    shape = (4000, 1)
    zeros = np.zeros(shape)
    compared = Compared(["h"], zeros + 3, zeros + 6, zeros == 0, zeros != 0, zeros, zeros, zeros + 1)
    ranks = _ranks_from(compared, seed=0)["rank"].values
    counts = np.bincount(ranks[:, 0].astype(int), minlength=10)
    assert set(np.flatnonzero(counts)) == set(range(3, 10))
    assert stats.chisquare(counts[3:]).pvalue > 1e-3


def test_masked_latents_have_no_rank():
    seen = torch.arange(200).reshape(-1, 1) % 4 != torch.arange(3)
    seen[:, 2] = True

    def model(v, seen):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 3), 1.0).mask(seen).to_event(1))
            pyro.sample("v", dist.Normal(h, 1.0).mask(seen).to_event(1), obs=v)

    def guide(v, seen):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0.5 * v, 0.5**0.5).mask(seen).to_event(1))

    found = calibrate(model, guide, (torch.randn(200, 3), seen))
    assert found.latents["count"].values.tolist() == [200, 150, 150, 200]
    np.testing.assert_array_equal(found.rows["rank"][:, 1:].notnull(), seen)
    assert found.outside == []
    assert (found.latents["lost"] == 0).all()


def test_nan_is_counted_and_no_rank():
    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(torch.where(v > 1.5, torch.nan, 0.5 * v), 0.5**0.5).to_event(1))

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)

    found = calibrate(model, guide, torch.zeros(200, 1))
    lost = int(found.latents["lost"].sel(latent="h[0]"))
    assert 10 < lost < 60
    assert int(found.latents["count"].sel(latent="h[0]")) == 200 - lost
    assert f"{lost} of the simulated rows have no rank" in str(found)


@pytest.mark.parametrize("simulations", [5, 12, 30])
def test_any_number_of_simulations(simulations):
    model, guide, rows = programs.conditional_with_two_tensors()
    found = calibrate(model, guide, rows, simulated=simulations, particles=9)
    template = found.rows["row"].values
    assert len(template) == simulations
    assert len(np.unique(template)) == min(simulations, len(rows[0]))
    assert template.max() >= 9
    assert len(np.unique(found.rows["z_score"], axis=0)) == simulations  # a template taken twice has other noise


def test_nominal_coverage_is_what_the_ranks_allow():
    model, guide, rows = programs.functions_with_pyro_param()
    summary = calibrate(model, guide, rows).latents
    np.testing.assert_allclose(summary["nominal"], summary["level"], rtol=1e-12)
    summary = calibrate(model, guide, rows, particles=10).latents
    np.testing.assert_allclose(summary["nominal"], [1 - 6 / 11, 1 - 2 / 11, 1 - 2 / 11, 1.0])


@pytest.mark.parametrize(
    "program",
    [
        programs.nested_plates,
        programs.auxiliary_latent_with_a_delta,
        programs.bound_methods_with_pyro_module,
        programs.plate_with_size_and_subsample,
        programs.guide_with_noise_of_its_own_and_an_unused_latent,
    ],
    ids=lambda f: f.__name__,
)
def test_programs_of_outsiders(program):
    model, guide, rows = program()
    before = process_state()
    found = calibrate(model, guide, rows, particles=9)
    assert process_state() == before
    assert "idle" not in found.rows["latent"].values  # masked
    assert found.latents["coverage"].notnull().all()
    assert f"{len(found.outside)} of {found.latents.sizes['latent']}" in str(found)


def test_figure_shows_every_latent():
    model, v = random_linear(1, rows=300)
    for guide, outside in ((model.exact_guide, 0), (changed_posterior(model, scale=0.5), 4)):
        found = calibrate(model.model, guide, v)
        assert len(found.outside) == outside
        axes = calibration_ecdf(found)
        curves = [line for line in axes.lines if len(line.get_xdata()) == 201]
        assert len(curves) == model.latent + 1
        assert sum(line.get_label().endswith("too narrow") for line in curves) == (3 if outside else 0)
        band = axes.collections[0].get_paths()[0].vertices
        above = [line.get_ydata().max() > band[:, 1].max() for line in curves]
        assert any(above) == (outside > 0)


@pytest.mark.parametrize("wrong", [{"particles": 8}, {"simulated": 0}, {"level": 1.0}, {"chunk_size": 0}])
def test_arguments_are_checked(wrong):
    model, guide, rows = programs.functions_with_pyro_param()
    with pytest.raises(ValueError, match=next(iter(wrong))):
        calibrate(model, guide, rows, **wrong)
