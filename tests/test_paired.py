"""Two comparisons of the same rows: SciPy's paired test, pairing by id, and the rates at which verdicts are wrong."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import xarray as xr
from oracles import bad_encoder, random_linear
from scipy import stats
from statistics_ import assert_frequency, assert_within

import pplvae
from pplvae.errors import DataError, UnknownNameError
from pplvae.plots.groups import paired_differences
from pplvae.results.comparison import Comparison
from pplvae.results.paired import compare_runs
from pplvae.statistics.paired import skew_corrected_t
from pplvae.statistics.settings import settings_that_differ


def comparison_of(elbo, gap=None, *, ids=None, parts=None, status=None, keys=None, evidence=None, **settings):
    count = len(elbo)
    gap = np.zeros(count) if gap is None else np.asarray(gap, dtype=float)
    columns = {
        "elbo_amortised": ("row", np.asarray(elbo, dtype=float)),
        "elbo_local": ("row", elbo + gap),
        "amortisation_gap": ("row", gap),
        "status": ("row", np.array(["converged"] * count if status is None else status)),
    }
    if evidence is not None:
        columns["log_evidence"] = ("row", evidence)
    coordinates = {
        "row": np.arange(count) if ids is None else ids,
        "part": ("row", np.array(["test"] * count if parts is None else parts)),
    }
    if keys is not None:
        coordinates["key"] = ("row", np.asarray(keys, dtype=np.int64))
    return Comparison(xr.Dataset(columns, coords=coordinates, attrs=settings))


def pair(differences, **options):
    """A second comparison whose amortised ELBO is higher by the given nats, on rows that differ far more."""
    elbo = np.random.default_rng(9).normal(-90, 25, len(differences))
    return compare_runs(comparison_of(elbo, **options), comparison_of(elbo + differences, **options))


def test_statistics_are_those_of_scipys_paired_test():
    generator = np.random.default_rng(0)
    first, second = generator.normal(-80, 20, 30), generator.normal(-79, 20, 30)
    gaps = generator.lognormal(size=(2, 30))
    paired = compare_runs(comparison_of(first, gaps[0]), comparison_of(second, gaps[1]))
    summary = paired.summary()
    assert summary["term"].values.tolist() == ["elbo_amortised", "elbo_local", "amortisation_gap"]
    for term, difference in (("elbo_amortised", second - first), ("amortisation_gap", gaps[1] - gaps[0])):
        line = summary.sel(part="test", term=term)
        assert float(line["t"]) == pytest.approx(stats.ttest_1samp(difference, 0).statistic)
        assert float(line["mean"]) == pytest.approx(difference.mean())
        assert float(line["stderr"]) == pytest.approx(stats.sem(difference))
        np.testing.assert_allclose(line["quantiles"], np.quantile(difference, line["quantile"]))
    improved = summary["improved"].sel(part="test")
    assert float(improved.sel(term="elbo_amortised")) == (second > first).mean()
    assert float(improved.sel(term="amortisation_gap")) == (gaps[1] < gaps[0]).mean()


def test_p_is_students_where_differences_are_symmetric():
    half = np.random.default_rng(0).exponential(size=20)
    differences = 0.3 + np.concatenate([half, -half])  # skewness 0
    expected = stats.ttest_1samp(differences, 0).pvalue
    line = pair(differences).summary().sel(part="test", term="elbo_amortised")
    assert float(line["p"]) == pytest.approx(expected)
    assert 0.01 < expected < 0.5


def test_pairing_survives_another_order():
    generator = np.random.default_rng(1)
    elbo, ids, parts = generator.normal(size=12), np.arange(12) % 6, ["train"] * 6 + ["test"] * 6
    differences = generator.normal(size=12)
    first = comparison_of(elbo, ids=ids, parts=parts)
    second = comparison_of(elbo + differences, ids=ids, parts=parts)
    shuffled = Comparison(second.rows.isel(row=generator.permutation(12)))
    paired = compare_runs(first, shuffled)
    assert paired.rows.identical(compare_runs(first, second).rows)
    np.testing.assert_allclose(paired.rows["elbo_amortised"], differences)
    np.testing.assert_allclose(paired.differences("test", "elbo_amortised"), differences[6:])


def test_one_part():
    parts = ["train"] * 3 + ["test"] * 3
    first, second = comparison_of(np.zeros(6), parts=parts), comparison_of(np.arange(3.0), ids=[3, 4, 5])
    with pytest.raises(DataError, match=r"3 are missing .* second .train 0, train 1, train 2., 0 from the first"):
        compare_runs(first, second)
    paired = compare_runs(first, second, part="test")
    assert paired.parts == ["test"]
    assert paired.differences("test", "elbo_amortised").tolist() == [0, 1, 2]
    with pytest.raises(UnknownNameError, match="Known: test"):
        compare_runs(first, second, part="train")


def test_rows_must_be_the_same():
    five, keys = np.zeros(5), np.arange(5)
    with pytest.raises(DataError, match=r"1 are missing from the second .test 4., 2 from the first .test 7, test 8"):
        compare_runs(comparison_of(five), comparison_of(np.zeros(6), ids=[0, 1, 2, 3, 7, 8]))
    with pytest.raises(DataError, match=r"0 are missing from the second .none., 1 from the first .test 5"):
        compare_runs(comparison_of(five), comparison_of(np.zeros(6)))
    with pytest.raises(DataError, match="second comparison has rows that share part and id: test 3"):
        compare_runs(comparison_of(five), comparison_of(five, ids=[0, 1, 2, 3, 3]))
    with pytest.raises(DataError, match=r"2 of 5 rows have the same id but not the same content .test 3, test 4"):
        compare_runs(comparison_of(five, keys=keys), comparison_of(five, keys=[0, 1, 2, 30, 40]))
    assert "content was not compared" in str(compare_runs(comparison_of(five, keys=keys), comparison_of(five)))
    assert "content was not" not in str(compare_runs(comparison_of(five, keys=keys), comparison_of(five, keys=keys)))


def test_only_terms_of_both():
    one = comparison_of(np.zeros(4), evidence=np.ones(4))
    assert compare_runs(one, comparison_of(np.zeros(4))).terms == ["elbo_amortised", "elbo_local", "amortisation_gap"]
    both = compare_runs(one, comparison_of(np.zeros(4), evidence=np.zeros(4)))
    assert both.differences("test", "log_evidence").tolist() == [-1] * 4


def test_a_drop_is_seen_and_a_rise_is_not():
    noise = np.random.default_rng(2).normal(0, 0.5, 100)
    worse, better = pair(noise - 0.3), pair(noise + 0.3)
    assert worse.worse()
    assert not better.worse()
    assert not worse.worse(margin=0.3)
    assert pair(noise - 0.6).worse(margin=0.3)
    assert not pair(noise - 0.05).worse()  # a tenth of a standard deviation is within the noise of 100 rows
    with pytest.raises(UnknownNameError, match="term"):
        worse.worse(term="elbo")
    with pytest.raises(UnknownNameError, match="part"):
        worse.worse(part="valid")


def test_a_gap_is_worse_when_it_is_higher():
    gaps = np.random.default_rng(3).lognormal(size=60)
    first, second = comparison_of(np.zeros(60), gaps), comparison_of(np.zeros(60), gaps + 0.2 + 0.1 * np.sin(gaps))
    assert compare_runs(first, second).worse(term="amortisation_gap")
    assert not compare_runs(second, first).worse(term="amortisation_gap")
    assert not compare_runs(first, second).worse(term="elbo_amortised")


def test_the_same_run_twice_is_not_worse():
    paired = pair(np.zeros(10))
    assert not any(paired.worse(term=term) for term in paired.terms)
    line = paired.summary().sel(part="test", term="elbo_amortised")
    assert (float(line["mean"]), float(line["p"]), float(line["improved"])) == (0, 1, 0)
    assert pair(np.full(10, -0.25)).worse(margin=0.125)
    assert not pair(np.full(10, -0.25)).worse(margin=0.5)


def test_one_bad_part_is_enough():
    noise = np.random.default_rng(4).normal(0, 0.5, 80)
    parts = ["train"] * 40 + ["test"] * 40
    paired = pair(noise - np.repeat([0.0, 0.5], 40), parts=parts)
    assert paired.worse()
    assert paired.worse(part="test")
    assert not paired.worse(part="train")


def test_the_size_is_shared_among_parts():
    differences = np.random.default_rng(4).normal(-0.1, 0.5, 40)
    p = float(pair(differences).summary()["p"].sel(part="test", term="elbo_amortised")) / 2
    paired = pair(np.tile(differences, 2), parts=["train"] * 40 + ["test"] * 40)
    assert paired.worse(alpha=1.5 * p, part="test")
    assert not paired.worse(alpha=1.5 * p)
    assert paired.worse(alpha=2.5 * p)


def test_rows_that_are_lost():
    elbo, noise = np.zeros(20), np.random.default_rng(5).normal(size=20)
    ended = np.array(["converged"] * 20)
    lost, skipped = ended.copy().astype("U9"), ended.copy().astype("U9")
    lost[4], skipped[4] = "nonfinite", "skipped"
    first = comparison_of(elbo)
    paired = compare_runs(first, comparison_of(elbo + 5 + noise, status=lost))
    assert paired.worse()
    assert not compare_runs(first, comparison_of(elbo + 5 + noise, status=skipped)).worse()
    assert not compare_runs(comparison_of(elbo, status=lost), comparison_of(elbo + 5 + noise, status=lost)).worse()
    summary = paired.summary().sel(part="test", term="elbo_amortised")
    assert (int(summary["count"]), int(summary["left_out"]), int(summary["lost"])) == (19, 1, 1)
    assert float(summary["mean"]) == pytest.approx(5 + np.delete(noise, 4).mean())
    assert "1 rows that the first could measure ended nonfinite in the second" in str(paired)


def test_verdicts_that_cannot_be_given():
    with pytest.raises(DataError, match="has 1 rows that both could measure"):
        pair(np.zeros(1)).worse()
    with pytest.raises(ValueError, match="margin"):
        pair(np.zeros(5)).worse(margin=-1)
    with pytest.raises(ValueError, match="alpha"):
        pair(np.zeros(5)).worse(alpha=1)
    str(pair(np.zeros(1)))  # a summary of one row has no errors, but is no reason to stop


def test_correction_is_halls():
    values = np.array([0.1, 0.3, -0.2, 2.5, 0.4, 6.0])
    ratio, skewness = values.mean() / values.std(ddof=1), stats.skew(values, bias=False)
    cubic = ((1 + skewness * ratio / 3) ** 3 - 1) / skewness + skewness / 36
    assert skew_corrected_t(values) == pytest.approx(np.sqrt(6) * cubic)
    assert skew_corrected_t(-values) == pytest.approx(-np.sqrt(6) * cubic)
    assert skew_corrected_t(values[:2]) == pytest.approx(stats.ttest_1samp(values[:2], 0).statistic)


@pytest.mark.statistical
@pytest.mark.parametrize("sign", [1, -1])
def test_false_alarms_are_as_rare_as_asked_for(sign):
    """Skewed differences with exactly the mean that may be lost, 2000 times, at 5 %."""
    drawn = np.random.default_rng(6).lognormal(0, 0.7, (2000, 150)) - np.exp(0.7**2 / 2)
    alarms = [stats.t.sf(skew_corrected_t(sign * row), 149) < 0.05 for row in drawn]
    assert_frequency(sum(alarms), 2000, 0.05)
    runs = [pair(0.1 * sign * row - 0.5) for row in drawn[:200]]
    assert_frequency(sum(run.worse(margin=0.5, alpha=0.05) for run in runs), 200, 0.05)


def test_settings_that_differ():
    first, second = (comparison_of(np.zeros(5), seed=seed, particles=100) for seed in (0, 1))
    assert settings_that_differ(first.rows, second.rows) == "seed 0 and 1"
    assert "under different settings: seed 0 and 1." in str(compare_runs(first, second))
    assert "different settings" not in str(compare_runs(first, first))


def test_text():
    text = repr(pair(np.array([0.5, 1.0, 1.5, 2.0])))
    assert "test: 4 rows" in text
    assert "elbo_amortised       +1.250 ± 0.323" in text
    assert "a difference of elbo_local mixes two things" in text


@pytest.mark.parametrize("parts", [1, 2])
def test_figure(parts):
    names = np.repeat(["train", "test"][:parts], 8)
    paired = pair(np.arange(8.0 * parts), parts=names)
    axes = paired_differences(paired)
    shown = [tick.get_text() for tick in axes.get_yticklabels() if tick.get_text()]
    assert shown == ["elbo amortised", "elbo local", "amortisation gap"]
    means = [float(line.get_xdata()[0]) for line in axes.lines if line.get_marker() not in ("", "None")]
    assert means == pytest.approx(paired.summary()["mean"].values.flatten().tolist())


def guide_of(encode):
    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(*encode(v)).to_event(1))

    return guide


def test_two_guides_of_one_model(tmp_path):
    """The exact difference of two encoders' ELBOs, and content that is compared."""
    model, v = random_linear(3, rows=60)
    good, bad = (lambda v: tuple(t.detach() for t in model.best_factorised(v))), bad_encoder(model, 0)
    options = {"particles": 200, "max_steps": 50}
    first, second = (pplvae.amortisation_gap(model.model, guide_of(encode), v, **options) for encode in (good, bad))
    paired = compare_runs(first, pplvae.load_comparison(second.save(tmp_path / "second.nc")))
    exact = (model.elbo(v, *bad(v)) - model.elbo(v, *good(v))).detach().numpy()
    error = paired.differences("rows", "elbo_amortised") - exact
    assert_within(error.mean(), stats.sem(error), degrees=len(error) - 1)
    assert stats.sem(error) < 0.02 * abs(exact.mean())
    assert paired.worse(margin=0.5 * abs(exact.mean()))
    assert not compare_runs(second, first).worse()
    assert paired.rows.attrs["content"] == "compared"
    elsewhere = pplvae.amortisation_gap(model.model, guide_of(good), v + 1, **options)
    with pytest.raises(DataError, match="60 of 60 rows have the same id but not the same content"):
        compare_runs(first, elsewhere)
