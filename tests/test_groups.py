"""Gaps by group: closed forms, SciPy's own tests, and the rates at which intervals and flags are wrong."""

import numpy as np
import pytest
import torch
import xarray as xr
from scipy import stats
from statistics_ import LEVEL, assert_frequency

from pplvae.errors import DataError, ShapeError, UnknownNameError
from pplvae.plots.groups import gaps_by_group
from pplvae.results.comparison import Comparison
from pplvae.results.groups import gap_by_group as groups_of
from pplvae.statistics.groups import _welch_t, holm, mean_interval, sentences_of


def comparison_of(gaps, labels=None, *, status=None, parts=None):
    count = len(gaps)
    columns = {
        "amortisation_gap": ("row", np.asarray(gaps, dtype=float)),
        "elbo_amortised": ("row", -np.asarray(gaps, dtype=float)),
        "status": ("row", np.array(["converged"] * count if status is None else status)),
    }
    coordinates = {"row": np.arange(count), "part": ("row", np.array(["test"] * count if parts is None else parts))}
    if labels is not None:
        coordinates["label"] = ("row", np.asarray(labels))
    return Comparison(xr.Dataset(columns, coords=coordinates))


def gap_by_group(*arguments, **options):
    return groups_of(*arguments, **options).summary()


def skewed(seed, groups, rows, *, spread=0.9, bad=1.0):
    """Log-normal gaps in equal groups; those of group 3 multiplied."""
    labels = np.repeat(np.arange(groups), rows)
    gaps = np.random.default_rng(seed).lognormal(0, spread, groups * rows)
    return comparison_of(np.where(labels == 3, bad * gaps, gaps), labels)


def test_table():
    a, b, c = np.array([1.0, 2, 4]), np.array([0.5, 3, 3, 9]), np.array([7.0, 8])
    order = np.random.default_rng(0).permutation(9)
    gaps, labels = np.concatenate([a, b, c]), np.repeat(["a", "b", "c"], [3, 4, 2])
    groups = gap_by_group(comparison_of(gaps[order], labels[order]))
    assert groups["group"].values.tolist() == ["a", "b", "c"]
    assert groups["count"].values.tolist() == [3, 4, 2]
    np.testing.assert_allclose(groups["mean"], [a.mean(), b.mean(), c.mean()])
    np.testing.assert_allclose(groups["stderr"], [stats.sem(a), stats.sem(b), stats.sem(c)])
    others = np.concatenate([a, c])
    line = groups.sel(group="b")
    assert float(line["difference"]) == pytest.approx(b.mean() - others.mean())
    welch = stats.ttest_ind(b, others, equal_var=False)
    assert float(line["difference"] / line["difference_stderr"]) == pytest.approx(welch.statistic)
    assert (float(line["low"]), float(line["high"])) == pytest.approx(stats.t.interval(0.95, 3, b.mean(), stats.sem(b)))
    assert groups.attrs["mean"] == pytest.approx(gaps.mean())
    assert groups["mean"].attrs["units"] == "nats"


def test_p_is_that_of_all_permutations():
    generator = np.random.default_rng(1)
    first, second = generator.lognormal(0, 1, 5), generator.lognormal(0.8, 0.5, 8)

    def welch(x, y, axis=-1):
        return stats.ttest_ind(x, y, equal_var=False, axis=axis).statistic

    exact = stats.permutation_test((first, second), welch, vectorized=True, n_resamples=np.inf).pvalue
    order = generator.permutation(13)
    groups = gap_by_group(comparison_of(np.concatenate([first, second])[order], np.repeat([0, 1], [5, 8])[order]))
    assert 0.005 < exact < 0.9  # below 1, where p is cut off
    many = groups.attrs["permutations"]
    hits = np.rint(groups["p"].values * (1 + many) / 2) - 1  # p is twice one tail, in which the rows' own order counts
    assert_frequency(hits, many, exact / 2)


def test_statistic_is_welchs():
    values, sizes = np.random.default_rng(4).lognormal(size=12), np.array([3, 4, 5])
    starts = [0, 3, 7]
    found = _welch_t(np.add.reduceat(values, starts), np.add.reduceat(values**2, starts), sizes)
    groups = np.split(values, starts[1:])
    for i, statistic in enumerate(found):
        others = np.concatenate([group for j, group in enumerate(groups) if j != i])
        assert statistic == pytest.approx(stats.ttest_ind(groups[i], others, equal_var=False).statistic)
    assert _welch_t(np.zeros(2), np.zeros(2), np.array([3, 3])).tolist() == [0, 0]


def test_holm_by_hand():
    # 4 × 0.005, 3 × 0.01, 2 × 0.03, then 1 × 0.04, which may not be below its predecessor.
    np.testing.assert_allclose(holm(np.array([0.01, 0.04, 0.03, 0.005])), [0.03, 0.06, 0.06, 0.02])
    np.testing.assert_allclose(holm(np.array([0.6, 0.9])), [1.0, 1.0])


def test_holm_counts_the_groups_tested():
    groups = gap_by_group(skewed(0, 5, 12))
    p = groups["p"].values
    np.testing.assert_allclose(groups["p_holm"], holm(p))
    assert (groups["p_holm"].values[p < 0.2] > p[p < 0.2]).all()


@pytest.mark.statistical
@pytest.mark.parametrize("kind", ["normal", "log-normal"])
def test_intervals_hold_the_mean_as_often_as_they_say(kind):
    generator = np.random.default_rng(2)
    values = generator.normal(size=(600, 30)) if kind == "normal" else generator.lognormal(0, 0.7, (600, 100))
    truth = 0.0 if kind == "normal" else np.exp(0.7**2 / 2)
    ends = np.array([mean_interval(row, 0.9, seed=i) for i, row in enumerate(values)])
    assert_frequency(((ends[:, 0] < truth) & (truth < ends[:, 1])).sum(), 600, 0.9)


@pytest.mark.statistical
def test_intervals_reach_further_towards_the_tail_than_students():
    values = np.random.default_rng(3).lognormal(0, 0.9, (800, 20))
    truth = np.exp(0.9**2 / 2)
    ours = np.array([mean_interval(row, 0.95)[1] >= truth for row in values])
    students = np.array([stats.t.interval(0.95, 19, row.mean(), stats.sem(row))[1] >= truth for row in values])
    better, worse = (ours & ~students).sum(), (~ours & students).sum()
    assert stats.binom.sf(better - 1, better + worse, 0.5) < LEVEL


def test_interval_of_equal_values():
    assert mean_interval(np.full(12, 0.3), 0.95) == pytest.approx((0.3, 0.3))
    # Eleven zeros and a one: many resamples have no spread, hence no t.
    low, high = mean_interval(np.eye(12)[0], 0.95)
    assert np.isfinite([low, high]).all()
    assert low < 1 / 12 < high


@pytest.mark.statistical
def test_nothing_is_flagged_where_there_is_nothing():
    """In 200 data sets of 6 equal groups, some group is flagged in 5 % (by Welch's test: in 20 %)."""
    flagged = sum(bool(gap_by_group(skewed(seed, 6, 12, spread=1.2))["differs"].any()) for seed in range(200))
    assert_frequency(flagged, 200, 0.05)


@pytest.mark.statistical
def test_a_bad_group_is_found():
    found = [gap_by_group(skewed(seed, 6, 40, bad=2.5)) for seed in range(20)]
    hits = [bool(groups["differs"].sel(group=3)) for groups in found]
    assert np.mean(hits) > 0.8
    groups = found[hits.index(True)]
    line = groups.sel(group=3)
    first = sentences_of(groups)[0]
    assert first.startswith(f"Class 3 (n = 40) loses {float(line['mean']):.2f} ± {float(line['stderr']):.2f} nats per ")
    assert f"{float(line['difference']):.2f} more than the other rows (Holm-adjusted p ≤ 0.0012)" in first


def test_sentences_name_the_largest_loss_first():
    gaps = np.concatenate([np.linspace(0.9, 1.1, 20) + shift for shift in (0, 0, 3, 0)])
    comparison = comparison_of(gaps, np.repeat(["a", "b", "c", "d"], 20))
    sentences = sentences_of(gap_by_group(comparison), noun="Group", most=2)
    assert sentences[0].startswith("Group c (n = 20) loses 4.000 ± 0.014 nats per row, 3.000 more than the other rows")
    assert "(n = 20) loses 1.000 ± 0.014 nats per row, 1.000 less than the other rows" in sentences[1]
    assert sentences[2:] == ["2 further groups differ from the other rows as well."]
    by_elbo = sentences_of(gap_by_group(comparison, term="elbo_amortised"))
    assert by_elbo[0].startswith(
        "Class c (n = 20) has a mean elbo amortised of -4.000 ± 0.014 nats per row, 3.000 less"
    )


def test_sentence_where_nothing_differs():
    (sentence,) = sentences_of(gap_by_group(skewed(0, 4, 15)))
    assert sentence.startswith("Of 4 groups, none was shown to differ from the other rows at the 5 % level")


def test_rows_without_a_gap_are_left_out_and_counted():
    gaps = [1.0, 2, 3, np.nan, 50, 60, 7, 8]
    status = ["converged"] * 4 + ["nonfinite", "skipped", "max_steps", "converged"]
    groups = gap_by_group(comparison_of(gaps, [0, 0, 0, 0, 1, 1, 1, 1], status=status))
    assert groups["mean"].values.tolist() == [2.0, 7.5]
    assert groups["count"].values.tolist() == [3, 2]
    assert groups["left_out"].values.tolist() == [1, 2]
    assert "3 rows without a finite value are left out." in sentences_of(groups)


def test_small_groups_say_so():
    groups = gap_by_group(comparison_of([1.0, 2, 3, 4, 5], ["a", "a", "b", "b", "alone"]))
    alone = groups.sel(group="alone")
    assert all(np.isnan(float(alone[name])) for name in ("mean", "stderr", "low", "high", "difference", "p", "p_holm"))
    assert not bool(alone["differs"])
    assert np.isfinite(groups["p_holm"].sel(group=["a", "b"])).all()
    assert any("fewer than 2 rows" in line and line.endswith("alone.") for line in sentences_of(groups))


def test_a_single_group_has_nothing_to_be_compared_with():
    groups = gap_by_group(comparison_of(np.arange(12.0), np.zeros(12, int)))
    assert float(groups["mean"][0]) == 5.5
    assert np.isnan(float(groups["p"][0]))
    assert sentences_of(groups) == ["There are no other rows to compare this group with."]


@pytest.mark.parametrize("noise", [0.0, 1e-15])
def test_no_gap_at_all(noise):
    gaps = 0.3 + noise * np.random.default_rng(0).normal(size=40)
    groups = gap_by_group(comparison_of(gaps, np.repeat([0, 1], 20)))
    assert not groups["differs"].any()
    assert (groups["p"] > 0.01).all()


def test_labels_of_every_kind():
    gaps = np.arange(6.0)
    expected = gap_by_group(comparison_of(gaps, [0, 0, 0, 1, 1, 1]))
    assert gap_by_group(comparison_of(gaps), torch.tensor([0, 0, 0, 1, 1, 1])).equals(expected)
    mixed = gap_by_group(comparison_of(gaps), np.array(["x", "x", 7, 7, None, None], dtype=object))
    assert mixed["group"].values.tolist() == ["7", "x"]
    assert mixed.attrs["unlabelled"] == 2
    assert "2 rows without a label are left out." in sentences_of(mixed)
    missing = gap_by_group(comparison_of(gaps), [0.0, 0, 1, 1, np.nan, np.nan])
    assert missing["mean"].values.tolist() == [0.5, 2.5]


def test_parts():
    gaps, labels, parts = [1.0, 2, 3, 4, 9, 9, 9, 9], [0, 0, 1, 1] * 2, ["train"] * 4 + ["test"] * 4
    comparison = comparison_of(gaps, labels, parts=parts)
    assert gap_by_group(comparison, part="train")["mean"].values.tolist() == [1.5, 3.5]
    pooled = gap_by_group(comparison, labels=comparison.rows["part"])
    assert pooled["mean"].values.tolist() == [9.0, 2.5]
    assert pooled.attrs["part"] == "train, test"


def test_refusals():
    comparison = comparison_of(np.arange(4.0))
    with pytest.raises(DataError, match="have no labels"):
        gap_by_group(comparison)
    with pytest.raises(ShapeError, match=r"shape \(4,\), got \(3,\)"):
        gap_by_group(comparison, [0, 1, 2])
    with pytest.raises(DataError, match="None of the 4 rows"):
        gap_by_group(comparison, [None] * 4)
    with pytest.raises(UnknownNameError, match="Did you mean 'amortisation_gap'"):
        gap_by_group(comparison, [0, 0, 1, 1], term="amortization_gap")
    with pytest.raises(UnknownNameError, match="term"):
        gap_by_group(comparison, [0, 0, 1, 1], term="status")
    with pytest.raises(UnknownNameError, match="part"):
        gap_by_group(comparison, [0, 0, 1, 1], part="valid")
    with pytest.raises(ValueError, match="level"):
        gap_by_group(comparison, [0, 0, 1, 1], level=95)


def test_the_seed_names_the_answer_and_no_generator_is_touched():
    comparison = skewed(0, 3, 12)
    before = np.random.get_state()[1].tolist()
    first = gap_by_group(comparison, seed=1)
    assert first.identical(gap_by_group(comparison, seed=1))
    assert not first["p"].equals(gap_by_group(comparison, seed=2)["p"])
    assert np.random.get_state()[1].tolist() == before


@pytest.mark.parametrize("count", [2, 100])
def test_figure(count):
    groups = gap_by_group(
        comparison_of(np.random.default_rng(0).lognormal(size=3 * count), np.arange(3 * count) % count)
    )
    axes = gaps_by_group(groups)
    means = np.concatenate([line.get_xdata() for line in axes.lines if line.get_marker() in ("o", "s")])
    np.testing.assert_allclose(np.sort(means), np.sort(groups["mean"].values))
    labels = [tick.get_text() for tick in axes.get_yticklabels()]
    assert labels[0] == f"{groups['mean'].values.argmax()} (n = 3)"
    assert len(labels) == count


def test_figure_of_groups_without_a_mean():
    axes = gaps_by_group(gap_by_group(comparison_of([1.0, 2, np.nan], [0, 0, 1])))
    assert [tick.get_text() for tick in axes.get_yticklabels()] == ["0 (n = 2)", "1 (n = 0)"]
    axes.figure.canvas.draw()
    gaps_by_group(gap_by_group(comparison_of([np.nan, np.nan], [0, 1]))).figure.canvas.draw()
