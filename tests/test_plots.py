"""Figures: what stands where, on whose axes, in whose style; and what prints without colour and saves as lines."""

import io
import re
from functools import cache, partial

import numpy as np
import pytest
import torch
import xarray as xr
from cycler import cycler
from matplotlib import _pylab_helpers, rc_context, rcParams
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.text import Text
from oracles import bad_guide, random_linear
from scipy import stats

import pplvae
from pplvae import plots
from pplvae.plots.landscape import level_of
from pplvae.plots.style import COLOURS, as_it_is

HOSTILE = ("<b>$x_{</b>", "_hidden", "two\nlines", "\x1b[2J", "$\\frac{1}$", "n" * 300)


def comparison_of(parts=("train", "test"), rows=12, seed=0):
    """A comparison with a family and evidence, of made-up numbers."""
    noise = np.random.default_rng(seed)
    count = rows * len(parts)
    amortised = -20 + noise.normal(size=count)
    own = amortised + noise.lognormal(size=count)
    full = own + 0.1 + 0.05 * noise.normal(size=count)
    evidence = full + 0.3 + 0.05 * noise.normal(size=count)
    columns = {
        "elbo_amortised": amortised,
        "elbo_local": own,
        "amortisation_gap": own - amortised,
        "log_evidence": evidence,
        "approximation_gap": evidence - own,
        "inference_gap": evidence - amortised,
        "elbo_local_full_covariance": full,
        "family_gap_full_covariance": full - own,
    }
    columns |= {f"{name}_stderr": np.full(count, 0.01) for name in columns}
    columns |= {"status": np.full(count, "converged"), "pareto_k_importance": np.zeros(count)}
    coordinates = {
        "row": np.arange(count),
        "part": ("row", np.repeat(np.array(parts, dtype=object), rows)),
        "label": ("row", np.arange(count) % 3),
        "key": ("row", np.arange(count)),
    }
    parameters = {"h.loc": (("row", "guide", "element of h.loc"), noise.normal(size=(count, 2, 3)))}
    about = {"guide": ["amortised", "local"], "row": np.arange(count)}
    rows = xr.Dataset({name: ("row", values) for name, values in columns.items()}, coordinates, {"tolerance": 0.01})
    return pplvae.Comparison(rows, parameters=xr.Dataset(parameters, about))


@cache
def linear():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    model = pplvae.models.FactorAnalysis(6, 2).double()
    return model, bad_guide(model, 0)[0], torch.randn(30, 6, dtype=torch.float64)


def history():
    curve = np.linspace(-3.0, -1, 20)
    columns = {"objective": curve, "elbo_validation": curve - 0.5, "elbo_validation_stderr": np.full(20, 0.1)}
    for part, gap in (("train", curve + 4), ("validation", 2 - curve)):  # every fourth epoch is looked at
        for name, values in ((f"{part}_gap", gap), (f"{part}_gap_stderr", np.full(20, 0.1))):
            columns[name] = np.where(np.arange(20) % 4 == 3, values, np.nan)
    return xr.Dataset({name: ("epoch", values) for name, values in columns.items()}, {"epoch": np.arange(20)})


def causes():
    """Of an attribution: only the first two have a remedy whose gain on held-out rows is measured."""
    columns = {"nats": [1.5, 0.25, 3.0], "stderr": [0.1, 0.05, 0.2]}
    columns |= {"held_out": [1.0, 0.5, np.nan], "held_out_stderr": [0.2, 0.1, np.nan]}
    names = ["under_training", "capacity", "remainder"]
    return xr.Dataset({name: ("cause", values) for name, values in columns.items()}, {"cause": names})


def noise():
    columns = {
        name: (("objective", "stage"), np.array([[1.0, 10.0], [2.0, 20.0]])) for name in ("variance", "variance_stderr")
    }
    return xr.Dataset(columns, {"objective": ["STL", "IWAE"], "stage": ["start", "fitted"]})


@cache
def landscape():
    model, guide, v = linear()
    return pplvae.elbo_landscape(model.model, guide, v[:1], points=31, steps=8)


@cache
def measured(name):
    """A result that a figure is drawn of."""
    model, guide, v = linear()
    make = {
        "comparison": comparison_of,
        "groups": lambda: pplvae.gap_by_group(comparison_of()),
        "paired": lambda: pplvae.compare_runs(comparison_of(), comparison_of(seed=1)),
        "outliers": lambda: pplvae.outlier_scores(comparison_of(["in"]), comparison_of(["out"], seed=1)),
        "calibration": lambda: pplvae.calibrate(model.model, guide, v, particles=19),
        "use": lambda: pplvae.latent_use(model.model, guide, v, particles=4, mixture_draws=0),
        "means": lambda: pplvae.posterior_means(model.model, guide, v, particles=50, max_steps=5),
    }
    return make[name]()


# By function: what it draws, the dataset of that which will do as well, and whether its axes are in nats.
ON_AXES = {
    plots.ladder: ("comparison", "rows", True),
    plots.decomposition: ("comparison", "summary", True),
    plots.gap_histogram: ("comparison", "rows", True),
    plots.row_histogram: ("comparison", "rows", True),
    plots.causes: (causes, None, True),
    plots.elbo_scatter: ("comparison", "rows", True),
    plots.gaps_by_group: ("groups", "summary", True),
    plots.paired_differences: ("paired", "summary", True),
    plots.outlier_roc: ("outliers", None, False),
    plots.calibration_ecdf: ("calibration", "latents", False),
    plots.kl_per_dimension: ("use", "latents", True),
    plots.rate_distortion: ("use", "rows", True),
    plots.latent_map: ("means", "rows", False),
    plots.corrected_means: ("means", "rows", False),
    plots.learning_curves: (history, None, True),
    plots.gap_curves: (history, None, True),
    plots.gradient_noise: (noise, None, False),
    plots.optimisation_path: (landscape, None, False),
    plots.posterior_contours: (landscape, None, False),
}
EVERY = pytest.mark.parametrize("function", ON_AXES, ids=lambda function: function.__name__)


def drawn(function, ax=None):
    given = ON_AXES[function][0]
    return function(measured(given) if isinstance(given, str) else given(), ax=ax)


def texts_of(figure):
    return [text for text in figure.findobj(Text) if text.get_text()]


def saved(figure, kind):
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind)
    return buffer.getvalue()


def test_all_figures_are_tested():
    grids = {"lambda_scatter", "picture_grid", "picture_rows"}
    assert {function.__name__ for function in ON_AXES} | grids == set(plots.__all__)
    assert pplvae.plots is plots


@EVERY
def test_draws_on_the_axes_that_are_given_or_on_its_own(function):
    left, right = Figure().subplots(1, 2)
    before = dict(rcParams)
    assert drawn(function, ax=right) is right
    assert right.has_data()
    assert not left.has_data()
    own = drawn(function)
    assert own.figure.axes == [own]
    assert dict(rcParams) == before
    assert _pylab_helpers.Gcf.get_num_fig_managers() == 0


@EVERY
def test_takes_the_dataset_as_well_as_the_result(function):
    name, dataset, _ = ON_AXES[function]
    if dataset is not None:
        found = getattr(measured(name), dataset)
        by_dataset = function(found() if callable(found) else found)
        assert by_dataset.get_xlabel() == drawn(function).get_xlabel()
    with pytest.raises(TypeError, match="Expected a result"):
        function([1, 2])
    if function is not plots.outlier_roc:
        with pytest.raises(ValueError, match="this dataset has no"):
            function(xr.Dataset({"part": 0}))


def test_a_histogram_of_any_number_of_the_rows():
    comparison = comparison_of()
    for drawn_of in (
        plots.row_histogram(comparison, "log_evidence"),
        plots.row_histogram(comparison.rows, "log_evidence"),
    ):
        assert drawn_of.get_xlabel().startswith("log evidence (nats per row")
        for line, part in zip(drawn_of.lines, ("train", "test"), strict=True):
            assert line.get_xdata()[0] == pytest.approx(float(comparison.part(part)["log_evidence"].mean()))
    assert plots.row_histogram(comparison).get_xlabel().startswith("amortisation gap")
    one, none = comparison.rows.isel(row=[0]), comparison.rows.isel(row=[])
    assert len(plots.row_histogram(one, "elbo_local").lines) == 1
    assert not plots.row_histogram(none, "elbo_local").lines


def test_causes_stand_at_their_nats_and_beside_what_their_remedy_wins():
    found = causes()
    axes = plots.causes(found)
    for label, (value, error) in {"gap by cause": ("nats", "stderr"),
                                  "won on held-out rows": ("held_out", "held_out_stderr")}.items():  # fmt: skip
        known = found[value].notnull()
        means, errors = points_of(axes, label)
        np.testing.assert_allclose(means, found[value][known])
        np.testing.assert_allclose(errors, 2 * found[error][known])
    none = found.assign(held_out=("cause", [np.nan] * 3))
    assert axes.get_legend_handles_labels()[1] == ["gap by cause", "won on held-out rows"]
    assert plots.causes(none).get_legend_handles_labels()[1] == ["gap by cause"]


def test_corrected_means_stand_over_those_of_the_guide():
    means = measured("means")
    (cloud,) = plots.corrected_means(means).collections
    np.testing.assert_array_equal(cloud.get_offsets()[:, 0], means.rows["h_guide"].values.flatten())
    np.testing.assert_array_equal(cloud.get_offsets()[:, 1], means.rows["h"].values.flatten())


@EVERY
def test_axes_say_their_units(function):
    axes = drawn(function)
    labels = axes.get_xlabel() + axes.get_ylabel()
    assert labels
    assert ("nats per row" in labels) == ON_AXES[function][2]
    bars = any(container for container in axes.containers if type(container).__name__ == "ErrorbarContainer")
    said = labels + "".join(text.get_text() for text in texts_of(axes.figure))
    assert not bars or "standard error" in said or "intervals" in said


@EVERY
def test_letters_have_the_sizes_of_the_style(function):
    sizes = []
    for size in (6, 12):
        with rc_context({"font.size": size}):
            figure = drawn(function).figure
            figure.draw_without_rendering()
            sizes.append([text.get_fontsize() for text in texts_of(figure)])
    assert min(sizes[0]) > 0
    assert set(np.array(sorted(set(sizes[1]))) / 2) == set(sizes[0])


@pytest.mark.parametrize("function", [plots.gap_histogram, plots.learning_curves, plots.calibration_ecdf])
def test_a_figure_has_the_size_of_the_style(function):
    with rc_context({"figure.figsize": (3.25, 2.0)}):
        assert tuple(drawn(function).figure.get_size_inches()) == (3.25, 2.0)
    assert drawn(function).figure.get_size_inches()[0] == 6.4


@EVERY
def test_the_colours_of_a_style_win(function):
    with rc_context({"axes.prop_cycle": cycler(color=["#123456", "#654321"]), "axes.edgecolor": "#abcdef"}):
        figure = drawn(function).figure
        used = saved(figure, "svg").decode().lower()
    assert not [colour for colour in COLOURS[:-1] if colour.lower() in used]
    assert any(colour in used for colour in ("#123456", "#654321", "#abcdef"))
    assert any(colour.lower() in saved(drawn(function).figure, "svg").decode().lower() for colour in COLOURS)


@EVERY
@pytest.mark.parametrize("kind", ["svg", "pdf"])
def test_saves_as_lines(function, kind):
    assert (b"<image" if kind == "svg" else b"/Subtype /Image") not in saved(drawn(function).figure, kind)


@pytest.mark.parametrize(("rows", "pixels"), [(20_000, False), (20_001, True)])
def test_clouds_of_many_points_are_pixels(rows, pixels):
    figure = plots.elbo_scatter(comparison_of(["test"], rows=rows)).figure
    assert (b"<image" in saved(figure, "svg")) == pixels


@pytest.mark.parametrize("function", [plots.ladder, plots.decomposition, plots.gap_histogram, plots.elbo_scatter])
def test_names_are_printed_as_they_are(function):
    axes = function(comparison_of(HOSTILE, rows=4))
    axes.figure.draw_without_rendering()
    shown = "\n".join(text.get_text() for text in texts_of(axes.figure))
    assert all(as_it_is(name) in shown for name in HOSTILE)
    legend = axes.get_legend()
    if function is not plots.decomposition:
        assert len(legend.get_texts()) >= len(HOSTILE)
    assert "\n" not in as_it_is("two\nlines")
    assert len(as_it_is("n" * 300)) < 50


LATEX = "50%_a&b#c$x^2~{\\alpha}"


@pytest.mark.parametrize("function", [f for f in ON_AXES if f is not plots.optimisation_path], ids=lambda f: f.__name__)
def test_latex_is_given_no_sign_that_it_would_take_for_a_command(function):
    """Nothing is drawn: LaTeX need not be there. (Labels inside of contours are, to find their place.)"""
    with rc_context({"text.usetex": True}):
        texts = [text.get_text() for text in texts_of(drawn(function).figure)]
    assert texts
    assert not [text for text in texts if re.search(r"(?<!\\)[%_#&$]", text)]


@pytest.mark.parametrize("function", [plots.ladder, plots.decomposition, plots.gap_histogram, plots.elbo_scatter])
def test_names_reach_latex_as_letters(function):
    exactly = r"50\%\_a\&b\#c\$x\textasciicircum{}2\textasciitilde{}\{\textbackslash{}alpha\}"
    with rc_context({"text.usetex": True}):
        axes = function(comparison_of([LATEX, "_hidden"]))
        texts = [text.get_text() for text in texts_of(axes.figure)]
        labels = " ".join([*texts, *axes.get_legend_handles_labels()[1]])
    assert exactly in labels
    assert r"\_hidden" in labels
    assert "50%_a&b" in as_it_is(LATEX)


def points_of(axes, label):
    """Places of the markers of an error bar with a label, and half the lengths of its bars."""
    (found,) = [bar for bar in axes.containers if bar.get_label() == label]
    line, _, (bars,) = found
    ends = np.array([segment[:, 0] for segment in bars.get_segments()])
    return line.get_xdata(), (ends[:, 1] - ends[:, 0]) / 2


def test_rungs_stand_at_their_gains_over_the_encoder():
    comparison = comparison_of()
    comparison.rows["status"][3] = "nonfinite"
    axes = plots.ladder(comparison)
    rungs = [tick.get_text() for tick in axes.get_yticklabels()]
    assert rungs == ["encoder's guide", "row's own guide", "full covariance", "log p(v)"]
    for part in ("train", "test"):
        rows = comparison.part(part)
        rows = rows.isel(row=np.flatnonzero(rows["status"].values == "converged"))
        gains = [rows[name] - rows["elbo_amortised"] for name in
                 ("elbo_amortised", "elbo_local", "elbo_local_full_covariance", "log_evidence")]  # fmt: skip
        means, errors = points_of(axes, part)
        np.testing.assert_allclose(means, [float(gain.mean()) for gain in gains])
        np.testing.assert_allclose(errors, [2 * float(g.std(ddof=1)) / g.size**0.5 for g in gains], atol=1e-12)
    only = plots.ladder(comparison, "test")
    np.testing.assert_array_equal(points_of(only, "test")[0], points_of(axes, "test")[0])
    assert [text.get_text() for text in only.get_legend().get_texts()] == ["test"]
    with pytest.raises(ValueError, match=r"no part 'tset'; the comparison has 'train', 'test'"):
        plots.ladder(comparison, "tset")


def test_each_error_bar_of_a_stack_belongs_to_its_end():
    comparison = comparison_of()
    summary, axes = comparison.summary(), plots.decomposition(comparison)
    widths = [[bar.get_width() for bar in bars] for bars in axes.containers if hasattr(bars, "patches")]
    np.testing.assert_allclose(widths, summary["mean"].sel(term=["amortisation_gap", "approximation_gap"]).T)
    bars = [container[2][0].get_segments() for container in axes.containers if not hasattr(container, "patches")]
    for term, segments in zip(("amortisation_gap", "inference_gap"), bars, strict=True):
        line, ends = summary.sel(term=term), np.array([segment[:, 0] for segment in segments])
        np.testing.assert_allclose(ends.mean(1), line["mean"])
        np.testing.assert_allclose(np.diff(ends)[:, 0] / 4, line["stderr"])


def test_two_parts_differ_with_and_without_colour_and_look_alike_everywhere():
    comparison = comparison_of(("train", "valid", "test", "more"))
    ladder, histogram, scatter = (
        function(comparison) for function in (plots.ladder, plots.gap_histogram, plots.elbo_scatter)
    )
    by_marker = {bar.get_label(): (to_hex(bar[0].get_color()), bar[0].get_marker()) for bar in ladder.containers}
    by_line = {line.get_label().split(":")[0]: line for line in histogram.lines}
    for look in (set, list):
        assert len(look(colour for colour, _ in by_marker.values())) == 4
    assert len({marker for _, marker in by_marker.values()}) == 4
    assert len({str(line._unscaled_dash_pattern) for line in by_line.values()}) == 4
    points = {cloud.get_label(): to_hex(cloud.get_facecolor()[0]) for cloud in scatter.collections}
    for name, (colour, _) in by_marker.items():
        assert to_hex(by_line[name].get_color()) == colour == points[name]
    only = plots.ladder(comparison_of(("test",)))
    assert to_hex(only.containers[0][0].get_color()) == by_marker["test"][0]


def test_the_path_and_both_estimates_stand_where_they_are():
    found = landscape()
    axes = plots.optimisation_path(found)
    path, encoder, optimum = axes.lines
    np.testing.assert_array_equal(path.get_xydata(), found["path"])
    np.testing.assert_array_equal(encoder.get_xydata()[0], found["mean"].sel(guide="amortised"))
    np.testing.assert_array_equal(optimum.get_xydata()[0], found["mean"].sel(guide="local"))
    assert (encoder.get_marker(), optimum.get_marker()) == ("D", "*")


def test_contours_are_the_ellipses_of_a_quadratic():
    """Of a linear-Gaussian model: so many nats below the optimum the mean is sqrt(2 nats) away in the precision."""
    model, _, v = linear()
    axes = plots.optimisation_path(landscape())
    contours = axes.collections[0]
    precision, optimum = model.posterior_precision().detach().numpy(), model.posterior(v[:1]).mean[0].detach().numpy()
    checked = 0
    for level, path in zip(contours.levels, contours.get_paths(), strict=True):
        away = path.vertices - optimum
        below = 0.5 * ((away @ precision) * away).sum(1)
        if -level >= 1:  # smaller ones lie between few points of the grid
            np.testing.assert_allclose(below, -level, rtol=0.1)
            checked += 1
    assert checked >= 2


def test_regions_of_the_posterior_hold_their_share():
    model, _, v = linear()
    found = landscape()
    axes = plots.posterior_contours(found)
    exact = model.posterior(v[:1])
    precision, mean = torch.linalg.inv(exact.covariance_matrix[0]).detach().numpy(), exact.mean[0].detach().numpy()
    lines = axes.collections[1]
    for mass, path in zip((0.9, 0.5), lines.get_paths(), strict=True):
        away = path.vertices - mean
        np.testing.assert_allclose(((away @ precision) * away).sum(1), stats.chi2.ppf(mass, 2), rtol=0.12)
    ellipses = [line for line in axes.lines if len(line.get_xdata()) > 100]
    for k, (guide, mass) in enumerate((g, m) for g in ("amortised", "local") for m in (0.5, 0.9)):
        chosen = found.sel(guide=guide)
        away = ellipses[k].get_xydata() - chosen["mean"].values
        square = ((away @ np.linalg.inv(chosen["covariance"].values)) * away).sum(1)
        np.testing.assert_allclose(square, stats.chi2.ppf(mass, 2))
    line = np.linspace(-6, 6, 301)
    bell = np.exp(-0.5 * (line[:, None] ** 2 + line**2))
    assert level_of(bell, 0.9) == pytest.approx(0.1, rel=0.01)  # in two dimensions 1 - mass of the peak
    with pytest.raises(ValueError, match="two latents"):
        plots.posterior_contours(found.drop_vars("log_joint"))


def test_rows_lie_at_their_posterior_means():
    means = measured("means")
    rows = means.rows.assign_coords(label=("row", np.arange(30) % 2))
    axes = plots.latent_map(rows, (1, 0))
    assert [cloud.get_label() for cloud in axes.collections] == ["0", "1"]
    for k, cloud in enumerate(axes.collections):
        np.testing.assert_array_equal(cloud.get_offsets(), rows["h"].values[k::2][:, [1, 0]])
    with pytest.raises(ValueError, match=r"elements \(0, 2\)"):
        plots.latent_map(means, (0, 2))


def test_noise_stands_at_its_place_on_a_logarithmic_scale():
    axes = plots.gradient_noise(noise())
    assert axes.get_xscale() == "log"
    np.testing.assert_array_equal(points_of(axes, "fitted")[0], [10, 20])


def test_curves_are_those_of_the_history():
    found = history()
    train, valid = plots.learning_curves(found).lines
    np.testing.assert_array_equal(train.get_ydata(), found["objective"])
    np.testing.assert_array_equal(valid.get_ydata(), found["elbo_validation"])
    model, v = random_linear(0, rows=8)
    fit = pplvae.fit(model.model, model.guide, v, validation=v, epochs=2)
    np.testing.assert_array_equal(plots.learning_curves(fit).lines[0].get_ydata(), fit.history["objective"])


def test_gaps_over_training_stand_at_the_epochs_that_were_looked_at():
    found = history()
    axes = plots.gap_curves(found)
    for part, bars in zip(("train", "validation"), axes.containers, strict=True):
        epochs, gaps = bars.lines[0].get_data()
        np.testing.assert_array_equal(epochs, [3, 7, 11, 15, 19])
        np.testing.assert_array_equal(gaps, found[f"{part}_gap"][3::4])
    assert len(plots.gap_curves(found.drop_vars(["validation_gap", "validation_gap_stderr"])).containers) == 1
    with pytest.raises(ValueError, match="compare_every"):
        plots.gap_curves(found.drop_vars("train_gap"))


PICTURES = np.arange(24.0).reshape(6, 2, 2)
GRIDS = {
    "lambda_scatter": (lambda **more: plots.lambda_scatter(comparison_of(), **more), 1),
    "picture_grid": (partial(plots.picture_grid, PICTURES, list("abcdef"), columns=4), 8),
    "picture_rows": (partial(plots.picture_rows, {"row": PICTURES[:3], "own": PICTURES[3:]}), 6),
}


@pytest.mark.parametrize("name", GRIDS)
def test_grids_are_drawn_on_the_figure_that_is_given(name):
    function, panels = GRIDS[name]
    given = Figure()
    assert function(figure=given) is given
    assert len(given.axes) == panels
    assert len(function().axes) == panels
    assert _pylab_helpers.Gcf.get_num_fig_managers() == 0


def test_pictures_stand_in_their_rows_on_one_scale():
    figure = plots.picture_rows({"row": PICTURES[:3], "_own$": PICTURES[3:]})
    for panel, picture in zip(figure.axes, PICTURES, strict=True):
        (image,) = panel.images
        np.testing.assert_array_equal(image.get_array(), picture)
        assert image.get_clim() == (0, 23)
    assert figure.axes[3].get_ylabel() == as_it_is("_own$")
    with pytest.raises(ValueError, match=r"equally long, got \{'a': 1, 'b': 2\}"):
        plots.picture_rows({"a": PICTURES[:1], "b": PICTURES[:2]})


def test_rows_that_are_no_pictures_are_lines():
    lines = np.random.default_rng(0).normal(size=(3, 7))
    figure = plots.picture_grid(lines, columns=3)
    for panel, line in zip(figure.axes, lines, strict=True):
        np.testing.assert_array_equal(panel.lines[0].get_ydata(), line)
    assert b"<image" not in saved(figure, "svg")


def test_both_lambdas_are_against_each_other():
    comparison = comparison_of()
    (axes,) = plots.lambda_scatter(comparison).axes
    pairs = axes.collections[0].get_offsets()
    for k, guide in enumerate(("amortised", "local")):
        np.testing.assert_array_equal(pairs[:, k], comparison.parameters["h.loc"].sel(guide=guide).values.flatten())
