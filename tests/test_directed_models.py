"""Directed models: the chain rule, Markov chains, deep Markov models, decoders with parents; fits without latents."""

import itertools
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import typer
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from scipy import stats
from statistics_ import LEVEL, assert_frequency, assert_within, standard_errors
from torch import distributions as td
from workflow import check_command, check_pair

import pplvae
from pplvae.commands import fitting, measuring
from pplvae.errors import DataError, ProgramError, RowwiseError, ShapeError, UnknownNameError
from pplvae.likelihoods import Bernoulli, Gaussian
from pplvae.models import AutoregressiveVAE, ChainRule, DeepMarkov, MarkovChain, no_latents
from pplvae.nets import BackwardRNN, MaskedMLP

CHORALES = Path(pplvae.__file__).parents[2] / "shared/data/jsb_chorales/jsb_chorales.npz"


def all_rows(columns):
    return torch.tensor(list(itertools.product((0.0, 1.0), repeat=columns)))


def stirred(module, scale=1.5):
    """Weights far from the small ones of a fresh network, so that every dependence shows."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.add_(scale * torch.randn_like(parameter) / max(1, parameter[..., :1].numel()) ** 0.5)
    return module


def assert_drawn_as_often(rows, codes, probs):
    """Drawn rows have these probabilities."""
    assert_frequency((rows.flatten(1).unsqueeze(1) == codes).all(-1).sum(0), len(rows), probs.detach())


# Masked networks


@pytest.mark.parametrize(("heads", "context"), [([1], 0), ([1, 1], 0), ([3], 0), ([1, 2], 3)], ids=str)
def test_jacobian_respects_the_order(heads, context):
    net = stirred(MaskedMLP(5, [16, 12], heads, context))
    v, c = torch.randn(1, 5), torch.randn(1, context)
    for k, number in enumerate(heads):
        jacobian = torch.autograd.functional.jacobian(lambda x: net(x, c), v)[k].reshape(5, number, 5)
        before = torch.arange(5) < torch.arange(5).reshape(5, 1, 1)
        assert ((jacobian != 0) == before).all()
        if context:
            assert (torch.autograd.functional.jacobian(lambda x: net(v, x), c)[k] != 0).all()


def test_masks_are_buffers_and_sizes_are_checked():
    net = MaskedMLP(5, [8], [1])
    assert sum("mask" in name for name, _ in net.named_buffers()) == 3
    assert net.float()(torch.zeros(2, 5, dtype=torch.float32))[0].dtype == torch.float32
    with pytest.raises(ValueError, match="at least 2 of them, got 1"):
        MaskedMLP(1, [8], [1])
    for hidden in ([], [8, 4]):
        with pytest.raises(ValueError, match="at least the 5 columns"):
            MaskedMLP(5, hidden, [1])


# The chain rule


def test_the_chain_rule_sums_to_one_and_its_heads_are_the_conditionals():
    """The conditionals of the table of all rows, found by summing out what comes later, are those of the network."""
    model, rows = stirred(ChainRule(4, [16])), all_rows(4)
    table = model.log_likelihood(rows).exp().detach()
    assert float(table.sum()) == pytest.approx(1, abs=1e-12)
    assert table.max() > 3 / 16  # far from uniform, or the test would see nothing
    logits = model.conditionals(rows).base_dist.logits.detach()
    table = table.reshape(2, 2, 2, 2)
    for k in range(4):
        begun = table.reshape(*[2] * (k + 1), -1).sum(-1)  # of the first k + 1 columns
        share = (begun / begun.sum(-1, keepdim=True))[..., 1]
        expected = share.reshape(*share.shape, *[1] * (4 - k)).expand(2, 2, 2, 2).flatten()
        torch.testing.assert_close(logits[:, k].sigmoid(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_the_chain_rule_is_the_product_of_its_conditionals(likelihood):
    """Each conditional from a network that is shown noise instead of the column and what follows it."""
    model = stirred(ChainRule(4, [16], likelihood=likelihood))
    v = torch.randn(6, 4) if likelihood == "gaussian" else all_rows(4)[:6]
    total = 0.0
    for k in range(4):
        begun = torch.cat([v[:, :k], torch.randn(6, 4 - k)], 1)
        total = total + model.conditionals(begun).base_dist.log_prob(v)[:, k]
    torch.testing.assert_close(model.log_likelihood(v), total, rtol=1e-10, atol=1e-12)


def test_generated_rows_have_the_models_probabilities():
    model, rows = stirred(ChainRule(3, [16])), all_rows(3)
    assert_drawn_as_often(model.generate(4000), rows, model.log_likelihood(rows).exp())


def test_float32_stays_finite_at_extreme_rows():
    model = ChainRule(3, likelihood="gaussian").float()
    v = torch.tensor([[1e4, -1e4, 0.0]], dtype=torch.float32)
    loss = model.log_likelihood(v).sum()
    assert all(torch.isfinite(g).all() for g in torch.autograd.grad(loss, list(model.parameters())))


def test_likelihoods_that_cannot_go_column_by_column_are_refused():
    class Softmaxed(Bernoulli):  # probabilities that sum to 1: the columns share their heads
        def forward(self, logits):
            return dist.Bernoulli(probs=logits.softmax(-1)).to_event(1)

    class Joint(Gaussian):
        def forward(self, mean, free):
            return dist.MultivariateNormal(mean, torch.diag_embed(free.exp()))

    for law in (Softmaxed(), Joint()):
        with pytest.raises(ProgramError, match=f"{type(law).__name__} is not one"):
            ChainRule(4, likelihood=law)
    with pytest.raises(ProgramError, match="total of the whole row"):
        AutoregressiveVAE(4, 2, likelihood="poisson")
    with pytest.raises(UnknownNameError, match="Did you mean 'bernoulli'"):
        MarkovChain(4, likelihood="bernouli")


# Fits of models without latents


def copied(rows=300):
    """The second column repeats the first, nine times in ten; entropy by hand."""
    generator = torch.Generator().manual_seed(5)
    first = (torch.rand(rows, generator=generator) < 0.3).double()
    other = (torch.rand(rows, generator=generator) < 0.1).double()
    return torch.stack([first, (first - other).abs()], 1)


def test_fit_without_latents(tmp_path):
    v, held_out = copied(), copied(1000)[300:]
    model = ChainRule(2, [16])
    fit = pplvae.fit(
        model.model, model.guide, v, validation=held_out, epochs=40, lr=0.03, batch_size=100, run=tmp_path / "run"
    )
    reached = model.log_likelihood(held_out).detach()
    assert float(fit.history["elbo_validation"].max()) == pytest.approx(float(reached.mean()), abs=1e-12)
    best = float(fit.history["elbo_validation_stderr"].sel(epoch=fit.best_epoch))
    assert best == pytest.approx(float(reached.std() / len(reached) ** 0.5), abs=1e-12)
    truth = td.Bernoulli(0.3).log_prob(held_out[:, 0]) + td.Bernoulli(0.1).log_prob(
        (held_out[:, 1] - held_out[:, 0]).abs()
    )
    loss = truth - reached
    # 2 n KL of a maximum of the likelihood is a chi-square of its three parameters. The epoch is chosen on the held-out
    # rows, which can bring as much on them.
    most = stats.chi2.isf(LEVEL / 2, 3) / 2
    assert_within(
        loss.mean(), loss.std() / len(loss) ** 0.5, low=-most / len(held_out), high=most / len(v), degrees=len(loss) - 1
    )
    again = ChainRule(2, [16])
    pplvae.load_fit(tmp_path / "run", again.model, again.guide, v)
    assert torch.equal(again.log_likelihood(held_out), model.log_likelihood(held_out))


def only_observed(v):
    logits = pyro.param("logits", lambda: torch.zeros(2))
    with pyro.plate("data", len(v)):
        pyro.sample("v", dist.Bernoulli(logits=logits).to_event(1), obs=v)


@pytest.mark.parametrize("guide", [no_latents, lambda v: None], ids=["no_latents", "lambda"])
@pytest.mark.parametrize("objective", ["TraceMeanField_ELBO", "Trace_ELBO"])
def test_the_maximum_likelihood_of_a_plain_program(guide, objective):
    v = copied()
    fit = pplvae.fit(only_observed, guide, v, validation=v, objective=objective, epochs=100, lr=0.05, batch_size=300)
    exact = td.Bernoulli(v.mean(0)).log_prob(v).sum(1).mean()
    assert float(fit.history["elbo_validation"].max()) == pytest.approx(float(exact), abs=1e-4)
    assert float(fit.history["elbo_validation"].max()) <= float(exact)


def test_comparisons_without_latents_are_refused():
    v, model = copied(20), ChainRule(2)
    for call in (
        pplvae.amortisation_gap,
        pplvae.compare,
        pplvae.log_evidence,
        pplvae.log_weights,
        pplvae.latent_use,
    ):
        for guide in (model.guide, no_latents):
            with pytest.raises(RowwiseError, match="has no latents, so there is nothing to infer"):
                call(model.model, guide, v)
    with pytest.raises(ProgramError, match="no guide to train alone"):
        pplvae.fit(model.model, model.guide, v, train="guide", epochs=1)


def test_an_empty_guide_of_a_model_with_latents_is_refused():
    vae = AutoregressiveVAE(2, 2)
    with pytest.raises(ProgramError, match=r"misses \['h'\]"):
        pplvae.fit(vae.model, no_latents, copied(20), epochs=1)


def test_validation_of_a_mixture_whose_states_are_summed_out():
    def mixture(v):
        logits = pyro.param("logits", lambda: torch.tensor([0.3, -0.2, 0.5]))
        means = pyro.param("means", lambda: torch.randn(3, 2))
        with pyro.plate("data", len(v)):
            z = pyro.sample("z", dist.Categorical(logits=logits), infer={"enumerate": "parallel"})
            pyro.sample("v", dist.Normal(means[z], 1.0).to_event(1), obs=v)

    v = torch.randn(40, 2) + 1
    fit = pplvae.fit(
        mixture, no_latents, v, validation=v, objective=TraceEnum_ELBO(max_plate_nesting=1), epochs=3, lr=0.05
    )
    found = {name: value.detach() for name, value in fit.model.store["params"].items()}
    each = td.Independent(td.Normal(found["means"], 1.0), 1).log_prob(v.unsqueeze(1))
    exact = (found["logits"].log_softmax(-1) + each).logsumexp(1).mean()
    assert float(fit.history["elbo_validation"].max()) == pytest.approx(float(exact), abs=1e-10)


# The Markov chain


def test_the_markov_chain_sums_to_one_whatever_the_padding():
    chain, steps = stirred(MarkovChain(2, [8])).requires_grad_(False), all_rows(6).reshape(-1, 3, 2)
    assert float(chain.log_likelihood(steps).exp().sum()) == pytest.approx(1, abs=1e-12)
    short = torch.full((64,), 2)
    assert float(chain.log_likelihood(steps, short).exp().sum()) == pytest.approx(4, abs=1e-12)  # 4 paddings each
    one = torch.ones(64, dtype=torch.long)
    torch.testing.assert_close(chain.log_likelihood(steps, one), chain.log_likelihood(steps[:, :1]))


def test_the_markov_chain_is_its_program_and_forgets():
    chain = stirred(MarkovChain(3, [8], likelihood="gaussian"))
    v, lengths = torch.randn(5, 4, 3), torch.tensor([4, 1, 2, 3, 4])
    trace = poutine.trace(chain.model).get_trace(v, lengths)
    found = chain.log_likelihood(v, lengths)
    torch.testing.assert_close(found.sum(), trace.log_prob_sum(), rtol=1e-12, atol=0)
    by_hand = chain.first(5).log_prob(v[:, 0])
    for t in (1, 2, 3):
        by_hand = by_hand + (t < lengths) * chain.following(v[:, t - 1]).log_prob(v[:, t])
    torch.testing.assert_close(found, by_hand, rtol=1e-12, atol=0)


def test_generated_sequences_have_the_chains_probabilities():
    chain, rows = stirred(MarkovChain(1, [8])), all_rows(3)
    with torch.no_grad():
        chain.start[0].fill_(-0.7)
    assert_drawn_as_often(chain.generate(4000, 3), rows, chain.log_likelihood(rows.unsqueeze(-1)).exp())


def test_sequences_of_other_shapes_are_refused():
    chain = MarkovChain(3)
    with pytest.raises(ShapeError, match=r"shape \(row, time, 3\)"):
        chain.model(torch.zeros(4, 3))
    with pytest.raises(ShapeError, match="each of the 4 rows, got shape"):
        chain.model(torch.zeros(4, 2, 3), torch.ones(4, 2))


def binary_sequences(rows=30, time=4, columns=3):
    """Each step repeats the one before, but for a flip in ten; padded with zeros."""
    generator = torch.Generator().manual_seed(6)
    flips = (torch.rand(rows, time, columns, generator=generator) < 0.1).long()
    flips[:, 0] = (torch.rand(rows, columns, generator=generator) < 0.5).long()
    lengths = torch.randint(1, time + 1, (rows,), generator=generator)
    v = (flips.cumsum(1) % 2).double()
    return v * (torch.arange(time) < lengths.unsqueeze(-1)).unsqueeze(-1), lengths


def test_fit_of_a_markov_chain():
    rows, chain = binary_sequences(200), MarkovChain(3, [16])
    fit = pplvae.fit(chain.model, chain.guide, rows, validation=rows, epochs=30, lr=0.02, batch_size=50)
    reached = chain.log_likelihood(*rows).detach()
    assert float(fit.history["elbo_validation"].max()) == pytest.approx(float(reached.mean()), abs=1e-10)
    first, later = rows[1].sum().new_tensor(len(rows[1])), rows[1].sum() - len(rows[1])
    entropy = 3 * (first * np.log(0.5) + later * (0.1 * np.log(0.1) + 0.9 * np.log(0.9))) / len(rows[1])
    independent = 3 * rows[1].double().mean() * np.log(0.5)
    assert reached.mean() > entropy - 0.2
    assert reached.mean() > independent + 1


# The deep Markov model


def test_the_backward_network_sees_what_is_to_come_and_no_padding():
    net = stirred(BackwardRNN(2, 6))
    x, inside = torch.randn(1, 5, 2), torch.arange(5).unsqueeze(0) < 4
    jacobian = torch.autograd.functional.jacobian(lambda x: net(x, inside), x)[0, :, :, 0]  # time, hidden, time, input
    reached = (jacobian != 0).any(1).any(-1)
    assert torch.equal(reached, torch.ones(5, 5, dtype=torch.bool).triu() & inside & inside.T)
    assert (net(x, inside)[0, 4] == 0).all()


def deep_pair(latent=1, likelihood="gaussian", columns=2):
    return stirred(DeepMarkov(columns, latent, hidden=6, likelihood=likelihood), 0.5)


@pytest.mark.statistical
def test_evidence_of_the_deep_markov_model_is_that_of_quadrature():
    """Two steps and one latent each: a grid of (h_1, h_2) against importance sampling."""
    pair, v = deep_pair(), torch.randn(4, 2, 2)
    lengths = torch.tensor([2, 2, 2, 1])
    grid = torch.linspace(-12, 12, 301).unsqueeze(-1)
    width = float(grid[1] - grid[0])
    with torch.no_grad():
        first = pair.transition(pair.start.expand(1, -1)).log_prob(grid)
        later = pair.transition(grid.repeat_interleave(len(grid), 0)).log_prob(grid.repeat(len(grid), 1))
        later = later.reshape(len(grid), len(grid))
        assert float((first.exp() * width).sum()) == pytest.approx(1, abs=1e-6)  # the grid is wide and fine enough
        exact = []
        for row, length in zip(v, lengths.tolist(), strict=True):
            emitted = [pair.given(grid).log_prob(step.expand(len(grid), -1)) for step in row]
            log_p = first + emitted[0]
            if length == 2:
                log_p = log_p + (later + emitted[1]).logsumexp(1) + np.log(width)
            exact.append(float(log_p.logsumexp(0)) + np.log(width))
    weights = pplvae.log_weights(pair.model, pair.guide, (v, lengths), particles=50_000)
    share = (weights - torch.tensor(exact)).exp()  # weights of p(v): their mean is 1
    error = share.std(0) / len(share) ** 0.5
    assert_within(share.mean(0) - 1, error, degrees=len(share) - 1)
    assert (error < 0.05).all()


def chorales(part, steps=16):
    """Piano rolls (row, time, 88), cut or padded to so many steps, and their lengths."""
    with np.load(CHORALES) as arrays:
        lengths, rolls = arrays[f"{part}_len"], arrays[f"{part}_x"]
    rows = [torch.tensor(roll[:steps]) for roll in np.split(rolls, np.cumsum(lengths)[:-1])]
    padded = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True).to(torch.get_default_dtype())
    return padded, torch.tensor(lengths, dtype=torch.long).clamp(max=steps)


def elbo(pair, *rows):
    torch.manual_seed(3)
    return -Trace_ELBO().loss(pair.model, pair.guide, *rows)


def test_padding_does_not_matter():
    pair, (v, lengths) = deep_pair(2, "bernoulli", 3), binary_sequences(10)
    lengths[0] = 4
    expected = elbo(pair, v, lengths)
    longer = torch.cat([v, torch.zeros(10, 3, 3)], 1)
    assert elbo(pair, longer, lengths) == pytest.approx(expected, abs=1e-10)
    inside = (torch.arange(7) < lengths.unsqueeze(-1)).unsqueeze(-1)
    assert elbo(pair, torch.where(inside, longer, 1.0), lengths) == pytest.approx(expected, abs=1e-10)
    assert elbo(pair, longer) != pytest.approx(expected, abs=1)  # unmasked, it would


def test_rows_do_not_meet():
    pair, (v, lengths) = deep_pair(2, "bernoulli", 3), binary_sequences(10)
    together = pplvae.log_weights(pair.model, pair.guide, (v, lengths), particles=4)
    alone = pplvae.log_weights(pair.model, pair.guide, (v[3:4], lengths[3:4]), particles=4)
    torch.testing.assert_close(together[:, 3:4], alone, rtol=1e-10, atol=1e-10)


def test_workflow_of_the_deep_markov_model(tmp_path):
    rows = binary_sequences(12, time=3)
    _, gap = check_pair(lambda: DeepMarkov(3, 2, hidden=8), rows, tmp_path / "run")
    assert "h_3.loc" in gap.rows.attrs["lambda"]


def test_the_deep_markov_model_learns():
    """All columns of all steps of a row are one coin: the latents must carry it, at least within each step."""
    coin = (torch.rand(100, 1, 1) < 0.5).double()
    v, pair = coin.expand(100, 3, 8).clone(), DeepMarkov(8, 2, hidden=16)
    options = {"epochs": 25, "lr": 0.03, "batch_size": 50, "validation_particles": 2}
    fit = pplvae.fit(pair.model, pair.guide, v, validation=v, **options)
    elbo = float(fit.history["elbo_validation"].max())
    assert 12 * np.log(0.5) < elbo < np.log(0.5)  # independent columns reach 24 log(0.5)
    assert pair.generate(4, 7).shape == (4, 7, 8)


@pytest.mark.statistical
@pytest.mark.skipif(not CHORALES.exists(), reason="needs a copy of the JSB chorales")
def test_chorales(single_precision):
    """The first 16 steps of Bach's chorales: a few epochs beat independent notes by 0.3 nats per step and more."""
    train, held_out = chorales("train"), chorales("test")
    inside = torch.arange(16) < train[1].unsqueeze(-1)
    notes = td.Bernoulli((train[0][inside].sum(0) + 0.5) / (inside.sum() + 1))
    counted = torch.arange(16) < held_out[1].unsqueeze(-1)
    independent = notes.log_prob(held_out[0]).sum(-1).where(counted, torch.tensor(0.0)).sum(1) / held_out[1]
    pair = DeepMarkov(88, 16, hidden=64)
    fit = pplvae.fit(pair.model, pair.guide, train, epochs=24, batch_size=20, lr=0.01)
    elbo = pplvae.log_weights(fit.model, fit.guide, held_out, particles=20).mean(0) / held_out[1]
    won = elbo - independent
    assert won.mean() - standard_errors(len(won) - 1) * won.std() / len(won) ** 0.5 > 0.3


# Decoders with parents


def test_the_autoregressive_decoder_sums_to_one_for_every_h():
    vae, rows = stirred(AutoregressiveVAE(4, 2, [16])), all_rows(4)
    seen = []
    for h in torch.randn(5, 2):
        seen.append(vae.conditionals(rows, h.expand(16, -1)).log_prob(rows).exp().detach())
        assert float(seen[-1].sum()) == pytest.approx(1, abs=1e-12)
    assert torch.stack(seen).std(0).max() > 0.05  # h matters


@pytest.mark.statistical
def test_rows_of_the_autoregressive_vae_have_its_probabilities():
    vae, rows = stirred(AutoregressiveVAE(3, 1, [16])), all_rows(3)
    with torch.no_grad():
        vae.decoder.net.skip_layer.weight[:, 0] = 3.0  # h decides most columns, and must be one for all of them
    h, weights = np.polynomial.hermite_e.hermegauss(100)
    weights = torch.tensor(weights / weights.sum())
    each = torch.stack([vae.conditionals(rows, torch.full((8, 1), x)).log_prob(rows).exp() for x in h.tolist()])
    assert_drawn_as_often(vae.generate(4000), rows, weights @ each)


@pytest.mark.parametrize("likelihood", ["gaussian", "categorical"])
def test_workflow_of_the_autoregressive_vae(likelihood, tmp_path):
    v = torch.randn(20, 4) if likelihood == "gaussian" else all_rows(4)
    check_pair(lambda: AutoregressiveVAE(4, 2, [8], likelihood=likelihood), v, tmp_path / "run")


def test_commands(tmp_path, capsys):
    np.save(tmp_path / "rows.npy", copied(60).numpy())
    check_command(tmp_path / "rows.npy", tmp_path, model="autoregressive-vae", likelihood="bernoulli")
    for likelihood in ("bernoulli", "gaussian"):
        run = tmp_path / likelihood
        fitting.fit(data=str(tmp_path / "rows.npy"), run=run, model="chain-rule", likelihood=likelihood, epochs=1)
        with pytest.raises(typer.Exit):
            measuring.compare(run)
        assert "has no latents" in capsys.readouterr().err


@pytest.mark.parametrize("lengths", [[4, 1], [-2, 1], [2.5, 1.0]])
def test_numbers_of_steps_that_there_are_not(lengths):
    v = torch.zeros(2, 3, 4)
    with pytest.raises(DataError, match="whole numbers of steps from 1 to 3"):
        MarkovChain(4).log_likelihood(v, torch.tensor(lengths))


def test_a_sequence_has_a_step():
    with pytest.raises(ValueError, match="at least one step"):
        MarkovChain(4).generate(2, steps=0)
