"""Summary, files, ArviZ, page and figures of a comparison."""

import base64
import gzip
import html.parser
import json
import re
import sys
import types
from importlib.metadata import version

import numpy as np
import pytest
import torch
import xarray as xr
from oracles import random_linear
from scipy import stats
from statistics_ import assert_spread_is_one, assert_within

import pplvae
from pplvae import plots
from pplvae.data import Rows
from pplvae.errors import StoreError
from pplvae.isolate import unwarned
from pplvae.programs.estimates import log_mean_exp, mean_and_stderr
from pplvae.results.arviz import pareto_k
from pplvae.results.comparison import Comparison
from pplvae.store import write_datasets


@pytest.fixture(scope="module")
def comparison():
    torch.set_default_dtype(torch.float64)
    model, v = random_linear(0, rows=40)
    shown = v[:, : v.shape[1] // 2 * 2]
    shape = (2, shown.shape[1] // 2)
    model = pplvae.models.FactorAnalysis(shown.shape[1], 2).double()
    rows = Rows((shown,), np.arange(100, 140), labels=np.arange(40) % 3, image_shape=shape)
    parts = {"train": rows[:25], "<b>test</b>": rows[25:]}
    return pplvae.compare(model.model, model.guide, parts, particles=100, max_steps=75)


TINY_IN_ARVIZ = {"0": {"posterior": {"x": np.zeros((1, 2))}}, "1": {"data": {"posterior": {"x": np.zeros((1, 2))}}}}
FIELDS = ("elbo_amortised", "elbo_local", "amortisation_gap", "log_evidence", "approximation_gap", "inference_gap")


def test_fields(comparison):
    rows = comparison.rows
    expected = {name for field in FIELDS for name in (field, f"{field}_stderr")}
    of_search = {"status", "steps", "method", "shortfall", "shortfall_stderr", "draws", "log_evidence_bias"}
    of_weights = {f"{name}_importance" for name in ("pareto_k", "effective_sample_size", "jensen_slack")}
    assert set(rows) == expected | of_search | of_weights | {"pareto_k_amortised", "pareto_k_local"}
    assert all(rows[name].dtype == np.float64 for name in expected)
    assert rows["row"].values.tolist() == list(range(100, 140))
    assert set(rows["status"].values) <= {"converged", "short", "max_steps", "nonfinite"}
    np.testing.assert_allclose(rows["inference_gap"], rows["amortisation_gap"] + rows["approximation_gap"])


def test_summary(comparison):
    summary = comparison.summary()
    part = comparison.part("train")
    gap = part["amortisation_gap"].values
    line = summary.sel(part="train", term="amortisation_gap")
    assert float(line["mean"]) == pytest.approx(gap.mean())
    assert float(line["stderr"]) == pytest.approx(stats.sem(gap))
    assert float(line["mc_stderr"]) == pytest.approx(np.sqrt((part["amortisation_gap_stderr"] ** 2).sum()) / 25)
    np.testing.assert_allclose(line["quantiles"], np.quantile(gap, summary["quantile"]))
    assert float(line["unconverged"]) == (part["status"] != "converged").mean()


def test_a_failed_optimisation_is_flagged_not_clipped(comparison):
    rows = comparison.rows.copy(deep=True)
    rows["amortisation_gap"][3] = -5.0
    broken = Comparison(rows)
    assert float(broken.summary()["negative"][0]) == 1 / 25
    assert float(broken.rows["amortisation_gap"][3]) == -5.0
    assert "lie below zero by more than 3 standard errors and the tolerance" in str(broken)


def test_print_and_notebook(comparison):
    text = str(comparison)
    assert "train: 25 rows" in text
    assert all(field in text for field in FIELDS)
    assert "&lt;b&gt;test" in comparison._repr_html_()


def test_file_and_back(comparison, tmp_path):
    path = comparison.save(tmp_path / "deep" / "gap.nc")
    back = pplvae.load_comparison(path)
    assert back.rows.identical(comparison.rows)
    assert back.shown.equals(comparison.shown)
    assert [p.name for p in path.parent.iterdir()] == ["gap.nc"]


def test_bad_files(comparison, tmp_path):
    with pytest.raises(StoreError, match="no file"):
        pplvae.load_comparison(tmp_path / "none.nc")
    path = comparison.save(tmp_path / "gap.nc")
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(StoreError, match="damaged"):
        pplvae.load_comparison(path)
    with pytest.raises(StoreError, match="no comparison"):
        pplvae.load_comparison(write_datasets(tmp_path / "h.nc", "history", {"history": xr.Dataset()}))


def test_nothing_is_left_half_written(comparison, tmp_path, monkeypatch):
    target = comparison.save(tmp_path / "gap.nc")
    before = target.read_bytes()
    monkeypatch.setattr(xr.DataTree, "to_netcdf", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        comparison.save(target)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["gap.nc"]


def test_arviz_has_its_own_container_of_the_rows(comparison):
    """`InferenceData` where ArviZ 0.x is installed, `DataTree` where it is 1.x: as its own functions make."""
    found = comparison.to_arviz()
    with unwarned():
        import arviz
    assert type(found) is type(arviz.from_dict(**TINY_IN_ARVIZ[version("arviz")[0]]))
    assert found["comparison"]["amortisation_gap"].sizes == {"row": 40}
    np.testing.assert_array_equal(found["comparison"]["amortisation_gap"], comparison.rows["amortisation_gap"])


def test_arviz_of_the_newer_line(comparison, monkeypatch):
    """Its 1.x has an `InferenceData` as well, by which it must not be taken for 0.x."""
    newer = types.ModuleType("arviz")
    newer.InferenceData = xr.DataTree
    monkeypatch.setitem(sys.modules, "arviz", newer)
    monkeypatch.setattr(pplvae.results.arviz, "version", lambda package: "1.3.0")
    tree = comparison.to_arviz()
    assert type(tree) is xr.DataTree
    assert tree["comparison"]["amortisation_gap"].sizes == {"row": 40}


@pytest.mark.statistical
@pytest.mark.parametrize("k", [0.2, 0.5, 0.9])
def test_pareto_k_recovers_the_tail(k):
    weights = np.log(np.random.default_rng(0).pareto(1 / k, size=(2000, 50)) + 1)
    found = pareto_k(torch.as_tensor(weights))
    assert_within(found.mean() - k, found.std() / 50**0.5, low=-0.05, high=0.05, degrees=49)


@pytest.mark.parametrize("draws", [1000, 20_000])
def test_pareto_k_where_one_weight_is_all_there_is(draws):
    """All other weights are 0 in float64, and a fit to them would find a light tail."""
    spread = torch.randn(draws, 4, generator=torch.Generator().manual_seed(0))
    assert (pareto_k(100 * spread) > 10).all()
    for scale in (1e3, 1e4, 1e5):
        assert np.isposinf(pareto_k(scale * spread)).all()


def test_pareto_k_of_constant_weights():
    assert pareto_k(torch.full((100, 3), -7.0)).tolist() == [-np.inf] * 3


@pytest.mark.statistical
def test_standard_errors_are_right():
    """Errors in units of the reported standard error have spread 1 (antithetic draws)."""
    z = torch.randn(200, 400)
    draws = torch.cat([z, -z]).mul(0.3).exp()  # lognormal with mean exp(0.045)
    mean, stderr = mean_and_stderr(draws)
    assert_spread_is_one((mean - np.exp(0.045)) / stderr, degrees=199)
    value, stderr = log_mean_exp(torch.cat([z, -z]) * 0.3)
    assert_spread_is_one((value - 0.045) / stderr, degrees=199)


class Page(html.parser.HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.sources = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]


def test_page(comparison, tmp_path):
    model, v = random_linear(1, rows=30)
    fit = pplvae.fit(model.model, model.guide, v, validation=v, epochs=12)
    settings = fit.settings | {"note": "<script>alert(1)</script>"}
    text = comparison.report(tmp_path / "gap.html", history=fit.history, settings=settings).read_text()
    page = Page()
    page.feed(text)
    assert page.tags.count("script") == 4  # two libraries, the numbers, and what draws them
    assert page.sources == []
    assert "&lt;script&gt;" in text
    assert "<b>test</b>" not in text
    content = content_in(text)
    assert content["history"]["epoch"] == list(range(len(fit.history["epoch"])))
    assert [sorted(part["names"]) for part in content["labels"]] == [["0", "1", "2"]] * 2
    gap = comparison.summary().sel(part="train", term="amortisation_gap")
    assert f"{float(gap['mean']):.3f} ± {float(gap['stderr']):.3f}" in text
    assert re.search(r"fit: torch</dt><dd>\d", text)


def content_in(text):
    """What is packed into a page."""
    packed = re.search(r'id="content">([^<]*)<', text)[1]
    return json.loads(gzip.decompress(base64.b64decode(packed)))


def test_page_without_labels_or_history(tmp_path):
    model, v = random_linear(2, rows=5)
    result = pplvae.amortisation_gap(model.model, model.guide, v, particles=20, max_steps=25)
    text = result.report(tmp_path / "gap.html").read_text()
    assert "It was not said whether these rows are training or held-out rows" in text
    content = content_in(text)
    assert content["history"] is content["labels"] is None


@pytest.mark.parametrize("broken", ["nan row", "one row", "all nan"])
def test_figures_survive_odd_rows(comparison, broken):
    rows = comparison.part("train").copy(deep=True)
    if broken == "nan row":
        rows["amortisation_gap"][0] = np.nan
    elif broken == "one row":
        rows = rows.isel(row=[0])
    else:
        rows["amortisation_gap"][:] = np.nan
    odd = Comparison(rows)
    plots.gap_histogram(odd.rows)
    plots.elbo_scatter(odd.rows)
    plots.decomposition(odd.summary())
    plots.ladder(odd)
