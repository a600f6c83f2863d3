"""Draws until the standard error that was asked for: how many, which, and what they say, against closed forms."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bad_pair, random_linear

import pplvae
from pplvae import chunking
from pplvae.comparison.chunks import Chunk
from pplvae.comparison.estimates import mean_and_stderr
from pplvae.comparison.precision import Precision, measure_precisely

WANTED = 0.1
NAMES = ("elbo_amortised", "elbo_local", "amortisation_gap")
WITH_EVIDENCE = (*NAMES, "log_evidence", "approximation_gap", "inference_gap")


def too_wide(seed, rows, most=0.6):
    """A linear-Gaussian model, rows, and an encoder that is too wide for each by another factor, up to exp(most)."""
    model, v = random_linear(seed, rows=rows)

    def encode(v):
        mean, scale = model.best_factorised(v)
        widened = most * torch.sigmoid(3 * (v[:, :1] - model.mean[0]))
        return (mean + 0.3 * scale).detach(), (scale * widened.exp()).detach()

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(*encode(v)).to_event(1))

    return model, guide, encode, v


def errors_of(rows, names):
    return np.stack([rows[f"{name}_stderr"].values for name in names])


def exact(model, encode, v, result):
    """What the estimates are estimates of: the local guide is where the search left it."""
    local = result.parameters.sel(guide="local")
    amortised = model.elbo(v, *encode(v))
    own = model.elbo(v, *(torch.tensor(local[name].values) for name in ("h.loc", "h.scale")))
    return {
        "elbo_amortised": amortised,
        "elbo_local": own,
        "amortisation_gap": own - amortised,
        "log_evidence": model.log_evidence(v),
    }


@pytest.mark.statistical
def test_every_row_takes_as_many_draws_as_it_needs_and_they_tell_the_truth():
    scores = {name: [] for name in NAMES}
    for seed in range(4):
        model, guide, encode, v = too_wide(1, rows=60)
        result = pplvae.amortisation_gap(model.model, guide, v, seed=seed, stderr=WANTED)
        rows, truth = result.rows, exact(model, encode, v, result)
        assert (errors_of(rows, NAMES) <= WANTED).all()
        assert set(rows["draws"].values.tolist()) == {200, 400, 800, 1600, 3200}
        for name in NAMES:
            scores[name].append((rows[name].values - truth[name].detach().numpy()) / rows[f"{name}_stderr"].values)
    for name, score in scores.items():
        score = np.concatenate(score)
        assert abs(score.mean()) < 3.5 / np.sqrt(len(score)), name
        assert 0.85 < score.std() < 1.15, name


def test_a_row_says_what_so_many_draws_of_it_say_and_half_would_not_have_been_enough():
    """So draws that are added to those there are the ones that would have been taken at once, paired and mirrored."""
    model, guide, _, v = too_wide(1, rows=30)
    options = {"families": ["full_covariance"], "seed": 3, "max_steps": 25}
    rows = pplvae.compare(model.model, guide, v, stderr=0.06, **options).rows
    counts = np.unique(rows["draws"].values)
    assert len(counts) > 2
    assert counts[0] == 1000
    assert ((errors_of(rows, WITH_EVIDENCE) <= 0.06).all(0) | (rows["draws"].values == 6_400)).all()
    for count in counts.tolist():
        some = rows["draws"].values == count
        at_once = pplvae.compare(model.model, guide, v, particles=count, **options).rows
        names = [name for name in rows if rows[name].dtype.kind == "f"]
        assert {"pareto_k_local", "family_gap_full_covariance", "log_evidence_stderr"} < set(names)
        for name in names:
            np.testing.assert_allclose(rows[name].values[some], at_once[name].values[some], rtol=1e-6, atol=1e-9)
        if count > 1000:
            half = pplvae.compare(model.model, guide, v, particles=count // 2, **options).rows
            assert (errors_of(half, WITH_EVIDENCE)[:, some] > 0.06).any(0).all()


def test_a_family_is_scored_on_the_very_draws_of_the_rows_own_guide():
    model, guide, _, v = too_wide(1, rows=20)
    same = pplvae.Transport("same", lambda elements: {"unused": torch.zeros(())}, lambda lam, x: (x, x[..., 0] * 0))
    options = {"families": [same], "evidence": None, "max_steps": 25, "seed": 5}
    rows = pplvae.compare(model.model, guide, v, stderr=0.05, **options).rows
    assert len(np.unique(rows["draws"])) > 2
    np.testing.assert_allclose(rows["elbo_local_same"], rows["elbo_local"], rtol=1e-9)
    np.testing.assert_allclose(rows["family_gap_same_stderr"], 0, atol=1e-9)


def test_same_seed_same_bits_alone_in_chunks_in_any_order():
    model, guide, _, v = too_wide(1, rows=24)

    def gap(some, **options):
        return pplvae.amortisation_gap(model.model, guide, some, max_steps=25, **options).rows

    whole, order = gap(v), torch.randperm(24)
    assert whole.identical(gap(v))
    assert len(np.unique(whole["draws"])) > 2
    for rows, those in ((gap(v[7:8]), [7]), (gap(v, chunk_size=5), range(24)), (gap(v[order]), order.numpy())):
        expected = whole.isel(row=list(those))
        np.testing.assert_array_equal(rows["draws"], expected["draws"])
        for name in NAMES:
            np.testing.assert_allclose(rows[name], expected[name], rtol=1e-6, atol=1e-9)


def test_rows_that_a_screen_skips_are_precise_too(monkeypatch):
    model, guide, _, v = too_wide(9, rows=40, most=0.8)
    asked, log_weights = [], Chunk.log_weights

    def watched(self, offsets, particles, *, before=0, **options):
        asked.append(before)
        return log_weights(self, offsets, particles, before=before, **options)

    monkeypatch.setattr(Chunk, "log_weights", watched)
    rows = pplvae.compare(model.model, guide, v, screen=0.3, stderr=0.02, evidence=None, max_steps=25).rows
    skipped = rows["status"].values == "skipped"
    assert 5 < skipped.sum() < 35
    assert asked.count(0) == 2  # the amortised guide for the screen, the rows' own for those that are left
    whole = pplvae.amortisation_gap(model.model, guide, v, particles=2000, max_steps=0).rows
    twice = skipped & (rows["draws"].values == 2000)
    assert twice.any()
    np.testing.assert_allclose(rows["elbo_amortised"].values[twice], whole["elbo_amortised"].values[twice], rtol=1e-9)
    assert (rows["elbo_amortised_stderr"].values[skipped] <= 0.02).all()
    enough = (errors_of(rows, NAMES)[:, ~skipped] <= 0.02).all(0)
    assert enough.any()
    assert (enough | (rows["draws"].values[~skipped] == 6_400)).all()


@pytest.mark.statistical
def test_evidence_to_a_standard_error():
    scores = []
    for seed in range(8):
        model, guide, _, v = too_wide(9, rows=40, most=0.3)
        rows = pplvae.log_evidence(model.model, guide, v, stderr=0.01, seed=seed, max_steps=50).rows
        done = rows["draws"].values < 20_000
        assert (rows["log_evidence_stderr"].values[done] <= 0.01).all()
        assert len(np.unique(rows["draws"])) > 1
        error = rows["log_evidence"].values - model.log_evidence(v).detach().numpy()
        scores.append((error / rows["log_evidence_stderr"].values)[done])
    score = np.concatenate(scores)
    # The draws that say "enough" are those that are kept, which costs a fraction of a standard error.
    assert -0.3 < score.mean() < 0.1
    assert 0.85 < score.std() < 1.2


def test_a_row_without_a_finite_error_does_not_wait_for_one():
    model, guide, _, v = too_wide(1, rows=6)

    def breaking(rows):
        with pyro.plate("data", len(rows)):
            h = pyro.sample("h", dist.Normal(torch.zeros(model.latent), 1.0).to_event(1))
            pyro.factor("penalty", torch.where(rows[:, 0] == v[2, 0], -torch.inf, 0.0))
            pyro.sample("v", dist.Normal(h @ model.factors.T, 1.0).to_event(1), obs=rows)

    rows = pplvae.amortisation_gap(breaking, guide, v, max_steps=25).rows
    assert rows["draws"].values[2] == 200
    assert rows["status"].values[2] == "nonfinite"
    assert np.isfinite(np.delete(errors_of(rows, NAMES), 2, axis=1)).all()


def test_one_error_that_is_not_finite_is_enough():
    errors = torch.tensor([[0.2, 0.2, 0.2, 0.05, 0.0], [0.05, torch.nan, torch.inf, 0.1, 0.2]])
    assert Precision(200, stderr=0.1).wanting(errors).tolist() == [True, False, False, False, True]


class Book:
    """Mirrored draws of rows with given spreads of the pair means, and a record of what was asked for."""

    def __init__(self, spreads):
        self.spreads, self.asked = torch.as_tensor(spreads), []
        self.pairs = torch.randn(10_000, len(spreads)) * self.spreads

    def more(self, particles, *, before=0, index):
        self.asked.append((before, particles, index.tolist()))
        pairs = self.pairs[before // 2 : particles // 2, index]
        odd = torch.randn_like(pairs)
        return torch.cat([pairs + odd, pairs - odd])

    def measure(self, precision, start=None):
        def estimates(sample):
            return dict(zip(("elbo", "elbo_stderr"), mean_and_stderr(sample["own"]), strict=True))

        def others(index, sample):
            return {"position": index, "count": torch.full_like(index, len(sample["own"]))}

        return measure_precisely(len(self.spreads), precision, {"own": self.more}, estimates, others, start)


def test_no_draw_is_taken_twice_and_rows_leave():
    book = Book([0.0, 1.2, 0.3, 1.7, 40.0])  # so many hundreds of pairs are needed: 0, 1.44, 0.09, 2.89, 1600
    found = book.measure(Precision(200, stderr=0.1))
    assert found["draws"].tolist() == [200, 400, 200, 800, 6_400]
    assert found["position"].tolist() == [0, 1, 2, 3, 4]
    assert found["count"].tolist() == found["draws"].tolist()
    assert book.asked[:4] == [(0, 200, [0, 1, 2, 3, 4]), (200, 400, [1, 3, 4]), (400, 800, [3, 4]), (800, 1600, [4])]
    assert book.asked[-1] == (3_200, 6_400, [4])
    for row, draws in enumerate(found["draws"]):
        pairs = book.pairs[: draws // 2, row].numpy()
        assert found["elbo"][row] == pytest.approx(pairs.mean(), abs=1e-12)
        assert found["elbo_stderr"][row] == pytest.approx(pairs.std(ddof=1) / np.sqrt(len(pairs)), abs=1e-12)


def test_draws_that_are_there_are_kept():
    book = Book([0.0, 1.2])
    start = {"own": book.more(200, index=torch.arange(2)), "unused": torch.zeros(200, 2)}
    found = book.measure(Precision(200, stderr=0.1), start)
    assert book.asked == [(0, 200, [0, 1]), (200, 400, [1])]
    assert found["draws"].tolist() == [200, 400]


def test_so_many_rows_that_not_all_draws_are_kept_at_once():
    spreads = np.linspace(0.1, 1.5, 450)
    book = Book(spreads)
    found = book.measure(Precision(200, most=20_000, stderr=0.1))
    assert len([asked for asked in book.asked if asked[0] == 0]) == 3
    assert found["position"].tolist() == list(range(450))
    np.testing.assert_allclose(found["elbo_stderr"], spreads / np.sqrt(found["draws"] / 2), rtol=0.3)


def test_exactly_so_many_draws():
    model, guide, v = bad_pair(9, 5)
    rows = pplvae.amortisation_gap(model.model, guide, v, particles=50, stderr=1e-9, max_steps=0).rows
    assert (rows["draws"] == 50).all()
    assert (rows.attrs["particles"], rows.attrs["stderr"]) == (50, "none")
    assert (rows["amortisation_gap_stderr"] == 0).all()  # nothing was moved, and draws are paired
    rows = pplvae.amortisation_gap(model.model, model.exact_guide, v, max_steps=0).rows
    assert (rows["draws"] == 200).all()
    assert (rows.attrs["particles"], rows.attrs["stderr"]) == ("as needed", 0.1)


@pytest.mark.parametrize("stderr", [0.0, -1.0, float("nan")])
def test_a_standard_error_is_above_zero(stderr):
    model, guide, v = bad_pair(9, 4)
    for measure in (pplvae.amortisation_gap, pplvae.compare, pplvae.log_evidence):
        with pytest.raises(ValueError, match="`stderr` is a standard error in nats"):
            measure(model.model, guide, v, stderr=stderr)


def test_scoring_in_pieces_that_fit_the_cache_changes_nothing(monkeypatch):
    model, guide, v = bad_pair(9, 12)
    seen = []

    def watched(rows):
        seen.append(len(rows))
        model.model(rows)

    def scored():
        seen.clear()
        rows = pplvae.amortisation_gap(watched, guide, v, particles=1400, max_steps=0).rows
        return rows, max(count for count in seen if count % 200 == 0)  # others are of the search

    whole, most = scored()
    assert most == 12 * 200  # draws past the 1000th are taken 200 at a time
    row = 8 * v.shape[1]
    monkeypatch.setattr(chunking, "_CPU_BYTES", 3 * 200 * row + 1)
    pieces, most = scored()
    assert most == 3 * 200
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
