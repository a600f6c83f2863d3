"""Programs that Pyro runs: plates without a size, globals by autoguides, mixtures, folds, checks switched off."""

import math

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import autoguide
from statistics_ import assert_within
from torch import nn

import pplvae
from pplvae.errors import PplvaeWarning, RowwiseError
from pplvae.programs.elements import closed_kl

V = torch.tensor([[0.3, -1.2, 0.5], [1.5, 0.2, -0.4], [-0.7, 0.9, 1.1], [2.0, -0.3, 0.1], [0.0, 0.6, -1.4]])
WEIGHT = torch.tensor([1.0, 0.5, -0.4])
SPREAD = 0.7


class Encoder(nn.Module):
    """Rows to a mean and a standard deviation."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 2)
        with torch.no_grad():
            self.net.weight.copy_(torch.tensor([[0.3, -0.1, 0.2], [0.1, 0.2, -0.1]]))
            self.net.bias.copy_(torch.tensor([0.1, -0.2]))

    def forward(self, v):
        loc, log_scale = self.net(v).unbind(-1)
        return loc, log_scale.exp()


def pair(plate):
    """One latent number, rows on a line with noise; `plate` makes the data plate from the number of rows."""
    encoder = Encoder().float()

    def model(v):
        with plate(len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h * WEIGHT, SPREAD).to_event(1), obs=v)

    def guide(v):
        pyro.module("encoder", encoder)
        loc, scale = encoder(v)
        with plate(len(v)):
            pyro.sample("h", dist.Normal(loc.unsqueeze(-1), scale.unsqueeze(-1)).to_event(1))

    return model, guide


def test_a_plate_without_a_size_is_one_over_the_rows():
    """The model's latents, written once for all rows, are spread over them, as in a plate with a size."""
    sized = pplvae.amortisation_gap(*pair(lambda n: pyro.plate("rows", n)), V, particles=100).rows
    unsized = pplvae.amortisation_gap(*pair(lambda _: pyro.plate("rows")), V, particles=100).rows
    np.testing.assert_array_equal(unsized["amortisation_gap"], sized["amortisation_gap"])
    simulated = pplvae.evidence_bracket(*pair(lambda _: pyro.plate("rows")), V).rows
    expected = pplvae.evidence_bracket(*pair(lambda n: pyro.plate("rows", n)), V).rows
    np.testing.assert_array_equal(simulated["lower"], expected["lower"])


def test_a_fit_in_a_plate_without_a_size():
    unsized, sized = (
        pplvae.fit(*pair(plate), V, epochs=3, seed=1)
        for plate in (lambda _: pyro.plate("r"), lambda n: pyro.plate("r", n))
    )
    np.testing.assert_array_equal(unsized.history["objective"], sized.history["objective"])


@pytest.mark.parametrize(
    "kind", ["AutoNormal", "AutoDiagonalNormal", "AutoMultivariateNormal", "AutoLowRankMultivariateNormal", "AutoDelta"]
)
@pytest.mark.statistical
def test_an_autoguide_over_what_belongs_to_all_rows(kind):
    """The mean ELBO of the rows over the autoguide's draws of the slope, by its first two moments."""
    encoder = Encoder().float()

    def model(v):
        slope = pyro.sample("slope", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h * slope, SPREAD).to_event(1), obs=v)

    start = autoguide.init_to_value(values={"slope": WEIGHT})
    options = {} if kind == "AutoDelta" else {"init_scale": 0.1}
    shared = getattr(autoguide, kind)(pyro.poutine.block(model, expose=["slope"]), init_loc_fn=start, **options)

    def guide(v):
        pyro.module("encoder", encoder)
        loc, scale = encoder(v)
        shared(v)
        with pyro.plate("rows", len(v)):
            pyro.sample("h", dist.Normal(loc.unsqueeze(-1), scale.unsqueeze(-1)).to_event(1))

    rows = pplvae.amortisation_gap(model, guide, V, particles=400, max_steps=0).rows
    with torch.no_grad():
        loc, scale = encoder(V)
    square = loc**2 + scale**2
    # Pyro's low-rank start has twice the variance: a diagonal and a factor of the same size.
    variance = {"AutoDelta": 0.0, "AutoLowRankMultivariateNormal": None}.get(kind, 0.01)
    if variance is None:
        with torch.no_grad():
            variance = float(shared.get_posterior().variance.mean())
    error = (V**2).sum(-1) - 2 * loc * (V @ WEIGHT) + square * ((WEIGHT**2).sum() + 3 * variance)
    exact = -0.5 * error / SPREAD**2 - 1.5 * math.log(2 * math.pi * SPREAD**2) - 0.5 * (square - 1) + scale.log()
    assert_within(rows["elbo_amortised"].values - exact.numpy(), rows["elbo_amortised_stderr"].values)


def mixture_pair(make, prior):
    encoder = nn.Linear(3, 5)
    with torch.no_grad():
        for number, parameter in enumerate(encoder.parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(number)) * 0.4)
    encoder = encoder.float()

    def parameters(v):
        out = encoder(v)
        return (
            out[:, :2].unsqueeze(-1) * 3,
            (0.3 * out[:, 2:4]).exp().unsqueeze(-1),
            torch.stack([out[:, 4], -out[:, 4]], -1),
        )

    def model(v):
        with pyro.plate("rows", len(v)):
            h = pyro.sample("h", prior())
            pyro.sample("v", dist.Normal(h * WEIGHT, SPREAD).to_event(1), obs=v)

    def guide(v):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(v)):
            pyro.sample("h", make(*parameters(v)))

    return model, guide, parameters


def same_family(locs, scales, logits):
    return dist.MixtureSameFamily(dist.Categorical(logits=logits), dist.Normal(locs, scales).to_event(1))


def elbo_by_grid(v, q, p):
    """The mean of log p(v, h) - log q(h) under q, on a grid; q and p of one number."""
    h = torch.linspace(-15, 15, 30_001, dtype=torch.float64)
    log_q, log_p = q(h), p(h)
    log_p = log_p + dist.Normal(h.unsqueeze(-1) * WEIGHT.double(), SPREAD).log_prob(v.double()).sum(-1)
    return float(torch.trapezoid(log_q.exp() * (log_p - log_q), h))


@pytest.mark.parametrize("make", [dist.MixtureOfDiagNormals, same_family])
@pytest.mark.parametrize(
    "prior",
    [
        lambda: dist.Normal(torch.zeros(1), 1.0).to_event(1),
        lambda: same_family(torch.tensor([[-1.0], [2.0]]), torch.ones(2, 1), torch.tensor([0.3, -0.3])),
    ],
)
@pytest.mark.statistical
def test_mixtures_in_both_programs(make, prior):
    model, guide, parameters = mixture_pair(make, prior)
    rows = pplvae.amortisation_gap(model, guide, V, particles=4000, max_steps=50).rows
    with torch.no_grad():
        locs, scales, logits = (some.double() for some in parameters(V))
    exact = []
    for row, v in enumerate(V):

        def log_q(h, row=row):
            each = dist.Normal(locs[row, :, 0], scales[row, :, 0]).log_prob(h.unsqueeze(-1))
            return (each + logits[row].log_softmax(-1)).logsumexp(-1)

        exact.append(elbo_by_grid(v, log_q, lambda h: prior().log_prob(h.unsqueeze(-1).float()).double()))
    assert_within(rows["elbo_amortised"].values - np.array(exact), rows["elbo_amortised_stderr"].values)
    assert (rows["amortisation_gap"] > 2 * rows["amortisation_gap_stderr"]).any()
    alone = pplvae.log_weights(model, guide, V[2:3], particles=6)
    torch.testing.assert_close(alone, pplvae.log_weights(model, guide, V, particles=6)[:, 2:3])


def test_a_mixture_whose_draws_have_no_gradients_is_refused_by_name():
    def guide(v):
        with pyro.plate("rows", len(v)):
            parts = dist.Normal(v[:, :2], 1.0)
            pyro.sample("h", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts).expand([len(v)]))

    def model(v):
        with pyro.plate("rows", len(v)):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.sample("v", dist.Normal(h.unsqueeze(-1) * WEIGHT, SPREAD).to_event(1), obs=v)

    with pytest.raises(
        RowwiseError, match=r"'h' has a distribution without reparameterised draws \(MixtureSameFamily\)"
    ):
        pplvae.amortisation_gap(model, guide, V)


def folded(loc, scale):
    return dist.FoldedDistribution(dist.Normal(loc, scale))


def log_folded(h, loc, scale):
    normal = dist.Normal(loc, scale)
    return torch.logaddexp(normal.log_prob(h), normal.log_prob(-h))


def folded_pair():
    encoder = Encoder().float()

    def model(v):
        with pyro.plate("rows", len(v)):
            h = pyro.sample("h", folded(torch.zeros(len(v)), torch.ones(())))
            pyro.sample("v", dist.Normal(h.unsqueeze(-1) * WEIGHT, SPREAD).to_event(1), obs=v)

    def guide(v):
        pyro.module("encoder", encoder)
        with pyro.plate("rows", len(v)):
            pyro.sample("h", folded(*encoder(v)))

    return model, guide, encoder


@pytest.mark.statistical
def test_folded_latents():
    model, guide, encoder = folded_pair()
    rows = pplvae.amortisation_gap(model, guide, V, particles=4000, max_steps=50).rows
    with torch.no_grad():
        loc, scale = (some.double() for some in encoder(V))
    h = torch.linspace(0, 15, 30_001, dtype=torch.float64)
    exact = []
    for row, v in enumerate(V):
        log_q, log_p = log_folded(h, loc[row], scale[row]), log_folded(h, torch.zeros(()).double(), 1.0)
        log_p = log_p + dist.Normal(h.unsqueeze(-1) * WEIGHT.double(), SPREAD).log_prob(v.double()).sum(-1)
        exact.append(float(torch.trapezoid(log_q.exp() * (log_p - log_q), h)))
    assert_within(rows["elbo_amortised"].values - np.array(exact), rows["elbo_amortised_stderr"].values)
    assert np.isfinite(pplvae.fit(model, guide, V, epochs=2, seed=0).history["objective"]).all()


def test_folds_have_no_closed_divergence():
    """Torch has that of the Normals that were folded: 0.25 here, where it is 0.04."""
    q, p = folded(torch.tensor(0.3), torch.tensor(1.0)), folded(torch.tensor(-0.5), torch.tensor(1.2))
    assert closed_kl(q, p) is None
    assert closed_kl(dist.HalfNormal(1.0), p) is None
    halves = closed_kl(dist.HalfNormal(torch.tensor(1.0)), dist.HalfNormal(torch.tensor(2.0)))
    assert float(halves) == pytest.approx(math.log(2) + 1 / 8 - 0.5, abs=1e-6)


def grey_pair(**checks):
    encoder, decoder = Encoder().float(), nn.Linear(1, 3).float()

    def model(v):
        pyro.module("decoder", decoder)
        with pyro.plate("rows", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            pyro.sample("v", dist.Bernoulli(logits=decoder(h), **checks).to_event(1), obs=v)

    def guide(v):
        pyro.module("encoder", encoder)
        loc, scale = encoder(v)
        with pyro.plate("rows", len(v)):
            pyro.sample("h", dist.Normal(loc.unsqueeze(-1), scale.unsqueeze(-1)).to_event(1))

    return model, guide, encoder, decoder


@pytest.mark.statistical
def test_grey_values_where_the_program_says_not_to_check():
    grey = torch.sigmoid(V)
    model, guide, encoder, decoder = grey_pair(validate_args=False)
    with pytest.warns(
        PplvaeWarning, match=r"site 'v'.*Bernoulli cannot produce.*validate_args=False.*ContinuousBernoulli"
    ):
        rows = pplvae.amortisation_gap(model, guide, grey, particles=4000, max_steps=0).rows
    with torch.no_grad():
        loc, scale = encoder(grey)
        h = loc.double() + scale.double() * torch.linspace(-8, 8, 4001, dtype=torch.float64).unsqueeze(-1)
        logits = decoder(h.float().unsqueeze(-1)).double()
        entropy = nn.functional.binary_cross_entropy_with_logits(
            logits, grey.double().expand_as(logits), reduction="none"
        )
        away = torch.linspace(-8, 8, 4001, dtype=torch.float64)
        mean = torch.trapezoid((-0.5 * away**2).exp().unsqueeze(-1) * entropy.sum(-1), away, dim=0) / math.sqrt(
            2 * math.pi
        )
        exact = -mean - 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log())
    assert_within(rows["elbo_amortised"].values - exact.numpy(), rows["elbo_amortised_stderr"].values)
    with pytest.raises(pplvae.errors.DataError, match="Bernoulli takes 0 or 1"):
        pplvae.amortisation_gap(*grey_pair()[:2], grey)
