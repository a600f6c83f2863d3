"""`python -m benchmarks truth`: its truths against plain draws, and a small run of it."""

import numpy as np
import pyro.poutine as poutine
import pytest
import torch

import pplvae
from benchmarks import calibration, convergence, truth, truth_models, truth_modes
from benchmarks.calibration import Errors
from benchmarks.truth_networks import gained, long_search, network
from benchmarks.truth_searches import climbed, funnel_pair, steep_pair
from pplvae.search.shortfall import Shortfall

FEW_ROWS = 6
PAIRS = {
    "linear": lambda: truth_models.linear(5, FEW_ROWS),
    "laplace": lambda: truth_models.linear_laplace(3, FEW_ROWS),
    "nonlinear": lambda: truth_models.nonlinear(FEW_ROWS),
    "bernoulli": lambda: truth_models.bernoulli(FEW_ROWS),
    "poisson": lambda: truth_models.poisson_gamma(FEW_ROWS),
    "heavy": lambda: truth_models.heavy_tailed(FEW_ROWS),
    "discrete": lambda: truth_models.discrete(FEW_ROWS),
    "funnel": lambda: funnel_pair(FEW_ROWS),
    "steep": lambda: steep_pair(FEW_ROWS),
}


def drawn(model, guide, rows, draws):
    """Log p - log q of draws of the guide, by Pyro alone; axes (draw, row)."""
    tiled = rows.repeat(draws, *[1] * (rows.ndim - 1))
    with torch.no_grad():
        q = poutine.trace(guide).get_trace(tiled)
        p = poutine.trace(poutine.replay(model, q)).get_trace(tiled)
    for trace in (p, q):
        trace.compute_log_prob()
    sums = [sum(site["log_prob"] for site in t.nodes.values() if site["type"] == "sample") for t in (p, q)]
    return (sums[0] - sums[1]).reshape(draws, len(rows))


@pytest.mark.parametrize("name", PAIRS)
def test_a_truth_is_what_draws_of_the_programs_say(name):
    pair = PAIRS[name]()
    weights = drawn(pair.model, pair.guide, pair.rows, 20_000)
    error = weights.mean(0) - pair.elbo(pair.encoded)
    assert (error.abs() < 5 * weights.std(0) / len(weights) ** 0.5).all()
    if pair.evidence is None:
        return
    relative = (weights - pair.evidence).exp()
    assert ((relative.mean(0) - 1).abs() < 6 * relative.std(0) / len(weights) ** 0.5 + 1e-9).all()


def test_a_hill_is_climbed_to_its_top():
    made = truth_models.Linear.random(0, FEW_ROWS, 2, 5, 0.5)
    mean, _ = made.posterior()
    start = truth_models.gaussians(mean + 2, torch.ones_like(mean))
    torch.testing.assert_close(climbed(lambda lam: -made.left(lam), start), torch.zeros(FEW_ROWS), rtol=0, atol=1e-7)


def test_a_long_search_ends_at_the_optimum_and_what_it_gained_is_counted():
    made = truth_models.Linear.random(0, FEW_ROWS, 3, 8, 0.7)
    mean, precision = made.posterior()
    v, weight, offset = made.rows, made.weight, made.offset

    def log_joint(h):
        law = truth_models.dist.Normal(h @ weight.T + offset, made.noise)
        return -0.5 * h.square().sum(-1) + law.log_prob(v).sum(-1)

    start = truth_models.gaussians(mean + 0.1, precision.diagonal().rsqrt().expand_as(mean) * 1.2)
    found = long_search(log_joint, start)
    assert made.left(found).max() < 1e-3  # a tenth of the tolerance that it judges
    torch.testing.assert_close(gained(log_joint, start, found), made.left(start) - made.left(found), rtol=0, atol=0.02)


@pytest.fixture(scope="module")
def quick():
    """A small run: errors of every figure, and ends of every group."""
    return calibration.measure(calibration.QUICK, lambda _: None), convergence.measure(convergence.QUICK)


def test_errors_of_a_small_run(quick):
    exact = [errors for errors in quick[0] if not errors.has_noise]
    assert {errors.figure for errors in exact} == set(calibration.FIGURES)  # log p is a quadratic there
    assert all(errors.missed() == "" for errors in exact)
    for errors in quick[0]:
        if errors.has_noise and errors.figure.startswith("log_evidence"):
            count = errors.scores.size
            assert count == errors.nats.size
            assert abs(errors.scores.mean()) < 4 / count**0.5
            # A standard deviation of normals has a relative error of 1 / sqrt(2 count).
            assert abs(errors.scores.std() - 1) < 5 / (2 * count) ** 0.5


def test_ends_of_a_small_run(quick):
    for ends in quick[1]:
        count = ends.converged.sum()
        assert count > 0.9 * len(ends.left)
        assert ends.beyond < 0.05 + 4 * (0.05 / count) ** 0.5
        assert (ends.far_beyond, ends.below) == (0, 0)
        assert (ends.left > -1e-6).all()
        assert ends.missed() == ("" if ends.beyond < 0.05 else "beyond")


@pytest.mark.parametrize("problem", [*truth_modes.PROBLEMS[2:4], truth_modes.PROBLEMS[6], truth_modes.network(1)])
def test_log_evidence_of_several_modes_is_what_draws_of_the_prior_say(problem):
    v = problem.drawn()[:5]
    h = torch.randn(400_000, problem.latents, generator=torch.Generator().manual_seed(0))
    mean = problem.seen(h)
    weights = torch.stack([torch.distributions.Normal(mean, problem.noise).log_prob(row).sum(-1) for row in v])
    share = (weights - weights.max(1, keepdim=True)[0]).exp()
    relative = (share.std(1) / share.mean(1) / len(h) ** 0.5).numpy()
    error = weights.logsumexp(1).numpy() - np.log(len(h)) - problem.log_evidence(v)
    sure = relative < 0.1
    assert sure.any()
    assert (abs(error[sure]) < 5 * relative[sure]).all()


def test_a_page_takes_up_all_tables(quick):
    modes = [truth_modes.line(found) for found in truth_modes.measure(truth_modes.QUICK, with_networks=False)]
    tables = {
        "calibration": truth.calibration_table(quick[0]),
        "convergence": truth.convergence_table(quick[1]),
        "modes": truth.as_markdown(truth_modes.HEAD, modes),
    }
    for text, count in zip(tables.values(), (len(quick[0]), len(quick[1]) + 1, 2), strict=True):
        lines = text.splitlines()
        assert len(lines) == count + 2
        assert len({line.count("|") for line in lines}) == 1
        assert "nan" not in text
    page = "before\n"
    for name in tables:
        page += f"<!-- {name} -->\nold\n<!-- end of {name} -->\nbetween\n"
    found = truth.written(page, tables)
    assert all(text in found for text in tables.values())
    assert (found.count("before"), found.count("between"), found.count("old")) == (1, 3, 0)
    assert truth.written(found, tables) == found
    with pytest.raises(ValueError, match="end of calibration"):
        truth.written("nothing", tables)
    truth.written(truth.PAGE.read_text(), tables)  # the page has a place for each


def test_what_is_missed_is_said():
    """Errors that are twice as large as reported, and off by half of that; rows that are called converged too early."""
    z = torch.randn(50, 60).numpy()
    right = Errors("pair", "elbo_local", 0.1 * (z - z.mean()), np.full_like(z, 0.1))
    assert right.missed() == ""
    assert Errors("pair", "elbo_local", right.nats * 2 + 0.1, right.stderr).missed() == "spread, mean"
    assert Errors("pair", "elbo_local", right.nats, np.zeros_like(z)).missed() == "not exact"
    left, no = np.array([0.0, 0.02, 0.06]), np.zeros(3)
    early = convergence.Ends("group", left < 1, left, no, np.array([0.0, 1.0, -1.0]), no * np.nan)
    assert (early.beyond, early.far_beyond, early.below) == (2 / 3, 1 / 3, 1)
    assert early.missed() == "beyond, 5 times, below encoder"
    assert convergence.Ends("group", left < 0.01, left, no, no, no * np.nan).missed() == ""


def test_rows_whose_shortfall_few_draws_cannot_tell_take_more():
    """A few draws show 0.01 ± 0.01 nats where 0.003 are left: that is no reason to give the answer up."""
    problem = network("Bernoulli", 10, rows=8)
    result = pplvae.amortisation_gap(problem.model, problem.guide, problem.rows, particles=4, seed=0)
    converged = result.rows["status"].values == "converged"
    assert converged.mean() > 0.8
    assert problem.left(calibration.returned(result)).nats.numpy()[converged].max() < 0.05


def test_rows_of_a_steep_decoder_are_not_called_converged_too_soon():
    """Steps of its rows go too far, and few draws miss the step of the decoder: they take one answer for the other."""
    pair = steep_pair(60)
    result = pplvae.amortisation_gap(pair.model, pair.guide, pair.rows, particles=4, seed=0)
    lam = calibration.returned(result)
    assert set(result.rows["status"].values.tolist()) == {"converged"}
    assert (climbed(pair.elbo, lam) - pair.elbo(lam)).max() < 0.01


def test_draws_that_find_less_than_nothing_left_do_not_pass_a_row():
    left = Shortfall(torch.tensor([-0.05, 0.0, 0.001]), torch.tensor([0.02, 0.02, 0.001]))
    assert (left.upper >= 2 * left.stderr).all()
    assert (left.upper >= left.nats + 2 * left.stderr).all()
