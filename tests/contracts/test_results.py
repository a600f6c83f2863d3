"""What every result promises: rows, summary, settings, files, tables, pages and text, each tested on each."""

import ast
import html
import html.parser
import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, dataclass
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from matplotlib import _pylab_helpers, rcParams
from oracles import bad_guide, random_linear
from workflow import shorten_attribution

import pplvae
from pplvae import plain, plots
from pplvae.data import Rows
from pplvae.errors import DataError, StoreError
from pplvae.results.base import Result
from pplvae.statistics.settings import FOUND, settings_that_differ
from pplvae.store import open_datasets, write_datasets

HOSTILE = ("<script>alert(1)</script>", "$\\frac{1}$", "two\nlines", "$a_{b$", "\x1b[2J", "a/b%2F")
BRIEF = pplvae.Annealing(particles=8, temperatures=5)
SEARCH = {"max_steps": 5}
QUICK = SEARCH | {"particles": 60}
ATTRIBUTION = QUICK | {"worth": 50.0, "epochs": 1, "hidden": (4,)}
WHOLE, MANY = "rows", 24


@dataclass(frozen=True)
class Case:
    """How a result is made.

    Attributes:
        kind: its class.
        function: that makes it.
        make: from model, guide, rows and options of the function.
        as_settings: what a setting is called that does not have the argument's name.
        fewest: rows that it takes.
    """

    kind: type[Result]
    function: Any
    make: Any
    as_settings: Any = None
    fewest: int = 1


def comparison(model, guide, rows, **options):
    asked = {"families": ["full_covariance"], "simulated": 4} | QUICK | options
    return pplvae.compare(model.model, guide, rows, **asked)


def paired(model, guide, rows, **options):
    first = comparison(model, guide, rows, families=())
    return pplvae.compare_runs(first, comparison(model, guide, rows, families=(), seed=1), **options)


def outliers(model, guide, rows, **options):
    inside, outside = (comparison(model, guide, part, families=()) for part in (rows[::2], rows[1::2]))
    return pplvae.outlier_scores(inside, outside, **options)


def groups(model, guide, rows, **options):
    found = comparison(model, guide, rows, families=())
    return pplvae.gap_by_group(found, np.arange(len(rows)) % 3 if rows.labels is None else None, **options)


def attribution(model, guide, rows, **options):
    half = slice(0, max(1, len(rows) // 2)), slice(-max(1, len(rows) // 2), None)
    return pplvae.attribute(model.model, model.guide, *(rows[part] for part in half), **(ATTRIBUTION | options))


def plainly(function, **defaults):
    return lambda model, guide, rows, **options: function(model.model, guide, rows, **(defaults | options))


def divergence(model, guide, rows, **options):
    return pplvae.joint_kl(model.model, guide, rows, lambda v: model.log_evidence(v).detach(), particles=4, **options)


CASES = {
    "comparison": Case(pplvae.Comparison, pplvae.compare, comparison),
    "paired": Case(pplvae.PairedRuns, pplvae.compare_runs, paired),
    "outliers": Case(pplvae.Outliers, pplvae.outlier_scores, outliers, fewest=4),
    "groups": Case(pplvae.Groups, pplvae.gap_by_group, groups, as_settings={"seed": "group_seed"}),
    "evidence": Case(pplvae.Evidence, pplvae.log_evidence, plainly(pplvae.log_evidence, **QUICK)),
    "annealed": Case(
        pplvae.Evidence, pplvae.log_evidence, plainly(pplvae.log_evidence, method="ais", annealing=BRIEF, **SEARCH)
    ),
    "bracket": Case(
        pplvae.Bracket, pplvae.evidence_bracket, plainly(pplvae.evidence_bracket, annealing=BRIEF, **SEARCH)
    ),
    "posterior means": Case(
        pplvae.PosteriorMeans,
        pplvae.posterior_means,
        plainly(pplvae.posterior_means, draws=3, particles=400, max_steps=25),
    ),
    "calibration": Case(pplvae.Calibration, pplvae.calibrate, plainly(pplvae.calibrate, particles=9)),
    "latent use": Case(
        pplvae.LatentUse, pplvae.latent_use, plainly(pplvae.latent_use, particles=4, mixture_draws=30), fewest=2
    ),
    "joint": Case(pplvae.JointDivergence, pplvae.joint_kl, divergence),
    "attribution": Case(pplvae.Attribution, pplvae.attribute, attribution),
}
EVERY = pytest.mark.parametrize("name", CASES)


@pytest.fixture(autouse=True)
def short_attribution(monkeypatch):
    shorten_attribution(monkeypatch)


def rows_of(v, *, ids=None, labels=None, name=WHOLE):
    return Rows((v,), np.arange(len(v)) if ids is None else ids, name, labels=labels)


@cache
def world():
    torch.set_default_dtype(torch.float64)
    model, v = random_linear(9, rows=MANY)
    return model, bad_guide(model, 9)[0], v


@cache
def made(name, which="plain"):
    """A result, made once: of plain rows, of hostile ones, or of as few as it takes."""
    model, guide, v = world()
    if which == "few":
        return CASES[name].make(model, guide, rows_of(v[: CASES[name].fewest]))
    if which == "hostile":
        ids = np.array([f"{HOSTILE[i % len(HOSTILE)]} {i}" for i in range(MANY)])
        labels = np.array([*HOSTILE[:3], None] * (MANY // 4), dtype=object)
        return CASES[name].make(model, guide, rows_of(v, ids=ids, labels=labels, name="".join(HOSTILE[:5])))
    return CASES[name].make(model, guide, rows_of(v, ids=np.arange(100, 100 + MANY), labels=np.arange(MANY) % 3))


@EVERY
def test_rows_are_over_their_ids(name):
    rows = made(name).rows
    assert rows["row"].dims == ("row",)
    assert rows["part"].dims == ("row",)
    first = 100 + MANY // 2 if name == "attribution" else 100
    assert sorted(rows["row"].values.tolist()) == list(range(first, 100 + MANY))
    label = rows["group"] if name == "groups" else rows["label"] if "label" in rows.coords else None
    if name != "outliers":
        np.testing.assert_array_equal(label, (rows["row"].values - 100) % 3)


@EVERY
def test_the_summary_is_a_table(name):
    found = made(name)
    summary = found.summary()
    assert isinstance(summary, xr.Dataset)
    assert len(summary.data_vars) > 0
    assert "row" not in summary.dims
    assert summary.identical(found.summary())


@EVERY
def test_settings_name_every_argument_that_changes_numbers(name):
    case, settings = CASES[name], made(name).settings
    no_settings = {"progress", "chunk_size", "memory", "store", "simulated", "labels", "part"}
    signature = inspect.signature(case.function).parameters.values()
    options = {p.name for p in signature if p.kind is p.KEYWORD_ONLY and p.name not in no_settings}
    if name == "annealed":
        options -= {"particles", "stderr"}
    expected = {(case.as_settings or {}).get(option, option) for option in options}
    assert expected <= {setting.split(" (")[0] for setting in settings}
    assert not set(settings) & set(FOUND)
    assert all(isinstance(value, str | int | float | np.number) for value in settings.values()), settings
    assert len(settings) > 1


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("paired", "outliers", "attribution")])
def test_another_seed_is_another_setting_and_nothing_else_is(name):
    model, guide, v = world()
    first, again, other = (CASES[name].make(model, guide, rows_of(v[:6]), seed=seed) for seed in (3, 3, 4))
    assert first == again
    seed = "group_seed" if name == "groups" else "seed"
    assert first != other
    assert settings_that_differ(first.rows, other.rows) == f"{seed} 3 and 4"
    assert settings_that_differ(first.rows, again.rows) == ""


class Shifted:
    """A family of a user's, which has no words for itself."""

    name = "shifted"

    def start(self, elements):
        return {"shift": torch.zeros(elements)}

    def branches(self, *arguments, **options):
        moved = pplvae.Transport(self.name, self.start, lambda lam, x: (x + lam["shift"], x.new_zeros(x.shape[:2])))
        return moved.branches(*arguments, **options)


def test_a_family_is_the_same_setting_wherever_it_lies_in_memory():
    model, guide, v = world()
    both = [comparison(model, guide, rows_of(v[:3]), families=[Shifted()], simulated=0) for _ in range(2)]
    assert settings_that_differ(both[0].rows, both[1].rows) == ""
    assert both[0] == both[1]


def test_what_was_found_is_no_setting():
    model, guide, v = world()
    looked, not_looked = (comparison(model, guide, rows_of(v[:4]), simulated=count) for count in (4, 0))
    assert (looked.rows.attrs["simulated"], not_looked.rows.attrs.get("simulated", 0)) == (4, 0)
    assert pplvae.compare_runs(looked, not_looked).rows.attrs["different_settings"] == ""


def test_settings_of_two_are_those_of_both():
    settings = made("paired").settings
    assert (settings["seed (first)"], settings["seed (second)"], settings["particles"]) == (0, 1, 60)
    assert "seed" not in settings


@EVERY
@pytest.mark.parametrize("which", ["plain", "hostile", "few"])
def test_a_file_gives_back_an_equal_result(name, which, tmp_path):
    found = made(name, which)
    path = found.save(tmp_path / "new" / "result.nc")
    back = type(found).load(str(path))
    assert back == found
    assert back.rows.identical(found.rows)
    assert back.summary().identical(found.summary())
    assert str(back) == str(found)
    assert back.settings == found.settings
    assert [p.name for p in path.parent.iterdir()] == ["result.nc"]
    if "label" in found.rows.coords:
        missing = [label is None or label != label for label in back.rows["label"].values.tolist()]
        expected = found.rows.sizes["row"] // 4 if which == "hostile" and name != "groups" else 0
        assert sum(missing) == expected  # groups are of rows that have a label


def test_a_comparison_is_loaded_by_its_function_too(tmp_path):
    assert pplvae.load_comparison(made("comparison").save(tmp_path / "gap.nc")) == made("comparison")


@EVERY
def test_files_that_hold_no_such_result(name, tmp_path):
    found = made(name)
    path = found.save(tmp_path / "result.nc")
    other = pplvae.Evidence if not isinstance(found, pplvae.Evidence) else pplvae.Comparison
    with pytest.raises(StoreError, match=f"holds no {other.kind} of pplvae"):
        other.load(path)
    with pytest.raises(StoreError, match="There is no file"):
        type(found).load(tmp_path / "none.nc")
    groups = open_datasets(path, found.kind)
    write_datasets(path, found.kind, {group: rows.drop_vars(rows.data_vars) for group, rows in groups.items()})
    with pytest.raises(StoreError, match=f"holds no {found.kind} .*written by `{type(found).__name__}.save`"):
        type(found).load(path)
    write_datasets(path, found.kind, {})
    with pytest.raises(StoreError, match="holds no"):
        type(found).load(path)


@EVERY
def test_damaged_files(name, tmp_path):
    found = made(name)
    path = found.save(tmp_path / "result.nc")
    whole = path.read_bytes()
    for damaged in (b"", b"no netCDF", whole[:2000], whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(StoreError, match="damaged"):
            type(found).load(path)
    columns = [column.values.flatten() for column in found.rows.data_vars.values() if column.dtype == float]
    number = next(value for value in np.concatenate(columns) if np.isfinite(value) and value % 1)
    assert number.tobytes() in whole
    path.write_bytes(whole.replace(number.tobytes(), np.float64(3.25).tobytes()))
    with pytest.raises(StoreError, match="its content is not what was written"):
        type(found).load(path)


@EVERY
def test_nothing_is_left_half_written(name, tmp_path, monkeypatch):
    target = made(name).save(tmp_path / "result.nc")
    before = target.read_bytes()

    def stopped(path, *_):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(plain, "append", stopped)
    with pytest.raises(OSError, match="disk full"):
        made(name).save(target)
    assert target.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["result.nc"]


@pytest.mark.parametrize("bad", ["a\0b", "\ud800"])
def test_text_that_no_file_can_hold_is_refused_in_words(bad, tmp_path):
    evidence = made("evidence")
    labels = np.array([bad, *["plain"] * (MANY - 1)])
    for rows in (evidence.rows.assign_coords(label=("row", labels)), evidence.rows.assign_attrs(method=bad)):
        with pytest.raises(StoreError, match=r"'(label|method)' holds the text .* with a NUL character or half a"):
            pplvae.Evidence(rows).save(tmp_path / "result.nc")
    assert not list(tmp_path.iterdir())


def test_labels_of_several_kinds_are_refused_in_words(tmp_path):
    labels = np.array(["a", 7] * (MANY // 2), dtype=object)
    mixed = pplvae.Evidence(made("evidence").rows.assign_coords(label=("row", labels)))
    with pytest.raises(StoreError, match=r"'label' holds values of different kinds \(int, str\)"):
        mixed.save(tmp_path / "result.nc")


def test_sites_with_slashes_in_their_names(tmp_path):
    rows = made("posterior means").rows
    renamed = rows.rename({name: str(name).replace("h", "encoder/h%2F", 1) for name in ("h", "h_stderr", "h_guide")})
    found = pplvae.PosteriorMeans(renamed)
    assert pplvae.PosteriorMeans.load(found.save(tmp_path / "means.nc")) == found
    assert "encoder/h%2F[0]" in str(found)


def test_sites_with_slashes_in_the_newer_arviz(monkeypatch):
    monkeypatch.setattr(pplvae.results.arviz, "version", lambda package: "1.3.0")
    rows = made("posterior means").rows
    tree = pplvae.PosteriorMeans(
        rows.rename(h="encoder/h", h_stderr="encoder/h_stderr", h_guide="encoder/h_guide")
    ).to_arviz()
    np.testing.assert_array_equal(tree["posterior_means"]["encoder%2Fh"], rows["h"])


@EVERY
@pytest.mark.parametrize("which", ["plain", "hostile", "few"])
def test_arviz(name, which):
    found = made(name, which)
    container = found.to_arviz()
    rows = container[found.kind.replace(" ", "_")]
    assert rows["row"].values.tolist() == found.rows["row"].values.tolist()
    assert set(container["summary"].data_vars) == set(found.summary().data_vars)


@EVERY
@pytest.mark.parametrize("which", ["plain", "hostile", "few"])
def test_a_line_for_each_row(name, which):
    found = made(name, which)
    frame = found.to_dataframe()
    assert frame.index.name == "row"
    assert frame.index.tolist() == found.rows["row"].values.tolist()
    numbers = sum(found.rows[column].size for column in found.rows.data_vars)
    coordinates = [c for c in found.rows.coords if c != "row" and found.rows[c].dims == ("row",)]
    assert frame.size == numbers + len(coordinates) * len(frame)
    assert frame["part"].tolist() == found.rows["part"].values.tolist()


def test_several_numbers_of_a_row_have_a_column_each():
    use = made("latent use")
    frame, latents = use.to_dataframe(), use.rows["latent"].values.tolist()
    for latent in latents:
        np.testing.assert_array_equal(frame[f"kl[{latent}]"], use.rows["kl"].sel(latent=latent))


class Page(html.parser.HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags, self.sources, self.text = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.sources += [value for name, value in attrs if name in ("src", "href")]

    def handle_data(self, data):
        self.text += data


@EVERY
@pytest.mark.parametrize("which", ["plain", "hostile", "few"])
def test_the_page_holds_text_table_settings_and_figures(name, which, tmp_path):
    found = made(name, which)
    source = found.report(tmp_path / "new" / "page.html").read_text(encoding="utf-8")
    page = Page(source)
    assert not {"link", "iframe"} & set(page.tags)
    assert all(where.startswith("data:image/png;base64,") for where in page.sources)
    assert page.tags.count("img") == (0 if name == "comparison" else len(found.figures))
    assert page.tags.count("script") == (4 if name == "comparison" else 0)  # our own, in the page itself
    assert page.tags.count("table") > 0
    for setting, value in found.settings.items():
        assert setting in page.text
        assert str(value) in page.text
    for warning in found.warnings:
        assert warning in page.text
    if name != "comparison":  # which has a page of its own
        assert (
            str(found).split("\n\n" + found.warnings[0])[0] in page.text if found.warnings else str(found) in page.text
        )
        assert all(str(column).replace("_", " ") in page.text for column in found.summary().data_vars)
    if which == "hostile":
        assert HOSTILE[0] not in source


@EVERY
@pytest.mark.parametrize("which", ["plain", "hostile", "few"])
def test_text(name, which):
    found = made(name, which)
    text = str(found)
    assert repr(found) == text
    assert len(text) > 40
    assert all(letter.isprintable() for letter in text.replace("\n", ""))
    assert HOSTILE[2] not in text


@EVERY
@pytest.mark.parametrize("which", ["plain", "hostile", "few"])
def test_a_notebook_shows_words_tables_and_the_main_figure(name, which):
    found = made(name, which)
    source = found._repr_html_()
    shown = Page(source)
    assert source.count(f">{found.kind.capitalize()}<") == 1
    for line in [str(found).splitlines()[0], *found.warnings[:3]]:
        assert line in shown.text
    assert all(str(column).replace("_", " ") in shown.text for column in found.summary().data_vars)
    assert shown.tags.count("table") > 0
    assert [where.partition(",")[0] for where in shown.sources] == ["data:image/png;base64"]
    assert f'alt="{found.figures[0].replace("_", " ")}"' in source
    assert not {"script", "link", "iframe"} & set(shown.tags)
    assert str(found) in shown.text
    assert len(source) < 200_000


def test_a_notebook_shows_a_few_lines_and_warnings_and_says_of_how_many_more():
    groups = made("groups")
    table = xr.concat([groups.table.assign_coords(group=[f"{k}{g}" for g in "abc"]) for k in range(10)], "group")
    shown = Page(pplvae.Groups(groups.rows, table.assign_attrs(groups.table.attrs))._repr_html_()).text
    assert "... and 10 more lines: .summary() has them all." in shown
    assert "6b" in shown.split("As text")[0]
    assert "6c" not in shown.split("As text")[0]


@EVERY
def test_a_figure_that_fails_loses_no_table(name, monkeypatch):
    found = made(name)
    monkeypatch.setattr(plots, found.figures[0], lambda _: 1 / 0)
    shown = Page(found._repr_html_())
    assert (
        f"There is no figure: `plots.{found.figures[0]}` failed with ZeroDivisionError: division by zero" in shown.text
    )
    assert "table" in shown.tags
    assert "img" not in shown.tags


def test_a_notebook_keeps_its_own_matplotlib():
    before = dict(rcParams), set(sys.modules) & {"matplotlib.pyplot"}
    made("evidence")._repr_html_()
    assert (dict(rcParams), set(sys.modules) & {"matplotlib.pyplot"}) == before
    assert _pylab_helpers.Gcf.get_num_fig_managers() == 0


@EVERY
def test_warnings_are_part_of_the_text(name):
    found = made(name)
    lines = str(found).splitlines()
    assert lines[len(lines) - len(found.warnings) :] == found.warnings


LOST = {
    "comparison": ("status", "nonfinite", "1 rows have no finite ELBO or gradient"),
    "paired": ("elbo_amortised", np.nan, "1 rows that one of them could not measure"),
    "evidence": ("log_evidence", np.nan, "1 rows have no finite log evidence"),
    "annealed": ("pareto_k", 0.9, "4.2 % of the rows have k-hat above 0.7"),
    "bracket": ("width", np.nan, "1 rows have no finite width"),
    "posterior means": ("pareto_k", 0.9, "their posterior means cannot be trusted"),
    "joint": ("difference", -np.inf, "1 rows have no finite difference"),
}


@pytest.mark.parametrize("name", LOST)
def test_a_row_that_was_lost_is_left_out_and_told_of(name):
    column, value, words = LOST[name]
    found = made(name)
    rows = found.rows.copy(deep=True)
    rows[column].values[3] = value
    broken = type(found)(rows)
    assert words in str(broken)
    assert words not in str(found)
    assert "nan" not in str(broken).split("\n\n")[0]


def test_means_are_those_of_the_rows():
    rows = made("evidence").rows
    summary = made("evidence").summary().sel(part=WHOLE, term="log_evidence")
    values, errors = rows["log_evidence"].values, rows["log_evidence_stderr"].values
    assert float(summary["mean"]) == pytest.approx(values.mean())
    assert float(summary["stderr"]) == pytest.approx(values.std(ddof=1) / MANY**0.5)
    assert float(summary["mc_stderr"]) == pytest.approx((errors**2).sum() ** 0.5 / MANY)


def test_rows_of_the_same_content_share_their_noise():
    model, guide, v = world()
    twice = pplvae.log_evidence(model.model, guide, torch.cat([v[:1]] * 4), **QUICK)
    alone = pplvae.log_evidence(model.model, guide, v[:1], **QUICK)
    of_means = [found.summary()["mc_stderr"].sel(term="log_evidence").item() for found in (twice, alone)]
    assert of_means[0] == pytest.approx(of_means[1])


def test_results_of_several_parts_have_a_line_for_each():
    model, guide, v = world()
    parts = {"left": v[:3], "right": v[3:7]}
    for name in ("evidence", "bracket", "posterior means"):
        found = CASES[name].make(model, guide, parts)
        assert found.summary()["part"].values.tolist() == ["left", "right"]
        assert found.summary()["count"].isel(
            {"term" if name != "posterior means" else "latent": 0}
        ).values.tolist() == [3, 4]
        assert all(f"{part}: " in str(found) for part in parts)


def test_equal_results_are_equal_and_others_are_not():
    evidence = made("evidence")
    assert evidence == pplvae.Evidence(evidence.rows.copy(deep=True))
    assert evidence != pplvae.Evidence(evidence.rows + 1)
    assert evidence != pplvae.Bracket(evidence.rows)
    assert evidence != "evidence"
    with pytest.raises(TypeError, match="unhashable"):
        hash(evidence)


@EVERY
def test_results_are_frozen(name):
    with pytest.raises(FrozenInstanceError):
        made(name).rows = xr.Dataset()


COMMON = ("save", "load", "to_arviz", "to_dataframe", "__str__", "__repr__", "_repr_html_", "__eq__")


@EVERY
def test_what_is_common_stands_in_one_place(name):
    kind = CASES[name].kind
    assert issubclass(kind, Result)
    assert not [method for method in COMMON if method in vars(kind)]
    (tree,) = ast.parse(inspect.getsource(kind)).body
    assert tree.end_lineno < 200
    assert getattr(pplvae, kind.__name__) is kind


def test_every_result_is_tested():
    kinds, found = {Result}, set()
    while kinds:
        kinds = {below for kind in kinds for below in kind.__subclasses__()}
        found |= kinds
    assert found == {case.kind for case in CASES.values()}
    assert len({kind.kind for kind in found}) == len(found)


@pytest.mark.parametrize("name", ["outliers", "latent use"])
def test_too_few_rows_are_refused(name):
    model, guide, v = world()
    with pytest.raises(DataError, match="at least 2"):
        CASES[name].make(model, guide, rows_of(v[: CASES[name].fewest - 1]))


def test_what_draws_pages_is_imported_with_the_first_page():
    code = """
import sys, pplvae
pplvae.Comparison, pplvae.PairedRuns, pplvae.Attribution, pplvae.LatentUse
assert not {"matplotlib", "jinja2"} & set(sys.modules)
"""
    subprocess.run([sys.executable, "-c", code], check=True)
