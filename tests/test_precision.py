"""Draws for the standard error that was asked for: how many, which, and what they say, against closed forms."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bad_guide, bad_pair, random_linear
from statistics_ import assert_chi_square, assert_spread_is_one, assert_within, of_mean
from torch.distributions import constraints

import pplvae
from pplvae.programs import chunking
from pplvae.programs.estimates import mean_and_stderr
from pplvae.programs.noise import Stream
from pplvae.scoring.precision import FEWEST_DRAWS, FEWEST_PLAIN_DRAWS, Precision
from pplvae.scoring.scores import PILOT_DRAWS
from pplvae.scoring.tables import merged

WANTED = 0.1
NAMES = ("elbo_amortised", "elbo_local", "amortisation_gap")


def too_wide(seed, rows, most=0.6):
    """A linear-Gaussian model, rows, and an encoder that is too wide for each by another factor, up to exp(most).

    Only its scale is free, so that it is no Gaussian to the search, and nothing takes the noise out of its scores.
    """
    model, v = random_linear(seed, rows=rows)

    def encode(v):
        mean, scale = model.best_factorised(v)
        widened = most * torch.sigmoid(3 * (v[:, :1] - model.mean[0]))
        return (mean + 0.3 * scale).detach(), (scale * widened.exp()).detach()

    def guide(v):
        loc, scale = encode(v)
        scale = pplvae.local("scale", scale, constraint=constraints.positive)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, scale).to_event(1))

    return model, guide, encode, v


def errors_of(rows, names):
    return np.stack([rows[f"{name}_stderr"].values for name in names])


def exact(model, encode, v, result):
    """What the estimates are estimates of: the local guide is where the search left it."""
    loc, scale = encode(v)
    amortised = model.elbo(v, loc, scale)
    own = model.elbo(v, loc, torch.tensor(result.parameters["scale"].sel(guide="local").values))
    return {"elbo_amortised": amortised, "elbo_local": own, "amortisation_gap": own - amortised}


@pytest.mark.statistical
def test_every_row_takes_as_many_draws_as_it_needs_and_they_tell_the_truth():
    model, guide, encode, v = too_wide(1, rows=120)
    result = pplvae.amortisation_gap(model.model, guide, v, stderr=WANTED, max_steps=50)
    rows, truth = result.rows, exact(model, encode, v, result)
    assert len(np.unique(rows["draws"])) > 3
    for name in NAMES:
        error, stderr = rows[name].values - truth[name].detach().numpy(), rows[f"{name}_stderr"].values
        # A pilot's error is itself uncertain, which the doubling makes up for on average.
        assert np.sqrt((stderr**2).mean()) < WANTED, name
        assert_within(error.mean(), of_mean(stderr), what=name)
        assert_spread_is_one(error / stderr, degrees=FEWEST_DRAWS // 2 - 1, what=name)


@pytest.mark.statistical
def test_the_pilot_that_decides_is_not_in_the_score():
    """Scores with one long tail: a sample that misses it looks precise, and would be kept where it counted."""
    weight = torch.randn(6, 1)
    variance = (1 / (1 + weight.T @ weight)).squeeze()
    v = torch.randn(2000, 1) @ weight.T + torch.randn(2000, 6)

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h @ weight.T, 1.0).to_event(1), obs=v)

    def guide(v):
        loc = pplvae.local("loc", v @ weight * variance)  # the posterior's, which no search improves on
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, (2.7 * variance).sqrt()).to_event(1))

    rows = pplvae.amortisation_gap(model, guide, v, stderr=WANTED, max_steps=0).rows
    evidence = dist.MultivariateNormal(torch.zeros(6), weight @ weight.T + torch.eye(6)).log_prob(v)
    error = rows["elbo_amortised"].values - (evidence - 0.5 * (1.7 - np.log(2.7))).numpy()
    assert len(np.unique(rows["draws"])) > 2
    assert_within(error.mean(), error.std(ddof=1) / np.sqrt(len(v)))


def test_a_row_says_what_so_many_draws_of_it_say():
    model, guide, _, v = too_wide(1, rows=12)
    options = {"families": ["full_covariance"], "evidence": None, "seed": 3, "max_steps": 25}
    rows = pplvae.compare(model.model, guide, v, stderr=0.06, **options, simulated=0).rows
    counts = np.unique(rows["draws"].values)
    assert len(counts) > 2
    names = [name for name in rows if rows[name].dtype.kind == "f"]
    assert {"family_gap_full_covariance", "amortisation_gap_stderr"} < set(names)
    for count in counts.tolist():
        some = rows["draws"].values == count
        at_once = pplvae.compare(model.model, guide, v, particles=count, **options, simulated=0).rows
        for name in names:
            np.testing.assert_allclose(rows[name].values[some], at_once[name].values[some], rtol=1e-6, atol=1e-9)


def test_evidence_takes_as_many_draws_as_it_needs():
    model, guide, _, v = too_wide(9, rows=10)
    rows = pplvae.log_evidence(model.model, guide, v, stderr=0.008, max_steps=25).rows
    counts = np.unique(rows["draws"].values)
    assert len(counts) > 1
    compared = pplvae.compare(model.model, guide, v, stderr=0.008, max_steps=25, simulated=0).rows
    for count in counts.tolist():
        some = rows["draws"].values == count
        at_once = pplvae.log_evidence(model.model, guide, v, particles=count, max_steps=25).rows
        for name in ("log_evidence", "log_evidence_stderr"):
            np.testing.assert_allclose(rows[name].values[some], at_once[name].values[some], rtol=1e-6, atol=1e-9)
            within = some & (rows["draws"].values <= 6400)  # a comparison takes no more
            np.testing.assert_allclose(
                compared[name].values[within], at_once[name].values[within], rtol=1e-6, atol=1e-9
            )


@pytest.mark.statistical
def test_the_quadratic_part_of_log_p_takes_no_draws():
    """Of a Gaussian guide for a linear-Gaussian model nothing is left to the draws: the ELBO is exact."""
    model, v = random_linear(1, rows=10)
    guide, encode = bad_guide(model, 1)
    rows = pplvae.amortisation_gap(model.model, guide, v, particles=20).rows
    size = float(abs(rows["elbo_amortised"]).max())
    for name, best in (("elbo_amortised", encode(v)), ("elbo_local", model.best_factorised(v))):
        np.testing.assert_allclose(rows[name], model.elbo(v, *best).detach(), rtol=0, atol=1e-6)
        assert float(rows[f"{name}_stderr"].max()) < 1e-13 * size


def test_a_control_variate_that_adds_noise_is_not_used():
    """log p(h) = -0.3 |h| of either latent; its Gauss-Newton curvature is that of a standard normal beside a factor."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.factor("kink", 0.5 * h.square().sum(-1) - 0.3 * h.abs().sum(-1))
            pyro.sample("v", dist.Normal(torch.zeros(1), 1.0).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal((0 * v).expand(-1, 2), 4.0).to_event(1))

    v = torch.randn(40, 1)
    rows = pplvae.amortisation_gap(model, guide, v, particles=1000, max_steps=0).rows
    exact = dist.Normal(0.0, 1.0).log_prob(v[:, 0]) - 2 * (0.3 * 4 * np.sqrt(2 / np.pi) - 0.5 - np.log(4))
    assert_within(rows["elbo_amortised"].values - exact.numpy(), rows["elbo_amortised_stderr"], degrees=499)
    slope, kink = 0.3 * 4, 2 / np.pi
    variance = slope**2 * (1 - kink) + 0.5 - slope * np.sqrt(kink)  # of log p - log q = z² / 2 - 1.2 |z| + ...
    # As it is, the control variate is off by 16 of a curvature of 0: z² / 2 times that.
    size = np.linspace(0, 12, 100_001)
    form = 0.5 * size**2 - slope * size
    weight = np.exp(-0.5 * size**2) / np.exp(-0.5 * size**2).sum()
    tails = (
        (form - weight @ form) ** 4 @ weight
    ) / variance**2 - 3  # excess kurtosis of one latent, twice that of both
    squares = rows["elbo_amortised_stderr"].values ** 2 * 500 / (2 * variance)
    assert_within(squares.mean() - 1, np.sqrt((2 / 499 + 0.5 * tails / 500) / 40))


def test_a_family_is_scored_on_the_very_draws_of_the_rows_own_guide():
    model, guide, _, v = too_wide(1, rows=20)
    same = pplvae.Transport("same", lambda elements: {"unused": torch.zeros(())}, lambda lam, x: (x, x[..., 0] * 0))
    options = {"families": [same], "evidence": None, "max_steps": 25, "seed": 5}
    rows = pplvae.compare(model.model, guide, v, stderr=0.025, **options, simulated=0).rows
    assert len(np.unique(rows["draws"])) > 2
    np.testing.assert_allclose(rows["elbo_local_same"], rows["elbo_local"], rtol=1e-9)
    np.testing.assert_allclose(rows["family_gap_same_stderr"], 0, atol=1e-9)


def test_same_seed_same_bits_alone_in_chunks_in_any_order():
    model, guide, _, v = too_wide(1, rows=12)

    def gap(some, **options):
        return pplvae.amortisation_gap(model.model, guide, some, stderr=0.1, max_steps=25, **options).rows

    whole, order = gap(v), torch.randperm(12)
    assert whole.identical(gap(v))
    assert len(np.unique(whole["draws"])) > 2
    for rows, those in ((gap(v[7:8]), [7]), (gap(v, chunk_size=5), range(12)), (gap(v[order]), order.numpy())):
        expected = whole.isel(row=list(those))
        np.testing.assert_array_equal(rows["draws"], expected["draws"])
        np.testing.assert_array_equal(rows["status"], expected["status"])
        for name in NAMES:
            np.testing.assert_allclose(rows[name], expected[name], rtol=1e-6, atol=1e-9)


def test_rows_that_a_screen_skips_are_precise_too():
    model, guide, _, v = too_wide(9, rows=40, most=0.8)
    rows = pplvae.compare(model.model, guide, v, screen=0.3, stderr=0.02, evidence=None, max_steps=25, simulated=0).rows
    skipped = rows["status"].values == "skipped"
    assert 5 < skipped.sum() < 35
    counts = np.unique(rows["draws"].values[skipped])
    assert len(counts) > 1
    for count in counts.tolist():
        whole = pplvae.amortisation_gap(model.model, guide, v, particles=count, max_steps=0).rows
        some = skipped & (rows["draws"].values == count)
        np.testing.assert_allclose(rows["elbo_amortised"].values[some], whole["elbo_amortised"].values[some], rtol=1e-9)
    enough = rows["draws"].values < 6_400
    assert np.sqrt((rows["elbo_amortised_stderr"].values[skipped & enough] ** 2).mean()) < 0.02
    assert np.sqrt((errors_of(rows, NAMES)[:, ~skipped & enough].max(0) ** 2).mean()) < 0.02


@pytest.mark.statistical
def test_evidence_from_a_rows_own_guide_to_a_standard_error():
    model, guide, _, v = too_wide(9, rows=160, most=0.3)
    rows = pplvae.log_evidence(model.model, guide, v, stderr=0.008, max_steps=25).rows
    assert len(np.unique(rows["draws"])) > 1
    error, stderr = (
        rows["log_evidence"].values - model.log_evidence(v).detach().numpy(),
        rows["log_evidence_stderr"].values,
    )
    # The logarithm of a mean lies below that of its expectation by half its variance.
    assert_within(error.mean(), of_mean(stderr), low=-0.5 * (stderr**2).mean())
    assert_spread_is_one(error / stderr, degrees=499)


def test_a_row_without_a_finite_error_does_not_wait_for_one():
    model, guide, _, v = too_wide(1, rows=6)

    def breaking(rows):
        with pyro.plate("data", len(rows)):
            h = pyro.sample("h", dist.Normal(torch.zeros(model.latent), 1.0).to_event(1))
            pyro.factor("penalty", torch.where(rows[:, 0] == v[2, 0], -torch.inf, 0.0))
            pyro.sample("v", dist.Normal(h @ model.factors.T, 1.0).to_event(1), obs=rows)

    rows = pplvae.amortisation_gap(breaking, guide, v, max_steps=25).rows
    assert rows["draws"].values[2] == FEWEST_PLAIN_DRAWS
    assert rows["status"].values[2] == "nonfinite"
    assert np.isfinite(np.delete(errors_of(rows, NAMES), 2, axis=1)).all()


def test_how_many_draws_an_error_asks_for():
    """Twice the error, four times the draws; one error that is not finite is enough to ask for no more."""
    errors = torch.tensor([[0.2, 0.2, 0.2, 0.05, 0.0, 9.0], [0.05, torch.nan, torch.inf, 0.1, 0.4, 0.1]])
    precision = Precision(100, most=6400, stderr=0.1, pilot=100)
    assert precision.needed(errors).tolist() == [400, 100, 100, 100, 1600, 6400]
    assert Precision(100, most=6400, stderr=0.1, pilot=50).needed(errors).tolist() == [200, 100, 100, 100, 800, 6400]


class Book:
    """Mirrored draws of rows whose pair means have given spreads, and a record of what was asked for."""

    def __init__(self, spreads):
        self.spreads, self.asked = torch.as_tensor(spreads), []
        self.pairs = {stream: torch.randn(10_000, len(spreads)) * self.spreads for stream in Stream}

    def drawn(self, particles, index, stream):
        self.asked.append((stream, particles, index.tolist()))
        pairs = self.pairs[stream][: particles // 2, index]
        odd = torch.randn_like(pairs)
        return torch.cat([pairs + odd, pairs - odd])

    def measure(self, precision):
        """What a comparison does."""
        everyone = torch.arange(len(self.spreads))
        pilot = None if precision.is_exact else columns_of(self.drawn(precision.pilot, everyone, Stream.PILOT))
        groups = []
        for count, index in precision.groups(everyone, pilot):
            sample = self.drawn(count, index, Stream.SCORE)
            counts = {"position": index, "count": torch.full_like(index, len(sample))}
            groups.append((index, {"draws": torch.full_like(index, count)} | columns_of(sample) | counts))
        return merged(groups, len(everyone))


def columns_of(sample):
    return dict(zip(("elbo", "elbo_stderr"), mean_and_stderr(sample), strict=True))


def test_a_pilot_of_all_rows_then_the_draws_of_each():
    book = Book([0.0, 1.2, 0.3, 1.7, 40.0])
    found = book.measure(Precision(200, stderr=0.1))
    assert book.asked[0] == (Stream.PILOT, PILOT_DRAWS, [0, 1, 2, 3, 4])
    pilot = book.pairs[Stream.PILOT][: PILOT_DRAWS // 2].numpy()
    needed = 2 * pilot.var(0, ddof=1) / 0.1**2  # draws that bring the pilot's error down
    expected = [int(min(200 * 2 ** max(0, np.ceil(np.log2(max(n, 1) / 200))), 6400)) for n in needed]
    assert found["draws"].tolist() == expected
    assert expected[0] == 200
    assert expected[4] == 6400
    assert found["position"].tolist() == [0, 1, 2, 3, 4]
    assert found["count"].tolist() == expected
    assert sorted(row for stream, _, rows in book.asked if stream is Stream.SCORE for row in rows) == [0, 1, 2, 3, 4]
    for row, draws in enumerate(found["draws"]):
        pairs = book.pairs[Stream.SCORE][: draws // 2, row].numpy()
        assert found["elbo"][row] == pytest.approx(pairs.mean(), abs=1e-12)
        assert found["elbo_stderr"][row] == pytest.approx(pairs.std(ddof=1) / np.sqrt(len(pairs)), abs=1e-12)


def test_exactly_so_many_draws_need_no_pilot():
    book = Book([0.0, 1.2])
    assert book.measure(Precision(50, 50))["draws"].tolist() == [50, 50]
    assert book.asked == [(Stream.SCORE, 50, [0, 1])]


def test_so_many_rows_that_not_all_draws_are_kept_at_once():
    spreads = np.linspace(0.1, 1.5, 450)
    book = Book(spreads)
    found = book.measure(Precision(200, most=20_000, stderr=0.01))
    asked = [(draws, len(rows)) for stream, draws, rows in book.asked if stream is Stream.SCORE]
    assert max(draws * rows for draws, rows in asked) <= 2**22
    assert len(asked) > len({draws for draws, _ in asked})  # some numbers of draws in several pieces
    assert found["position"].tolist() == list(range(450))
    pairs = found["draws"] / 2
    assert_chi_square((pairs - 1) * pairs * (found["elbo_stderr"] / spreads) ** 2, pairs - 1)


def test_exactly_so_many_draws():
    model, guide, v = bad_pair(9, 5)
    rows = pplvae.amortisation_gap(model.model, guide, v, particles=50, stderr=1e-9, max_steps=0).rows
    assert (rows["draws"] == 50).all()
    assert (rows.attrs["particles"], rows.attrs["stderr"]) == (50, "none")
    rounding = 1e-13 * float(abs(rows["elbo_amortised"]).max())
    assert (rows["amortisation_gap_stderr"] < rounding).all()  # nothing was moved, and draws are paired
    rows = pplvae.amortisation_gap(model.model, model.exact_guide, v, max_steps=0).rows
    assert (rows["draws"] == FEWEST_DRAWS).all()
    assert (rows.attrs["particles"], rows.attrs["stderr"]) == ("as needed", 0.1)


@pytest.mark.parametrize("stderr", [0.0, -1.0, float("nan")])
def test_a_standard_error_is_above_zero(stderr):
    model, guide, v = bad_pair(9, 4)
    for measure in (pplvae.amortisation_gap, pplvae.compare, pplvae.log_evidence):
        with pytest.raises(ValueError, match="`stderr` is a standard error in nats"):
            measure(model.model, guide, v, stderr=stderr)


def test_scoring_in_pieces_that_fit_the_cache_changes_nothing(monkeypatch):
    model, guide, _, v = too_wide(9, rows=4)
    seen = []

    def watched(rows):
        seen.append(len(rows))
        model.model(rows)

    def scored():
        seen.clear()
        rows = pplvae.amortisation_gap(watched, guide, v, particles=1400, max_steps=0).rows
        return rows, max(count for count in seen if count % 200 == 0)  # others are of the search

    whole, most = scored()
    assert most == 4 * 200  # draws past the 1000th are taken 200 at a time
    row = 8 * v.shape[1]
    monkeypatch.setattr(chunking, "_CPU_BYTES", 2 * 200 * row + 1)
    pieces, most = scored()
    assert most == 2 * 200
    for name in NAMES:
        np.testing.assert_allclose(pieces[name], whole[name], rtol=1e-10)
    monkeypatch.setattr(chunking, "_CPU_BYTES", 1)
    assert scored()[1] == 200  # a row goes through, however wide


def test_rows_at_once_counts_every_tensor_and_copy():
    v, observed = torch.zeros(9, 3, 100), torch.zeros(9, 100, dtype=torch.bool)
    row = 3 * 100 * 8 + 100
    assert chunking.rows_at_once([v, observed], 10) == 8 * 2**20 // (10 * row)
    assert chunking.rows_at_once([v[:0], observed[:0]], 10) == 8 * 2**20 // (10 * row)
    assert chunking.rows_at_once([v], 10**9) == 1
    assert chunking.rows_at_once([v.to("meta")], 10) > 30 * chunking.rows_at_once([v], 10)
