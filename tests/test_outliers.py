"""Scores of rows from elsewhere: areas against counted pairs, errors against DeLong's own sums and simulation."""

import numpy as np
import pytest
import xarray as xr
from scipy import integrate, stats

from pplvae.errors import DataError, UnknownNameError
from pplvae.plots.groups import outlier_roc
from pplvae.results.comparison import Comparison
from pplvae.results.outliers import outlier_scores
from pplvae.statistics.roc import delong_stderr


def comparison_of(gaps, elbo=None, *, evidence=None, part="test", status=None, keys=None, **settings):
    count = len(gaps)
    columns = {
        "amortisation_gap": ("row", np.asarray(gaps, dtype=float)),
        "elbo_amortised": ("row", np.asarray(np.zeros(count) if elbo is None else elbo, dtype=float)),
        "status": ("row", np.array(["converged"] * count if status is None else status)),
    }
    if evidence is not None:
        columns["log_evidence"] = ("row", np.asarray(evidence, dtype=float))
    parts = [part] * count if isinstance(part, str) else part
    coordinates = {"row": np.arange(count), "part": ("row", np.array(parts))}
    if keys is not None:
        coordinates["key"] = ("row", np.asarray(keys))
    return Comparison(xr.Dataset(columns, coords=coordinates, attrs=settings))


def pairs_won(inside, outside):
    """For every pair of an outside (line) and an inside row: 1 if the outside row scores higher, 1/2 for a tie."""
    outside, inside = outside[:, None], inside[None, :]
    return (outside > inside) + 0.5 * (outside == inside)


def rounded(seed, sizes=(13, 9)):
    """Scores with many ties."""
    generator = np.random.default_rng(seed)
    return generator.integers(0, 6, sizes[0]).astype(float), generator.integers(1, 8, sizes[1]).astype(float)


@pytest.mark.parametrize("seed", range(4))
def test_area_is_the_share_of_pairs(seed):
    inside, outside = rounded(seed)
    found = outlier_scores(comparison_of(inside, -2 * inside), comparison_of(outside, outside)).summary()
    assert float(found["auc"].sel(score="amortisation_gap")) == pytest.approx(pairs_won(inside, outside).mean())
    assert float(found["stderr"].sel(score="amortisation_gap")) == delong_stderr(inside, outside)
    by_elbo = pairs_won(2 * inside, -outside).mean()
    assert float(found["auc"].sel(score="minus_elbo_amortised")) == pytest.approx(by_elbo)


@pytest.mark.parametrize("seed", range(4))
def test_error_is_delongs(seed):
    inside, outside = rounded(seed)
    won = pairs_won(inside, outside)
    variance = won.mean(1).var(ddof=1) / len(outside) + won.mean(0).var(ddof=1) / len(inside)
    assert delong_stderr(inside, outside) == pytest.approx(np.sqrt(variance))


@pytest.mark.statistical
def test_errors_are_as_large_as_they_say():
    """Two normals one apart: the area is Phi(1 / sqrt 2); its errors over 1000 repetitions have spread 1."""
    generator, truth = np.random.default_rng(0), stats.norm.cdf(1 / np.sqrt(2))
    errors = []
    for _ in range(1000):
        inside, outside = generator.normal(size=60), generator.normal(1, 1, 40)
        errors.append((pairs_won(inside, outside).mean() - truth) / delong_stderr(inside, outside))
    assert abs(np.mean(errors)) < 4 / np.sqrt(1000) + 0.05
    assert 0.9 < np.std(errors) < 1.1


def test_scores_say_outside_when_they_are_high():
    inside = comparison_of([0.1, 0.2, 0.3], [-10, -11, -12], evidence=[-9, -9.5, -10])
    outside = comparison_of([1.0, 2, 3], [-50, -60, -70], evidence=[-40, -41, -42], part="noise")
    found = outlier_scores(inside, outside)
    assert found.scores == ["amortisation_gap", "minus_elbo_amortised", "minus_log_evidence"]
    assert found.summary()["auc"].values.tolist() == [1, 1, 1]
    assert found.rows["outside"].values.tolist() == [False] * 3 + [True] * 3
    assert outlier_scores(outside, inside).summary()["auc"].values.tolist() == [0, 0, 0]
    assert outlier_scores(inside, comparison_of([1.0, 2])).scores == ["amortisation_gap", "minus_elbo_amortised"]


def test_curve():
    inside, outside = rounded(1)
    found = outlier_scores(comparison_of(inside), comparison_of(outside))
    curve = found.roc("amortisation_gap")
    false, true = curve["false_positives"].values, curve["true_positives"].values
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    assert integrate.trapezoid(true, false) == pytest.approx(float(found.summary()["auc"][0]))
    for threshold, x, y in zip(curve["threshold"].values, false, true, strict=True):
        assert (x, y) == ((inside >= threshold).mean(), (outside >= threshold).mean())
    with pytest.raises(UnknownNameError, match="Did you mean 'amortisation_gap'"):
        found.roc("amortization_gap")


def test_rows_without_scores_are_left_out_and_counted():
    inside = comparison_of([1.0, 2, np.nan, 4], status=["converged"] * 4)
    outside = comparison_of([3.0, 5, 6, 7], status=["converged", "max_steps", "skipped", "nonfinite"], part="noise")
    found = outlier_scores(inside, outside)
    assert found.rows["amortisation_gap"].values.tolist() == [1, 2, 4, 3, 5]
    assert "test: 1 rows have no finite score" in str(found)
    assert "noise: 2 rows have no finite score" in str(found)
    with pytest.raises(DataError, match="`outside` has 1 rows with finite scores"):
        outlier_scores(inside, comparison_of([1.0]))


def test_parts_of_one_comparison():
    both = comparison_of([1.0, 2, 3, 4], part=["digits", "digits", "noise", "noise"])
    with pytest.raises(DataError, match="`inside` holds the parts 'digits', 'noise'"):
        outlier_scores(both, both.part("noise"))
    text = repr(outlier_scores(both.part("digits"), both.part("noise")))
    assert text.startswith("noise (2 rows) against digits (2 rows)")
    assert "amortisation_gap      1.000 ± 0.000" in text
    assert "A standard error of 0 says" in text


def test_what_a_reader_must_know():
    inside = comparison_of([1.0, 2, 3], keys=[7, 8, 9], tolerance=0.01)
    outside = comparison_of([2.0, 3, 1], keys=[9, 10, 11], tolerance=0.1)
    text = str(outlier_scores(inside, outside))
    assert "1 rows outside have the content of a row inside." in text
    assert "different settings: tolerance 0.01 and 0.1." in text
    assert "A standard error of 0" not in text
    assert "different settings" not in str(outlier_scores(inside, inside))


def test_figure():
    found = outlier_scores(comparison_of(rounded(2)[0], part="digits"), comparison_of(rounded(2)[1], part="noise"))
    axes = outlier_roc(found)
    labels = [text.get_text() for text in axes.get_legend().get_texts()]
    auc = found.summary()["auc"].values
    assert [label.split(" ± ")[0] for label in labels] == [
        f"amortisation gap: {auc[0]:.3f}",
        f"minus elbo amortised: {auc[1]:.3f}",
    ]
    assert "digits" in axes.get_xlabel()
    assert "noise" in axes.get_ylabel()
