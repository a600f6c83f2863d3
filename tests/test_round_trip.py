"""A user's own loss against the ELBO of the pair: found to be it, or what else it is, and never more than is seen."""

import re
import warnings

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import pplvae
from pplvae.errors import DataError, PplvaeWarning, ProgramError

ROWS, COLUMNS, LATENT = 200, 6, 2
BINARY = (torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0)) > 0).double()
REAL = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
COUNTS = (3 * REAL.abs()).round()


class VAE(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.first, self.last = nn.Linear(COLUMNS, 2 * LATENT), last
        self.decoder = nn.Linear(LATENT, COLUMNS)

    def encode(self, v):
        return self.first(v).chunk(2, 1)

    def decode(self, h):
        return self.last(self.decoder(h))

    def forward(self, v):
        mu, log_var = self.encode(v)
        h = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
        return self.decode(h), mu, log_var


def kl(mu, log_var):
    return -0.5 * (1 + log_var - mu**2 - log_var.exp()).sum()


def bce(shown, v):
    return F.binary_cross_entropy(shown, v, reduction="sum")


def squares(shown, v):
    return F.mse_loss(shown, v, reduction="sum")


KINDS = {
    "bernoulli": (BINARY, torch.sigmoid, {"likelihood": "bernoulli", "decoder_output": "probs"}),
    "gaussian": (REAL, nn.Identity(), {"likelihood": "gaussian", "scale": 1.0}),
    "poisson": (COUNTS, torch.exp, {"likelihood": "poisson", "decoder_output": "rate"}),
}


def compared(loss, kind="bernoulli", rows=None, **said):
    """`loss(vae, v)` against the ELBO."""
    own, last, known = KINDS[kind]
    torch.manual_seed(2)
    vae = VAE(last)
    said = {"encoder_output": "loc-logvar", **known, **said}
    return pplvae.from_torch(vae, rows=own if rows is None else rows, loss=lambda v: loss(vae, v), **said).round_trip


def of(reconstruction, weight=1.0, unit=lambda v: 1.0):
    """A loss as people write it."""

    def loss(vae, v):
        shown, mu, log_var = vae(v)
        return (reconstruction(shown, v) + weight * kl(mu, log_var)) * unit(v)

    return loss


def drawn(vae, v):
    mu, log_var = vae.encode(v)
    q, p = torch.distributions.Normal(mu, (0.5 * log_var).exp()), torch.distributions.Normal(0.0, 1.0)
    h = q.rsample()
    return bce(vae.decode(h), v) + (q.log_prob(h) - p.log_prob(h)).sum()


class Drawing(nn.Module):
    """An encoder that draws itself."""

    def __init__(self):
        super().__init__()
        self.first, self.decoder = nn.Linear(COLUMNS, 2 * LATENT), nn.Linear(LATENT, COLUMNS)

    def encode(self, v):
        mu, log_var = self.first(v).chunk(2, 1)
        return mu + (0.5 * log_var).exp() * torch.randn_like(mu), mu, log_var

    def decode(self, h):
        return self.decoder(h)

    def loss(self, v):
        h, mu, log_var = self.encode(v)
        return F.binary_cross_entropy_with_logits(self.decode(h), v, reduction="sum") + kl(mu, log_var)


def test_an_encoder_that_draws_itself_has_the_same_noise():
    torch.manual_seed(2)
    vae = Drawing()
    said = {"encoder_output": lambda out: (out[1], (0.5 * out[2]).exp()), "decoder_output": "logits"}
    found = pplvae.from_torch(vae, likelihood="bernoulli", rows=BINARY, loss=vae.loss, **said).round_trip
    assert (found.draws, found.is_elbo) == (1, True)


ELBOS = {
    "sum": (of(bce), "bernoulli", "sum over rows.*It is minus the ELBO.$"),
    "mean": (of(bce, unit=lambda v: 1 / len(v)), "bernoulli", "mean over rows.*It is minus the ELBO.$"),
    "by column": (
        *(of(bce, unit=lambda v: 1 / v.numel()), "bernoulli"),
        "It is minus the ELBO divided by the 6 columns.$",
    ),
    "drawn KL": (drawn, "bernoulli", "It is minus the ELBO.$"),
    "in a dictionary": (lambda vae, v: {"loss": of(bce)(vae, v)}, "bernoulli", "It is minus the ELBO.$"),
    "half the squares": (
        *(of(lambda shown, v: 0.5 * squares(shown, v)), "gaussian"),
        "minus the ELBO, without the Gaussian's normaliser, 5.514 nats per row.$",
    ),
    "a constant": (of(lambda shown, v: bce(shown, v) + 2 * len(v)), "bernoulli", "and a constant of 2 per row.$"),
    "without factorials": (
        of(lambda shown, v: F.poisson_nll_loss(shown, v, log_input=False, reduction="sum", eps=0.0)),
        *("poisson", "It is minus the ELBO, without log v! of the counts.$"),
    ),
}


@pytest.mark.parametrize("name", ELBOS)
def test_a_loss_that_is_the_elbo(name):
    loss, kind, words = ELBOS[name]
    found = compared(loss, kind)
    assert found.is_elbo
    assert found.draws == 1
    assert found.weight == pytest.approx(1.0, abs=1e-6)
    assert re.search(words, str(found)), found


WEIGHTED = {
    "a weight": (of(bce, 4.0), "bernoulli", 4.0, "weight of its KL term is 4; "),
    "the squares": (of(squares), "gaussian", 0.5, "weight of its KL term is 0.5; .*`scale=0.7071`"),
    "a mean and a sum": (
        *(of(lambda shown, v: bce(shown, v) / COLUMNS), "bernoulli", 6.0),
        "weight of its KL term is 6; .* mean over the 6 columns, and the KL term is a sum",
    ),
}


@pytest.mark.parametrize("name", WEIGHTED)
def test_another_weight_is_told(name):
    loss, kind, weight, words = WEIGHTED[name]
    with pytest.warns(PplvaeWarning, match=words):
        found = compared(loss, kind)
    assert not found.is_elbo
    assert found.weight == pytest.approx(weight, rel=1e-6)


def test_a_mean_beside_a_sum_over_the_rows_hangs_on_the_batch_size():
    with pytest.warns(PplvaeWarning, match="weights hang on the batch size"):
        found = compared(of(lambda shown, v: bce(shown, v) / len(v)))
    assert found.reductions == ("mean", "sum")


def test_a_loss_with_noise_of_its_own_is_told_within_its_errors():
    def loss(vae, v):
        torch.randn(3)  # beside what the pair draws
        return of(bce, 2.0)(vae, v)

    with pytest.warns(PplvaeWarning, match="with 32 draws each"):
        found = compared(loss)
    assert found.draws == 32
    assert 0.9 < found.weight - 1 < 1.1
    assert abs(found.weight - 2) < 5 * (found.stderr[0] + found.stderr[1])


@pytest.mark.parametrize(
    ("kind", "said", "words"),
    [
        (
            "bernoulli",
            {"encoder_output": "loc-logscale"},
            "With `encoder_output='loc-logvar'` it agrees.*minus the ELBO",
        ),
        ("bernoulli", {"decoder_output": "logits"}, "With `decoder_output='probs'` it agrees"),
        ("bernoulli", {"prior": (0.5, 2.0)}, "Other priors.*leave `loss` out"),
    ],
)
def test_a_loss_of_another_convention_is_refused_with_that_one(kind, said, words):
    with pytest.raises(ProgramError, match=words):
        compared(of(bce), kind, **said)


def test_terms_that_the_elbo_lacks_are_no_elbo():
    def loss(vae, v):
        shown, mu, log_var = vae(v)
        return bce(shown, v) + kl(mu, log_var) + 5 * len(v) * mu.std(0).sum()

    with pytest.raises(ProgramError, match=r"no sum of -log p\(v | h\) and KL explains it"):
        compared(loss)


def test_a_small_term_is_not_hidden_by_the_sizes_of_the_batches():
    def loss(vae, v):
        return of(bce)(vae, v) + 0.01 * len(v) * vae.encode(v)[0].std(0).sum()

    with pytest.raises(ProgramError, match=r"no sum of -log p\(v | h\) and KL explains it"):
        compared(loss)


def test_an_importance_weighted_bound_is_no_elbo():
    def loss(vae, v):
        mu, log_var = vae.encode(v)
        q = torch.distributions.Normal(mu, (0.5 * log_var).exp())
        h = q.rsample((20,))
        log_w = torch.distributions.Normal(0.0, 1.0).log_prob(h).sum(-1) - q.log_prob(h).sum(-1)
        log_w = log_w - F.binary_cross_entropy(vae.decode(h), v.expand(20, *v.shape), reduction="none").sum(-1)
        return -(log_w.logsumexp(0) - torch.tensor(20.0).log()).sum()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PplvaeWarning)
        try:
            found = compared(loss)
        except ProgramError:
            return
    assert not found.is_elbo


def test_factors_that_the_rows_do_not_tell_are_not_told():
    same = BINARY[:1].repeat(ROWS, 1)
    with pytest.warns(PplvaeWarning, match="vary too little between these"):
        found = compared(of(bce, 4.0), rows=same)
    assert not found.told_apart
    assert not found.is_elbo


def test_losses_that_cannot_be_compared():
    with pytest.raises(DataError, match="8 rows or more are needed, got 5"):
        compared(of(bce), rows=BINARY[:5])
    with pytest.raises(ProgramError, match="The loss gives str"):
        compared(lambda vae, v: "low")
    with pytest.raises(ProgramError, match="The loss raised ZeroDivisionError"):
        compared(lambda vae, v: 1 / 0)
