"""The page of a comparison, in a browser: charts and table are linked, keys suffice, and nothing from outside runs."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from oracles import bad_guide, random_linear

import pplvae
from pplvae.comparison import retraining
from pplvae.data import Rows
from pplvae.errors import DataError, UnknownNameError
from pplvae.report.beside import sections_of
from pplvae.report.content import content_of, numbers, thinned
from pplvae.report.sentences import cost_of, remedy_of
from pplvae.results.comparison import Comparison
from pplvae.results.paired import PairedRuns
from pplvae.statistics.findings import EXPLANATIONS, concerned, findings_of

HOSTILE = (
    "<script>document.title = 'run'</script>",
    '"><img src=x onerror="document.title = \'run\'">',
    "a\u202eb",
    "<b>c</b>",
)
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


EVERY_CELL = (
    "((field, holds) => [...document.querySelectorAll(`.tabulator-row [tabulator-field=${field}]`)]"
    ".every((cell) => holds(cell.textContent)))"
)


def comparison(count: int = 60, *, hostile: bool = False, families: bool = True) -> Comparison:
    """One whose numbers are drawn: row i of each part has the i-th gap."""
    draw = np.random.default_rng(0)
    gap = np.abs(draw.normal(1.0, 0.5, count)) + 0.1
    encoder, family = draw.normal(-80, 9, count), np.abs(draw.normal(0.4, 0.1, count))
    columns = {
        "elbo_amortised": encoder,
        "elbo_local": encoder + gap,
        "amortisation_gap": gap,
        "approximation_gap": family,
    }
    columns |= {"log_evidence": encoder + gap + family, "inference_gap": gap + family}
    if families:
        columns |= {"elbo_local_flow": encoder + gap + 0.2, "family_gap_flow": np.full(count, 0.2)}
    columns |= {f"{name}_stderr": draw.uniform(0.005, 0.02, count) for name in list(columns)}
    columns |= {"shortfall": draw.normal(0.002, 0.001, count), "shortfall_stderr": draw.uniform(0, 0.002, count)}
    columns |= {"pareto_k_amortised": draw.uniform(0, 1, count), "pareto_k_importance": draw.uniform(0, 0.8, count)}
    columns |= {"steps": np.arange(count) % 7 + 3, "draws": np.full(count, 100)}
    columns |= {
        "status": np.where(np.arange(count) % 6 == 0, "short", "converged"),
        "method": np.full(count, "second_order"),
    }
    names = np.array([HOSTILE[i % 4] if hostile else f"kind {i % 3}" for i in range(count)])
    part = np.where(np.arange(count) < count * 2 // 3, "train", HOSTILE[0] if hostile else "test")
    ids = np.array([f"{HOSTILE[i % 4]} {i}" if hostile else f"r{i}" for i in range(count)])
    coordinates = {"row": ids, "part": ("row", part), "label": ("row", names), "key": ("row", np.arange(count))}
    about = {"tolerance": 0.01, "simulated": 40, "missed": 2, "unseen": 1, "evidence": "importance", "families": "flow"}
    rows = xr.Dataset({name: ("row", values) for name, values in columns.items()}, coordinates, about)
    chosen = np.arange(0, count, 5 if count < 500 else count // 96)
    place = np.where(chosen < count * 2 // 3, chosen, chosen - count * 2 // 3)
    where = {"id": ("shown", ids[chosen]), "part": ("shown", part[chosen]), "place": ("shown", place)}
    where |= {"column": np.arange(64)}
    pictures = {"value": (("shown", "column"), draw.uniform(size=(len(chosen), 64)))}
    lam = draw.normal(size=(count, 2, 3))
    axes = {"row": ids, "guide": ["amortised", "local"]}
    return Comparison(
        rows,
        xr.Dataset(pictures, where, {"image_shape": [8, 8], "named": 0}),
        xr.Dataset({"h.loc": (("row", "guide", "h.loc 1"), lam)}, axes),
    )


# ------------------------------------------------------------------------------ what goes into a page


def test_numbers_have_so_many_digits_and_what_is_not_finite_is_nothing():
    assert numbers([1234.5678, -0.000123456, 0.0, np.nan, np.inf]) == [1234.6, -0.00012346, 0.0, None, None]
    assert numbers([0.0123], 2) == [0.012]


def test_points_that_lie_apart_are_all_drawn_and_others_are_thinned():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(2, 200_000))
    x[:3], y[:3] = [9, -9, 9], [9, 9, -9]
    drawn = thinned(x, y)
    assert {0, 1, 2} <= set(drawn)
    assert 1000 < len(drawn) <= 5000
    assert drawn == sorted(set(drawn))


def test_a_page_of_ten_thousand_rows_is_small(tmp_path):
    path = comparison(10_000).report(tmp_path / "gap.html")
    assert path.stat().st_size < 5e6


def test_the_content_is_that_of_the_rows():
    made = comparison()
    content = content_of(made.rows, made.summary(), made.parameters, made.shown, None)
    json.dumps(content, allow_nan=False)
    assert content["rows"]["columns"]["amortisation_gap"] == pytest.approx(
        made.rows["amortisation_gap"].values, rel=1e-4
    )
    ladder = {rung["name"]: rung["nats"] for rung in content["ladders"][0]}
    train = made.summary().sel(part="train", term=["amortisation_gap", "inference_gap"])["mean"].values
    assert (ladder["row's own guide"], ladder["log p(v)"]) == pytest.approx(tuple(train), rel=1e-4)
    assert ladder["flow"] == pytest.approx(train[0] + 0.2, rel=1e-4)
    assert content["shown"]["rows"] == list(range(0, 60, 5))


def test_a_sentence_counts_the_rows_that_it_is_about():
    made = comparison()
    status = made.rows["status"].values.copy()
    status[:5] = "nonfinite"
    part = Comparison(made.rows.assign(status=("row", status))).summary().sel(part="train")
    mean = made.rows["amortisation_gap"].values[5:40].mean()
    assert cost_of(part).startswith(
        "On 35 of the 40 training rows, without those named below, one shared encoder costs "
    )
    assert f" {mean:.3f} ± " in cost_of(part)
    share = 100 * mean / made.rows["inference_gap"].values[5:40].mean()
    assert f"about {share:.0f} % of the " in cost_of(part)


def test_a_sentence_says_what_is_not_clear():
    made = comparison()
    noise = np.random.default_rng(1).normal(size=60)
    part = Comparison(made.rows.assign(amortisation_gap=("row", noise))).summary().sel(part="train")
    assert "which is not clear of zero" in cost_of(part)
    overfit = made.rows["amortisation_gap"].values + np.where(np.arange(60) < 40, 0.0, 3.0)
    for gap, said in ((overfit, "nats more on rows that it was not trained on"), (noise, "No clear difference")):
        summary = Comparison(made.rows.assign(amortisation_gap=("row", gap))).summary()
        assert said in remedy_of([summary.sel(part=name) for name in ("train", "test")])


@pytest.mark.parametrize(("away", "said"), [(2.5, "2.5 standard errors: that may be chance"), (-2.5, "lose less than")])
def test_a_difference_that_may_be_chance_is_called_so(away, said):
    made = comparison()
    noise = np.random.default_rng(1).normal(size=60)
    train, test = ((some - some.mean()) / some.std(ddof=1) for some in (noise[:40], noise[40:]))
    gap = np.concatenate([train, test + away * np.sqrt(1 / 40 + 1 / 20)])
    summary = Comparison(made.rows.assign(amortisation_gap=("row", gap))).summary()
    assert said in remedy_of([summary.sel(part=name) for name in ("train", "test")])


# ------------------------------------------------------------------------------ findings


def test_a_finding_says_which_rows_it_concerns():
    made = comparison()
    found = {(finding.code, finding.part): finding for finding in made.findings}
    short = concerned(made.rows, found["PV105", "train"])
    assert np.flatnonzero(short).tolist() == [0, 6, 12, 18, 24, 30, 36]
    doubtful = concerned(made.rows, found["PV108", "test"])
    assert (made.rows["pareto_k_importance"].values[doubtful] > 0.7).all()
    assert not concerned(made.rows, found["PV109", ""]).any()
    assert found["PV109", ""].is_caution


def test_rows_that_float32_has_wrong_are_told_apart_from_those_that_lack_steps():
    made = comparison()
    status = made.rows["status"].values.copy()
    status[2] = "imprecise"
    made = Comparison(made.rows.assign(status=("row", status)))
    found = {(finding.code, finding.part): finding for finding in made.findings}
    assert "2.5 % of the rows float32 has the ELBO wrong" in found["PV111", "train"].sentence
    assert np.flatnonzero(concerned(made.rows, found["PV111", "train"])).tolist() == [2]
    assert not concerned(made.rows, found["PV105", "train"])[2]


def test_every_finding_is_explained():
    assert {finding.code for finding in findings_of(comparison().summary())} <= set(EXPLANATIONS)


def test_the_page_says_how_long_training_took(tmp_path):
    history = xr.Dataset({"seconds": ("epoch", [1.5, 2.0, 0.75])}, {"epoch": np.arange(3)})
    page = comparison().report(tmp_path / "page.html", history=history).read_text(encoding="utf-8")
    assert "<dt>training took</dt><dd>4.2 s, 3 epochs</dd>" in page


# ------------------------------------------------------------------------------ other results on it


@cache
def measured() -> tuple[Comparison, dict[str, Any]]:
    """A comparison of rows with labels, and one of each kind of result that may stand beside it."""
    model, v = random_linear(3, rows=40)
    guide = bad_guide(model, 3)[0]
    labels = np.array([HOSTILE[i % 2] for i in range(40)])
    rows = Rows((v,), np.arange(40), "test", labels=labels)
    pair, brief = (model.model, guide), {"particles": 60, "max_steps": 5}
    first, second = (
        pplvae.compare(model.model, each, rows, simulated=0, **brief) for each in (guide, bad_guide(model, 4)[0])
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(retraining, "_FEWEST_STEPS", 2)
        blamed = pplvae.attribute(model.model, model.guide, v[:20], v[20:], epochs=1, hidden=(4,), worth=1e-3, **brief)
    return first, {
        "to blame": blamed,
        "carried": pplvae.latent_use(*pair, rows, particles=4),
        "ranks": pplvae.calibrate(*pair, rows, particles=19),
        HOSTILE[1]: pplvae.compare_runs(first, second),
    }


def test_sections_say_what_results_found():
    first, beside = measured()
    blamed, carried, ranks, paired = sections_of(beside, first.rows)
    causes = beside["to blame"].causes
    assert blamed.content["nats"] == pytest.approx(causes["nats"].values, rel=1e-4)
    assert [float(line[1]) for line in blamed.lines] == pytest.approx(causes["nats"].values, rel=1e-3)
    kl = beside["carried"].latents["kl"].values
    assert carried.content["kl"] == pytest.approx(sorted(kl, reverse=True), rel=1e-4)
    assert f"{int(beside['carried'].latents['active'].sum())} of {len(kl)} latents are active" in carried.sentences[0]
    places = [ranks.content["names"].index(name) for name in beside["ranks"].latents["latent"].values]
    found = np.array(ranks.content["difference"])[places]
    assert found == pytest.approx(beside["ranks"].latents["ecdf_difference"].values, rel=1e-2, abs=1e-12)
    difference = beside[HOSTILE[1]].differences("test", "amortisation_gap")
    assert paired.content["gap"] == pytest.approx(difference, rel=1e-4)
    assert paired.lines[2][2] == f"{difference.mean():+.3f}"


def test_a_verdict_on_two_runs_is_about_the_second():
    first, beside = measured()
    paired = beside[HOSTILE[1]]
    noise = np.random.default_rng(0).normal(size=40)
    said = {5.0: "amortised ELBO is higher by", -5.0: "amortised ELBO is lower by", 0.0: "does not clearly differ"}
    for shift, words in said.items():
        moved = PairedRuns(paired.rows.assign(elbo_amortised=("row", noise - noise.mean() + shift)))
        assert words in sections_of({"b": moved}, first.rows)[0].sentences[0]


def test_what_to_change_is_said_first_where_it_has_been_measured(tmp_path):
    first, beside = measured()
    advice = beside["to blame"].advice[0]
    with_it = first.report(tmp_path / "a.html", beside=beside).read_text()
    assert f"<li>{advice.remedy.capitalize()}: " in with_it
    assert with_it.index(f"{advice.remedy.capitalize()}: ") < with_it.index("What to know before believing it")
    asks = "Which remedy helps, <code>attribute</code> measures"
    assert asks not in with_it
    two_parts = comparison()
    assert asks in two_parts.report(tmp_path / "b.html").read_text()
    assert asks not in two_parts.report(tmp_path / "c.html", beside={"to blame": beside["to blame"]}).read_text()


def test_what_has_no_place_beside_a_comparison_is_refused(tmp_path):
    first, beside = measured()
    with pytest.raises(UnknownNameError, match="comparison"):
        first.report(tmp_path / "page.html", beside={"itself": first})
    with pytest.raises(DataError, match="40 rows of the paired runs are not among those"):
        comparison().report(tmp_path / "page.html", beside={"other": beside[HOSTILE[1]]})


# ------------------------------------------------------------------------------ in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="needs Playwright")
    if CHROMIUM is None:
        pytest.skip("needs Chromium: Debian's package is `chromium`")
    with sync_api.sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    made = {"plain": comparison(), "hostile": comparison(hostile=True)}
    label = made["plain"].rows["label"].values.copy()
    label[3] = "lonely"
    names = [f"a column whose name is so long that no phone has a line for it {i}" for i in range(64)]
    named = made["plain"].shown.assign_coords(column=names).assign_attrs(named=1, image_shape=[])
    made["table"] = replace(made["plain"], shown=named)
    first, beside = measured()
    made["lonely"] = Comparison(made["plain"].rows.assign_coords(label=("row", label)))
    written = {name: result.report(folder / f"{name}.html") for name, result in made.items()}
    return written | {"beside": first.report(folder / "beside.html", beside=beside)}


@pytest.fixture
def opened(browser: Any, pages: dict[str, Path]) -> Iterator[Any]:
    """Opens a page, and at the end asks whether it complained or asked for anything."""
    said, tabs = [], []

    def open_page(name: str = "plain", **options: Any) -> Any:
        page = browser.new_page(**{"viewport": {"width": 1280, "height": 900}} | options)
        tabs.append(page)
        page.on("console", lambda message: said.append(message.text))
        page.on("pageerror", lambda error: said.append(str(error)))
        page.on("request", lambda request: said.append(request.url) if request.url.startswith("http") else None)
        page.goto(pages[name].as_uri())
        page.wait_for_selector("body[data-ready=yes]")
        return page

    yield open_page
    for page in tabs:
        page.close()
    assert said == []


def seen_to_the_end(page: Any) -> None:
    """Scroll, so that every chart is drawn."""
    for chart in page.locator("main > section .chart").all():
        if chart.is_visible():
            chart.scroll_into_view_if_needed()
            chart.locator(".main-svg").first.wait_for()


def column(page: Any, field: str) -> list[str]:
    return page.locator(f'.tabulator-row [tabulator-field="{field}"]').all_inner_texts()


def test_all_charts_are_drawn(opened):
    page = opened()
    seen_to_the_end(page)
    assert page.locator("main > section .chart .main-svg").count() >= 6
    assert page.locator("#failed").is_hidden()


def test_a_label_of_too_few_rows_has_an_open_point_and_no_interval(opened):
    page = opened("lonely")
    page.locator("#labels").scroll_into_view_if_needed()
    page.locator("#labels .main-svg").first.wait_for()
    drawn = page.evaluate("document.getElementById('labels').data.map(({ marker, text }) => [marker.symbol, text])")
    symbols, texts = drawn[0]
    assert [symbol for symbol, text in zip(symbols, texts, strict=True) if "lonely" in text] == ["circle-open"]
    assert all(symbol == "circle" for symbol, text in zip(symbols, texts, strict=True) if "lonely" not in text)
    assert any(text.startswith("lonely: ") and "too few rows for an interval" in text for text in texts)


def test_the_table_sorts_and_filters(opened):
    page = opened()
    first = [float(text) for text in column(page, "amortisation_gap")]
    assert first == sorted(first, reverse=True)
    page.locator('.tabulator-col[tabulator-field="elbo_amortised"] .tabulator-col-title').click()
    texts = [float(text) for text in column(page, "elbo_amortised")]
    assert texts == sorted(texts)
    page.get_by_label("Only rows whose status contains").press_sequentially("short")
    page.wait_for_function(f"{EVERY_CELL}('status', (text) => text === 'short')")
    page.get_by_label("Only rows whose gap is at least").press_sequentially("1.2")
    page.wait_for_function(f"{EVERY_CELL}('amortisation_gap', (text) => +text >= 1.2)")


def test_a_box_in_a_chart_selects_rows_everywhere(opened):
    page = opened()
    chart = page.locator("#elbos")
    chart.scroll_into_view_if_needed()
    box = chart.locator(".nsewdrag").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] - 5, steps=5)
    page.mouse.up()
    page.locator("#clear").wait_for()
    chosen = int(page.locator("#selected").inner_text().split()[0])
    assert 0 < chosen < 60
    middle = page.evaluate(
        "(() => { const x = document.getElementById('elbos')._fullLayout.xaxis.range; return (x[0] + x[1]) / 2; })()"
    )
    values = [float(text) for text in column(page, "elbo_amortised")]
    assert values
    assert max(values) <= middle + 0.5
    page.locator("#clear").click()
    assert page.locator("#selected").inner_text() == "No rows are selected."


def test_a_finding_selects_its_rows(opened):
    page = opened()
    finding = page.locator("details", has_text="PV105").first
    finding.locator("summary").click()
    finding.get_by_role("button", name="Select these 7 rows").click()
    assert page.locator("#selected").inner_text() == "7 of 60 rows are selected."
    assert set(column(page, "status")) == {"short"}


def test_keys_suffice_to_see_a_row(opened):
    page = opened()
    page.locator(".tabulator-row").first.focus()
    page.keyboard.press("ArrowDown")
    chosen = page.evaluate("document.activeElement.querySelector('[tabulator-field=id]').textContent")
    page.keyboard.press("Enter")
    row = page.locator("#row")
    row.wait_for()
    assert f"Row {chosen} of" in row.inner_text()
    for words in ("ITS LADDER", "amortisation gap", "own flow", "h.loc[2]", "shortfall", "Rows of about the same gap"):
        assert words.lower() in row.inner_text().lower()
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(
            "document.activeElement.closest('#row') !== null && document.activeElement.tagName === 'BUTTON'"
        ):
            break
    page.keyboard.press("Enter")
    assert f"Row {chosen} of" not in row.inner_text()


def test_a_row_shows_its_picture_if_the_page_has_it(opened):
    page = opened()
    page.get_by_label("Only rows whose row contains").press_sequentially("r10")
    page.locator(".tabulator-row", has_text="r10").click()
    assert page.locator("#row canvas").count() == 1
    page.get_by_label("Only rows whose row contains").clear()
    page.get_by_label("Only rows whose row contains").press_sequentially("r11")
    page.locator(".tabulator-row", has_text="r11").click()
    assert "not in the page" in page.locator("#row").inner_text()


def test_a_hundred_thousand_rows_open_and_are_searched(opened, tmp_path, pages):
    pages["large"] = comparison(100_000).report(tmp_path / "large.html")
    assert pages["large"].stat().st_size < 8e6
    page = opened("large")
    assert page.locator(".tabulator-row").count() < 200  # those in view
    page.get_by_label("Only rows whose row contains").press_sequentially("r99999")
    page.wait_for_function("document.querySelectorAll('.tabulator-row').length === 1")
    page.locator(".tabulator-row").click()
    assert "Row r99999 of" in page.locator("#row").inner_text()


def test_names_from_outside_stay_text(opened):
    page = opened("hostile")
    seen_to_the_end(page)
    page.locator(".tabulator-row").first.click()
    page.locator("#row").wait_for()
    assert page.title() != "run"
    assert page.locator("img, b").count() == 0
    assert "<script>" in page.locator("#rows").inner_text()
    ticks = page.locator("#labels .xtick").all_text_contents()
    assert sorted(ticks) == sorted(text.replace("\u202e", "\\u202e") for text in HOSTILE)
    assert "\u202e" not in page.content()


def test_gaps_over_training_are_drawn_where_there_are_any(opened, pages, tmp_path):
    epochs = np.arange(6)
    history = xr.Dataset({"objective": ("epoch", -80 - 1.0 / (1 + epochs))}, {"epoch": epochs})
    pages["fitted"] = comparison().report(tmp_path / "fitted.html", history=history)
    assert opened("fitted").locator("#looks").is_hidden()
    looks = {
        "train_gap": [np.nan, 0.5, np.nan, 0.4, np.nan, 0.3],
        "validation_gap": [np.nan, 0.6, np.nan, 0.7, np.nan, 0.9],
    }
    errors = {f"{name}_stderr": [np.nan, 0.1] * 3 for name in looks}
    with_looks = history.assign({name: ("epoch", values) for name, values in (looks | errors).items()})
    pages["looked"] = comparison().report(tmp_path / "looked.html", history=with_looks)
    page = opened("looked")
    seen_to_the_end(page)
    drawn = page.evaluate("document.getElementById('looks').data.map(({ x, y, error_y }) => [x, y, error_y.array])")
    assert drawn == [[[1, 3, 5], [0.5, 0.4, 0.3], [0.1] * 3], [[1, 3, 5], [0.6, 0.7, 0.9], [0.1] * 3]]


def test_other_results_are_drawn_and_linked(opened):
    page = opened("beside")
    seen_to_the_end(page)
    for kind in ("causes", "latents", "ecdf", "gaps", "labels"):
        assert page.locator(f".beside .chart[id$={kind}] .main-svg").count() >= 1
    assert page.title() != "run"
    assert page.locator("img").count() == 0
    assert HOSTILE[1] in page.locator("h2", has_text="Against").inner_text()
    assert any(
        f"gap in {HOSTILE[1]} minus this" in text for text in page.locator(".tabulator-col-title").all_inner_texts()
    )
    column_of_other = [float(text) for text in column(page, "other0")]
    first, beside = measured()
    order = np.argsort(-first.rows["amortisation_gap"].values, kind="stable")
    there = beside[HOSTILE[1]].rows["amortisation_gap"].values[order][: len(column_of_other)]
    assert column_of_other == pytest.approx(there, abs=6e-4)
    page.locator(".tabulator-row").first.click()
    both = (
        beside[HOSTILE[1]].rows["amortisation_gap"].values[order[0]] + first.rows["amortisation_gap"].values[order[0]]
    )
    assert f"{both:.3f}" in page.locator("#row tr", has_text=f"amortisation gap in {HOSTILE[1]}").inner_text()
    ring = page.evaluate("document.querySelector('[id$=gaps]:not(#gaps)').data.at(-1).y[0]")
    assert ring == pytest.approx(both, rel=1e-3)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("which", ["plain", "beside"])
def test_nothing_serious_bars_access(opened, scheme, which):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="needs axe-playwright-python").Axe()
    page = opened(which, color_scheme=scheme)
    seen_to_the_end(page)
    for summary in page.locator("details summary").all():
        summary.click()
    page.locator(".tabulator-row").first.click()
    page.locator("#row").wait_for()
    found = axe.run(page).response["violations"]
    assert [
        (one["id"], one["nodes"][0]["html"][:200]) for one in found if one["impact"] in ("serious", "critical")
    ] == []


def test_the_theme_can_be_chosen_and_print_is_light(opened):
    page = opened(color_scheme="dark")
    paper = "getComputedStyle(document.body).backgroundColor"
    dark = page.evaluate(paper)
    page.locator("#theme").click()
    light = page.evaluate(paper)
    assert (dark, light) == ("rgb(22, 24, 28)", "rgb(255, 255, 255)")
    page.locator("#theme").click()
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.evaluate(paper) == light


@pytest.mark.parametrize("which", ["plain", "table"])
def test_a_phone_has_no_sideways_scroll_and_lines_of_many_letters(opened, which):
    page = opened(which, viewport={"width": 390, "height": 844})
    seen_to_the_end(page)
    page.get_by_label("Only rows whose row contains").press_sequentially("r10")
    page.locator(".tabulator-row", has_text="r10").click()
    page.locator("#row canvas, #row table").first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    lead = page.locator(".lead p").first.bounding_box()
    assert lead["width"] > 340
