"""`from_torch`: densities as the user's own formulas have them, whatever the convention; and refusals in words."""

import copy
import pickle
import re
from collections import namedtuple
from types import SimpleNamespace

import pyro.poutine as poutine
import pytest
import torch
from torch import distributions as td
from torch import nn

import pplvae
from pplvae.errors import DataError, PplvaeWarning, ProgramError, ShapeError, UnknownNameError
from pplvae.isolate import import_zuko

ROWS, COLUMNS, LATENT = 12, 5, 2
V = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
BINARY = (V > 0).double()


def as_they_are(loc, scale):
    return loc, scale


class Moments(nn.Module):
    """A mean and a positive scale of each latent, given in any form."""

    def __init__(self, form=as_they_are):
        super().__init__()
        self.loc, self.raw, self.form = nn.Linear(COLUMNS, LATENT), nn.Linear(COLUMNS, LATENT), form

    def moments(self, v):
        return self.loc(v), nn.functional.softplus(self.raw(v))

    def forward(self, v):
        return self.form(*self.moments(v))


class Whole(nn.Module):
    """A VAE with methods."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = Moments(), nn.Linear(LATENT, COLUMNS)

    def encode(self, v):
        loc, scale = self.encoder(v)
        return loc, 2 * scale.log()

    def decode(self, h):
        return torch.sigmoid(self.decoder(h))


def pair_of(encoder=None, decoder=None, likelihood="bernoulli", **said):
    torch.manual_seed(1)
    return pplvae.from_torch(
        Moments() if encoder is None else encoder,
        nn.Linear(LATENT, COLUMNS) if decoder is None else decoder,
        likelihood=likelihood,
        **{"encoder_output": "loc-scale", "decoder_output": "logits" if likelihood == "bernoulli" else None} | said,
    )


def densities(pair, *tensors):
    """A draw, and log q(h), log p(h) and log p(v | h) of each row."""
    model, guide = pair
    drawn = poutine.trace(guide).get_trace(*tensors)
    h = drawn.nodes["h"]["value"]
    seen = poutine.trace(poutine.condition(model, {"h": h})).get_trace(*tensors)
    for trace in (drawn, seen):
        trace.compute_log_prob()
    return h, drawn.nodes["h"]["log_prob"], seen.nodes["h"]["log_prob"], seen.nodes["v"]["log_prob"]


def normal(h, loc, scale):
    return td.Normal(loc, scale).log_prob(h).flatten(1).sum(1)


# ------------------------------------------------------------------------------ what an encoder gives

Named = namedtuple("Named", "mu log_var")
ENCODERS = {
    "two": ("loc-scale", lambda loc, scale: (loc, scale)),
    "a list": ("loc-logvar", lambda loc, scale: [loc, 2 * scale.log()]),
    "one tensor": ("loc-logscale", lambda loc, scale: torch.cat([loc, scale.log()], 1)),
    "variance": ("loc-var", lambda loc, scale: (loc, scale**2)),
    "a mapping": (None, lambda loc, scale: {"z_mean": loc, "z_log_var": 2 * scale.log()}),
    "an object": (None, lambda loc, scale: SimpleNamespace(mu=loc, std=scale, other=loc)),
    "a named tuple": (None, lambda loc, scale: Named(loc, 2 * scale.log())),
    "a distribution": (None, td.Normal),
    "an independent one": ("distribution", lambda loc, scale: td.Independent(td.Normal(loc, scale), 1)),
    "full covariance": (None, lambda loc, scale: td.MultivariateNormal(loc, torch.diag_embed(scale**2))),
    "a function": (lambda out: (out[1], out[0]), lambda loc, scale: (scale, loc)),
    "a function to a distribution": (lambda out: td.Normal(*out[:2]), lambda loc, scale: (loc, scale, loc)),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_what_the_encoder_says_is_the_guide(name):
    said, form = ENCODERS[name]
    encoder = Moments(form)
    h, log_q, log_p, _ = densities(pair_of(encoder, encoder_output=said, rows=BINARY), BINARY)
    torch.testing.assert_close(log_q, normal(h, *encoder.moments(BINARY)))
    torch.testing.assert_close(log_p, normal(h, torch.zeros(()), torch.ones(())))


def test_a_flow_of_zuko_is_the_guide_and_its_context_lambda():
    zuko = import_zuko()

    class Flow(nn.Module):
        def __init__(self):
            super().__init__()
            self.net, self.flow = nn.Linear(COLUMNS, 3), zuko.flows.MAF(LATENT, 3, transforms=1, hidden_features=(4,))

        def forward(self, v):
            return self.flow(self.net(v))

    encoder = Flow()
    pair = pair_of(encoder, encoder_output=None, rows=BINARY)
    h, log_q, *_ = densities(pair, BINARY)
    torch.testing.assert_close(log_q, encoder(BINARY).log_prob(h))
    found = pplvae.amortisation_gap(*pair, BINARY[:3], particles=200).rows
    assert (found["amortisation_gap"] > -3 * found["amortisation_gap_stderr"]).all()


UNSAID = {
    "two tensors": (lambda loc, scale: (loc, scale.log() - 5), None, "neither a scale nor a variance.*'loc-logvar'"),
    "positive ones": (lambda loc, scale: (loc, scale), None, r"between .* 'loc-var' .*'loc-scale'"),
    "not positive": (
        lambda loc, scale: (loc, scale.log() - 5),
        "loc-scale",
        "down to -.*'loc-logvar' or 'loc-logscale'",
    ),
    "deterministic": (lambda loc, scale: loc[:, :1], None, "deterministic.*no density"),
    "one number": (lambda loc, scale: loc[:, 0], None, "deterministic.*no density"),
    "halves": (lambda loc, scale: torch.cat([loc, scale], 1), None, "Of its halves the second lies.*deterministic"),
    "deterministic, halved": (lambda loc, scale: loc[:, :1], "loc-logvar", "deterministic.*no density"),
    "three": (lambda loc, scale: (loc, scale, loc), "loc-scale", r"tuple of 3.*`encoder_output=function`"),
    "no names": (lambda loc, scale: {"a": loc, "b": scale}, "loc-scale", "'a', 'b'.*not one name each"),
    "no distribution": (lambda loc, scale: (loc, scale), "distribution", "says a `torch.distributions` object"),
    "a distribution": (td.Normal, "loc-scale", "gives Normal.*, a distribution of its own"),
    "not by row": (lambda loc, scale: td.Normal(loc.mean(0), scale.mean(0)), None, "first axis must be the rows"),
}


@pytest.mark.parametrize("name", UNSAID)
def test_what_an_encoder_means_is_not_guessed(name):
    form, said, words = UNSAID[name]
    with pytest.raises(ProgramError, match=words):
        pair_of(Moments(form), encoder_output=said, rows=BINARY)


# ------------------------------------------------------------------------------ what a decoder gives


class Decoder(nn.Module):
    def __init__(self, form):
        super().__init__()
        self.net, self.form = nn.Linear(LATENT, COLUMNS), form

    def forward(self, h):
        return self.form(self.net(h))


SCALE = torch.linspace(0.5, 1.5, COLUMNS, dtype=torch.float64)
COUNTS = (3 * V.abs()).round()
CODES = torch.randint(0, 3, (ROWS, COLUMNS), generator=torch.Generator().manual_seed(0)).double()
DECODERS = {
    "logits": (BINARY, "bernoulli", {}, lambda net: net, lambda net: td.Bernoulli(logits=net)),
    "probs": (BINARY, "bernoulli", {"decoder_output": "probs"}, torch.sigmoid, lambda net: td.Bernoulli(logits=net)),
    "continuous": (
        *(BINARY * 0.3, "continuous-bernoulli", {"decoder_output": "probs"}, torch.sigmoid),
        lambda net: td.ContinuousBernoulli(logits=net),
    ),
    "mean": (V, "gaussian", {"scale": 0.7}, lambda net: net, lambda net: td.Normal(net, 0.7)),
    "a scale by column": (V, "gaussian", {"scale": SCALE}, lambda net: net, lambda net: td.Normal(net, SCALE)),
    "mean by name": (
        V,
        "gaussian",
        {"scale": 1.0},
        lambda net: {"reconstruction": net},
        lambda net: td.Normal(net, 1.0),
    ),
    "absolute error": (V, "laplace", {"scale": 0.7}, lambda net: net, lambda net: td.Laplace(net, 0.7)),
    "mean and log variance": (
        *(V, "gaussian", {"decoder_output": "loc-logvar"}, lambda net: (net, net - 1)),
        lambda net: td.Normal(net, (0.5 * (net - 1)).exp()),
    ),
    "rate": (COUNTS, "poisson", {"decoder_output": "rate"}, torch.exp, lambda net: td.Poisson(net.exp())),
    "log rate": (COUNTS, "poisson", {"decoder_output": "log-rate"}, lambda net: net, lambda net: td.Poisson(net.exp())),
    "classes": (
        *(CODES, "categorical", {}, lambda net: torch.stack([net, -net, net / 2], 1)),
        lambda net: td.Categorical(logits=torch.stack([net, -net, net / 2], -1)),
    ),
    "a distribution": (V, "distribution", {}, lambda net: td.Normal(net, 2.0), lambda net: td.Normal(net, 2.0)),
    "a function": (V, lambda out: td.StudentT(3.0, out), {}, lambda net: net, lambda net: td.StudentT(3.0, net)),
    "ours": (V, pplvae.likelihoods.GaussianFixed(0.5), {}, lambda net: net, lambda net: td.Normal(net, 0.5)),
    "in another shape": (
        *(
            V,
            "gaussian",
            {"scale": SCALE},
            lambda net: net.reshape(-1, 1, COLUMNS, 1),
            lambda net: td.Normal(net, SCALE),
        ),
    ),
}


@pytest.mark.parametrize("name", DECODERS)
def test_what_the_decoder_says_is_the_likelihood(name):
    rows, likelihood, said, form, law = DECODERS[name]
    decoder = Decoder(form)
    h, *_, log_p = densities(
        pair_of(decoder=decoder, likelihood=likelihood, rows=rows, **{"decoder_output": None} | said), rows
    )
    torch.testing.assert_close(log_p, law(decoder.net(h)).log_prob(rows).sum(1))


REFUSED = {
    "no density": (V, {"likelihood": None}, ProgramError, "without a density"),
    "a name": (V, {"likelihood": "mse"}, UnknownNameError, "Unknown likelihood of a torch decoder 'mse'"),
    "logits?": (
        BINARY,
        {"decoder": lambda: Decoder(torch.sigmoid), "decoder_output": None},
        ProgramError,
        "not said whether",
    ),
    "no probabilities": (BINARY, {"decoder_output": "probs"}, ProgramError, "says probabilities.*'logits'"),
    "a mean alone": (V, {"likelihood": "gaussian"}, ProgramError, r"squared error says one .*`scale=0.5 \*\* 0.5`"),
    "a scale of bits": (BINARY, {"scale": 1.0}, ProgramError, "`scale` goes with"),
    "not positive": (V, {"likelihood": "gaussian", "scale": -1.0}, ValueError, "must be positive.*exp"),
    "of another kind": (V, {"decoder_output": "rate"}, UnknownNameError, "Known: logits, probs"),
    "its own": (V, {"decoder": lambda: Decoder(lambda net: td.Normal(net, 1.0))}, ProgramError, "'distribution'"),
    "rate or log rate": (COUNTS, {"likelihood": "poisson"}, ProgramError, "'rate'` or .*'log-rate'"),
    "too wide": (
        BINARY,
        {"decoder": lambda: nn.Linear(LATENT, 7)},
        ShapeError,
        r"shape \(7,\) .* rows have shape \(3, 5\)",
    ),
    "pictures": (BINARY.reshape(ROWS, 1, COLUMNS, 1), {}, ShapeError, r"takes them flat.*`rows.flatten\(1\)`"),
    "bytes": (255 * BINARY, {}, DataError, "values from 0 to 255.*Scale bytes"),
    "a loss": (V, {"likelihood": lambda out: out}, ProgramError, "The likelihood gives Tensor"),
    "totals": (COUNTS, {"likelihood": pplvae.likelihoods.Poisson()}, ProgramError, "takes each row's total"),
    "a prior by name": (BINARY, {"prior": "vamp"}, UnknownNameError, "Known: standard-normal"),
    "another dimension": (BINARY, {"latent": 3}, ProgramError, r"shape \(2,\) .* `latent` says \(3,\)"),
    "a function": (
        BINARY,
        {"decoder": lambda: torch.sigmoid},
        ProgramError,
        "must be an `nn.Module`, or a method of one",
    ),
    "a loss without rows": (None, {"loss": sum}, ProgramError, "pass `rows=`"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_read_is_refused_in_words(name):
    rows, said, kind, words = REFUSED[name]
    made = {name: value() if name == "decoder" else value for name, value in said.items()}
    with pytest.raises(kind, match=words):
        pair_of(rows=rows, **made)


def test_one_module_without_methods_is_asked_for_its_networks():
    with pytest.raises(ProgramError, match=r"no `encode`. It holds '0'. Pass both"):
        pplvae.from_torch(nn.Sequential(nn.Linear(2, 2)), likelihood="bernoulli")


def test_grey_pixels_are_taken_as_binary_cross_entropy_takes_them():
    vae, grey = Whole(), torch.rand(ROWS, COLUMNS)
    with pytest.warns(PplvaeWarning, match="no log-density of such values"):
        pair = pplvae.from_torch(
            vae, likelihood="bernoulli", encoder_output="loc-logvar", decoder_output="probs", rows=grey
        )
    h, *_, log_p = densities(pair, grey)
    loss = nn.functional.binary_cross_entropy(vae.decode(h), grey, reduction="none").sum(1)
    torch.testing.assert_close(log_p, -loss)


# ------------------------------------------------------------------------------ priors, and inputs beside the rows


class Conditional(nn.Module):
    def __init__(self, inputs, outputs):
        super().__init__()
        self.net = nn.Linear(inputs + 3, outputs)

    def forward(self, first, c):
        return self.net(torch.cat([first, c], 1))


class PriorNet(nn.Module):
    def __init__(self, *inputs):
        super().__init__()
        self.net = nn.Linear(3, LATENT)
        self.loc = nn.Parameter(torch.tensor([1.0, -1.0]))

    def forward(self, c):
        return td.Normal(self.net(c), 0.5)


class Learned(PriorNet):
    def forward(self):
        return td.Normal(self.loc, 2.0)


def test_extra_inputs_go_to_each_network_that_takes_them():
    c = torch.eye(3, dtype=torch.float64).repeat(4, 1)
    encoder, decoder, prior = Conditional(COLUMNS, 2 * LATENT), Conditional(LATENT, COLUMNS), PriorNet()
    said = {"encoder_output": "loc-logscale", "prior": prior}
    h, log_q, log_p, log_v = densities(pair_of(encoder, decoder, rows=(BINARY, c), **said), BINARY, c)
    loc, raw = encoder(BINARY, c).chunk(2, 1)
    torch.testing.assert_close(log_q, normal(h, loc, raw.exp()))
    torch.testing.assert_close(log_p, normal(h, prior.net(c), torch.tensor(0.5)))
    torch.testing.assert_close(log_v, td.Bernoulli(logits=decoder(h, c)).log_prob(BINARY).sum(1))
    # A network that takes none of them is called without.
    h, log_q, *_ = densities(pair_of(plain := Moments(), decoder, rows=(BINARY, c)), BINARY, c)
    torch.testing.assert_close(log_q, normal(h, *plain.moments(BINARY)))


def test_inputs_that_may_be_left_out_are_not_guessed():
    class Perhaps(Conditional):
        def forward(self, first, c=None):
            return super().forward(first, c)

    c = torch.zeros(ROWS, 3)
    with pytest.raises(ProgramError, match="may be called without 'c'"):
        pair_of(decoder=Perhaps(LATENT, COLUMNS), rows=(BINARY, c))
    with pytest.raises(ProgramError, match="takes 2 inputs, and the rows have 1"):
        pair_of(decoder=Conditional(LATENT, COLUMNS), rows=BINARY)
    with pytest.raises(ProgramError, match="The prior takes 1 inputs"):
        pair_of(prior=PriorNet(), rows=BINARY)


@pytest.mark.parametrize(
    ("prior", "law"),
    [
        (td.Laplace(0.0, 1.0), td.Laplace(0.0, 1.0)),
        (td.Independent(td.Normal(torch.ones(2).double(), 2.0), 1), td.Normal(1.0, 2.0)),
        ((torch.ones(2), 3.0), td.Normal(1.0, 3.0)),
        (pplvae.priors.Laplace(LATENT), None),
        (Learned().double(), td.Normal(torch.tensor([1.0, -1.0]).double(), 2.0)),
        (
            td.MixtureSameFamily(
                td.Categorical(torch.tensor([0.3, 0.7]).double()),
                td.Independent(td.Normal(torch.tensor([[1.0, 0.0], [-1.0, 2.0]]).double(), 1.0), 1),
            ),
            None,
        ),
    ],
    ids=["numbers", "distribution", "loc and scale", "ours", "a module", "a mixture"],
)
def test_priors(prior, law):
    h, _, log_p, _ = densities(pair_of(prior=prior, rows=BINARY), BINARY)
    own = prior if isinstance(prior, td.Distribution) else prior(h) if law is None else None
    wanted = own.log_prob(h) if law is None else law.log_prob(h).sum(1)
    torch.testing.assert_close(log_p, wanted)


def test_trained_parameters_are_those_of_the_user():
    loc, log_scale = nn.Parameter(torch.zeros(LATENT)), nn.Parameter(torch.zeros(()))
    scale = nn.Parameter(torch.ones(COLUMNS))
    encoder, decoder = Moments(), nn.Linear(LATENT, COLUMNS)
    model, guide = pair_of(encoder, decoder, likelihood="gaussian", scale=scale, prior=(loc, 1.0), rows=V)
    assert {id(p) for p in model.parameters()} == {id(p) for p in (*decoder.parameters(), loc, scale)}
    assert {id(p) for p in guide.parameters()} == {id(p) for p in encoder.parameters()}
    for spoilt in (log_scale.exp(), td.Normal(loc, 1.0)):
        key = "scale" if isinstance(spoilt, torch.Tensor) else "prior"
        with pytest.raises(ProgramError, match=r"computed from parameters, once|parameters that are trained"):
            pair_of(likelihood="gaussian", rows=V, **{"scale": 1.0, key: spoilt})
    with pytest.raises(ProgramError, match="parameter that belongs to no module of the model"):
        pair_of(likelihood="gaussian", scale=lambda: log_scale.exp(), rows=V)


# ------------------------------------------------------------------------------ the pair at work


def test_gap_of_a_linear_vae_is_that_of_its_closed_form():
    """log p(v) is normal; the best factorised guide has the posterior's mean and inverse precisions."""
    torch.manual_seed(3)
    encoder, decoder, s = Moments(), nn.Linear(LATENT, COLUMNS), 0.6
    pair = pair_of(encoder, decoder, likelihood="gaussian", scale=s)
    found = pplvae.amortisation_gap(*pair, V, particles=2000).rows
    w, b = decoder.weight.detach(), decoder.bias.detach()
    precision = torch.eye(LATENT) + w.T @ w / s**2
    evidence = td.MultivariateNormal(b, w @ w.T + s**2 * torch.eye(COLUMNS)).log_prob(V)
    best = evidence - 0.5 * (precision.diagonal().log().sum() - precision.logdet())
    loc, scale = (part.detach() for part in encoder.moments(V))
    posterior = td.MultivariateNormal((V - b) @ w / s**2 @ precision.inverse(), precision_matrix=precision)
    kl = td.kl_divergence(td.MultivariateNormal(loc, torch.diag_embed(scale**2)), posterior)
    for name, wanted in (("elbo_local", best), ("elbo_amortised", evidence - kl)):
        error = torch.tensor(found[f"{name}_stderr"].values).clamp(min=0.002)
        assert bool(((torch.tensor(found[name].values) - wanted).abs() < 5 * error).all()), name


def test_the_networks_are_trained_in_place_and_nothing_is_found_wrong():
    vae = Whole()
    pair = pplvae.from_torch(vae, likelihood="bernoulli", encoder_output="loc-logvar", decoder_output="probs")
    assert not pplvae.check(*pair, BINARY)
    before = copy.deepcopy(vae.state_dict())
    fit = pplvae.fit(*pair, BINARY, epochs=3)
    assert all(not torch.equal(before[name], value) for name, value in vae.state_dict().items())
    elbo = pplvae.log_weights(fit.model, fit.guide, BINARY, particles=3)
    torch.testing.assert_close(elbo, pplvae.log_weights(*pair, BINARY, particles=3))
    decoder = copy.deepcopy(vae.decoder.state_dict())
    pplvae.fit(*pair, BINARY, epochs=2, train="guide")
    assert all(torch.equal(decoder[name], value) for name, value in vae.decoder.state_dict().items())


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning", "ignore:.*torch.jit:FutureWarning")
@pytest.mark.parametrize("compiled", [lambda net: torch.compile(net, backend="eager"), torch.jit.script])
def test_networks_that_are_compiled_are_read_as_they_are(compiled, monkeypatch):
    monkeypatch.setattr(td.Distribution, "_validate_args", True)  # torch's compiler switches it off for the process
    encoder, decoder = nn.Linear(COLUMNS, 2 * LATENT), nn.Linear(LATENT, COLUMNS)
    said = {"encoder_output": "loc-logvar", "decoder_output": "logits", "rows": BINARY}
    wanted = pplvae.log_weights(*pair_of(encoder, decoder, **said), BINARY)
    found = pplvae.log_weights(*pair_of(compiled(encoder), compiled(decoder), **said), BINARY)
    torch.testing.assert_close(found, wanted)


def test_running_means_of_training_are_left_alone():
    encoder = nn.Sequential(nn.BatchNorm1d(COLUMNS), nn.Linear(COLUMNS, 2 * LATENT), nn.Dropout())
    pair = pair_of(encoder, encoder_output="loc-logscale", rows=BINARY)
    before = copy.deepcopy(encoder.state_dict())
    pplvae.log_weights(*pair, BINARY)
    assert encoder.training
    assert all(torch.equal(before[name], value) for name, value in encoder.state_dict().items())


def test_a_run_folder_brings_the_networks_back(tmp_path):
    pair = pair_of()
    pplvae.fit(*pair, BINARY, epochs=2, run=tmp_path / "run")
    wanted = pplvae.log_weights(*pair, BINARY)
    fresh = pair_of(latent=LATENT)
    again = pplvae.load_fit(tmp_path / "run", *fresh, BINARY)
    torch.testing.assert_close(pplvae.log_weights(again.model, again.guide, BINARY), wanted)


def test_pairs_are_copied_and_pickled_with_their_networks():
    pair = pplvae.from_torch(
        Whole(), likelihood="bernoulli", encoder_output="loc-logvar", decoder_output="probs", rows=BINARY
    )
    wanted = pplvae.log_weights(*pair, BINARY)
    for other in (pickle.loads(pickle.dumps(pair)), copy.deepcopy(pair)):
        torch.testing.assert_close(pplvae.log_weights(*other, BINARY), wanted)


def test_a_model_that_is_run_first_needs_to_be_told_the_dimension():
    model, _ = pair_of()
    with pytest.raises(ProgramError, match="Run the guide first, or pass `latent=`"):
        model(BINARY)
    model, _ = pair_of(latent=LATENT)
    assert poutine.trace(model).get_trace(BINARY).nodes["h"]["value"].shape == (ROWS, LATENT)


def test_pictures_with_latents_in_maps():
    encoder, decoder = nn.Conv2d(1, 4, 3, 2, 1), nn.ConvTranspose2d(2, 1, 4, 2, 1)
    pictures = torch.rand(6, 1, 4, 4).round()
    pair = pair_of(encoder, decoder, encoder_output="loc-logvar", rows=pictures)
    h, log_q, *_, log_v = densities(pair, pictures)
    assert h.shape == (6, 2, 2, 2)
    loc, raw = encoder(pictures).chunk(2, 1)
    torch.testing.assert_close(log_q, normal(h, loc, (0.5 * raw).exp()))
    torch.testing.assert_close(log_v, td.Bernoulli(logits=decoder(h)).log_prob(pictures).flatten(1).sum(1))
    assert (pplvae.amortisation_gap(*pair, pictures, particles=200).rows["amortisation_gap"] > 0).all()


def test_the_text_says_what_the_pair_is_made_of():
    said = repr(pair_of(likelihood="gaussian", scale=0.5))
    assert re.search(
        "encoder Moments -> loc-scale; decoder Linear .*; likelihood gaussian, scale 0.5; prior standard", said
    )
