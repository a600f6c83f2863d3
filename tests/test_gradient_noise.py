"""The noise of gradients against closed forms, on a linear Gaussian model; and what it leaves as it was."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import random_linear

import pplvae
from pplvae import plots
from pplvae.errors import ProgramError, UnknownNameError

NOISE, W, SLOPE, SPREAD = 0.7, 1.3, 0.4, -0.2


class Line(torch.nn.Module):
    """h ~ N(0, 1), v | h ~ N(w h, NOISE²); the guide is N(slope v, exp(spread)²)."""

    def __init__(self):
        super().__init__()
        self.w, self.slope, self.spread = (torch.nn.Parameter(torch.tensor(x).double()) for x in (W, SLOPE, SPREAD))

    def model(self, v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros_like(v[:, 0]), 1.0))
            pyro.sample("v", dist.Normal((self.w * h).unsqueeze(-1), NOISE).to_event(1), obs=v)

    def guide(self, v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(self.slope * v[:, 0], self.spread.exp()))


V = torch.tensor([[0.5], [-1.0], [2.0]], dtype=torch.float64)


def exact(objective):
    """Variance and squared length of the mean gradient with one draw, encoder and decoder, by hand.

    With f(h) = log p(v, h), f' = b - Λ h. Of `Trace_ELBO` the slopes are v f'(h) and f'(h) σ ε + 1; where only the path
    counts, v (f'(h) + ε / σ) and (f'(h) + ε / σ) σ ε, since -log q then has a slope in h too. That in w is
    h (v - w h) / NOISE².
    """
    v, precision, sigma = V[:, 0].numpy(), 1 + W**2 / NOISE**2, np.exp(SPREAD)
    mean = SLOPE * v
    slope = W * v / NOISE**2 - precision * mean
    along = precision * sigma if objective == "Trace_ELBO" else precision * sigma - 1 / sigma
    encoder = (v * along) ** 2 + (slope * sigma) ** 2 + 2 * (along * sigma) ** 2
    expected = (v * slope).mean() ** 2 + (1 - precision * sigma**2) ** 2
    points, weights = np.polynomial.hermite_e.hermegauss(20)
    h = mean[:, None] + sigma * points
    of_w = h * (v[:, None] - W * h) / NOISE**2
    weights = weights / weights.sum()
    decoder_mean = of_w @ weights
    decoder = (of_w**2) @ weights - decoder_mean**2
    return {
        "encoder": (encoder.sum() / len(v) ** 2, expected),
        "decoder": (decoder.sum() / len(v) ** 2, decoder_mean.mean() ** 2),
    }


@pytest.fixture(scope="module")
def measured():
    torch.set_default_dtype(torch.float64)
    line = Line()
    names = ["Trace_ELBO", "StickingTheLanding", "TraceGraph_ELBO"]
    return pplvae.gradient_noise(line.model, line.guide, V, objectives=names, repeats=1500)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
@pytest.mark.parametrize("objective", ["Trace_ELBO", "StickingTheLanding", "TraceGraph_ELBO"])
def test_the_noise_is_that_of_closed_forms(measured, objective, side):
    variance, squared_mean = exact("Trace_ELBO" if objective == "TraceGraph_ELBO" else objective)[side]
    found = measured.sel(objective=objective, side=side)
    truths = {"variance": variance, "squared_mean": squared_mean, "signal_to_noise": squared_mean / variance}
    for name, truth in truths.items():
        assert float(found[f"{name}_stderr"]) < 0.3 * truth
        assert abs(float(found[name]) - truth) < 4 * float(found[f"{name}_stderr"]), name
    assert measured["parameters"].values.tolist() == [2, 1]


def test_standard_errors_are_those_of_repetitions():
    line = Line()
    truth = exact("Trace_ELBO")["encoder"]
    scores = []
    for seed in range(40):
        found = pplvae.gradient_noise(line.model, line.guide, V, objectives="Trace_ELBO", repeats=50, seed=seed)
        found = found.isel(objective=0).sel(side="encoder")
        scores.append([float((found[name] - exactly) / found[f"{name}_stderr"]) for name, exactly in
                       zip(("variance", "squared_mean"), truth, strict=True)])  # fmt: skip
    spread = np.sqrt(np.mean(np.square(scores), 0))
    assert (spread > 0.7).all(), spread
    assert (spread < 1.5).all(), spread


def test_the_squared_mean_is_zero_on_average_where_the_gradient_is():
    """At the optimum the few gradients of a run have a mean that is noise alone."""
    line, precision = Line(), 1 + W**2 / NOISE**2
    with torch.no_grad():
        line.slope.fill_(W / NOISE**2 / precision)
        line.spread.fill_(-0.5 * np.log(precision))
    asked = {"objectives": ["Trace_ELBO"], "repeats": 4}
    runs = [pplvae.gradient_noise(line.model, line.guide, V, seed=seed, **asked) for seed in range(80)]
    found = np.array([run["squared_mean"].sel(side="encoder").item() for run in runs])
    assert abs(found.mean()) < 3.5 * found.std(ddof=1) / len(found) ** 0.5


def test_the_variance_falls_with_the_number_of_draws():
    line = Line()
    many = pplvae.objectives.StickingTheLanding(particles=10)
    found = pplvae.gradient_noise(line.model, line.guide, V, objectives=["Trace_ELBO", many], repeats=800, particles=5)
    for objective, draws, like in (("Trace_ELBO", 5, "Trace_ELBO"), (found["objective"].values[1], 10, "STL")):
        line = found.sel(objective=objective, side="encoder")
        assert abs(float(line["variance"]) - exact(like)["encoder"][0] / draws) < 4 * float(line["variance_stderr"])
    assert found["objective"].values.tolist() == ["Trace_ELBO", "StickingTheLanding, particles=10"]


def test_parameters_are_found_wherever_they_are_kept():
    def guide(v):
        slope = pyro.param("slope", torch.tensor(SLOPE))
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(slope * v[:, 0], pyro.param("scale", torch.tensor(0.8)).abs()))

    line = Line()
    fit = pplvae.fit(line.model, guide, V, epochs=1)
    found = pplvae.gradient_noise(fit.model, fit.guide, V, objectives=["Trace_ELBO"], repeats=5)
    assert found["parameters"].to_series().to_dict() == {"encoder": 2, "decoder": 1}
    assert not dict(pyro.get_param_store().items())
    line.requires_grad_(False)
    assert pplvae.gradient_noise(line.model, guide, V, repeats=5)["side"].values.tolist() == ["encoder"]
    with pytest.raises(ProgramError, match="Neither program has parameters"):
        pplvae.gradient_noise(line.model, line.guide, V)


@pytest.mark.parametrize("objective", ["Trace_ELBO", "TraceGraph_ELBO"])
def test_gradients_and_modes_of_the_user_stay_as_they_are(objective):
    model, v = random_linear(3, rows=4)
    before = torch.ones_like(model.factors)
    model.factors.grad = before
    pplvae.gradient_noise(model.model, model.guide, v, objectives=[objective], repeats=3)
    assert model.factors.grad is before
    assert bool((before == 1).all())
    assert model.encoder.weight.grad is None
    assert model.training


def test_an_objective_has_the_same_noise_whichever_stand_beside_it(measured):
    line = Line()
    alone = pplvae.gradient_noise(line.model, line.guide, V, objectives="StickingTheLanding", repeats=1500)
    assert (
        alone.isel(objective=0)
        .drop_vars("objective")
        .identical(measured.sel(objective="StickingTheLanding").drop_vars("objective"))
    )


def test_numbers_and_names_that_are_refused():
    line = Line()
    for wrong, words in (({"repeats": 2}, "`repeats` must be at least 3"), ({"particles": 0}, "`particles`"),
                         ({"objectives": ()}, "`objectives` is empty")):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            pplvae.gradient_noise(line.model, line.guide, V, **wrong)
    with pytest.raises(UnknownNameError, match="Did you mean 'IWAE'"):
        pplvae.gradient_noise(line.model, line.guide, V, objectives=["IWEA"])


def test_it_is_what_the_figure_draws(measured):
    axes = plots.gradient_noise(measured)
    (encoder, decoder) = (container[0].get_xdata() for container in axes.containers)
    np.testing.assert_array_equal(encoder, measured["variance"].sel(side="encoder"))
    np.testing.assert_array_equal(decoder, measured["variance"].sel(side="decoder"))
    assert axes.get_legend_handles_labels()[1] == ["encoder", "decoder"]
