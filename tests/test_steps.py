"""Training steps: what is replayed is what the program does, and where it cannot be, that is noticed and said."""

import re

import numpy as np
import programs
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import random_linear
from pyro.infer import SVI, Trace_ELBO, TraceMeanField_ELBO
from torch import nn
from torch.distributions import Distribution

import pplvae
from pplvae.errors import PplvaeWarning, RowwiseError
from pplvae.isolate import isolated, reseed
from pplvae.objectives import OBJECTIVES, Objective, warm_up
from pplvae.programs.batch import Batch
from pplvae.training import replays
from pplvae.training import steps as steps_module
from pplvae.training.gradients import Gradients
from pplvae.training.preparation import prepare
from pplvae.training.steps import Steps

STYLES = [
    programs.bound_methods_with_pyro_module,
    programs.functions_with_pyro_param,
    programs.pair_of_modules,
    programs.pyro_modules,
    programs.two_latents_in_a_chain,
    programs.convolutions_with_batchnorm_and_dropout,
    programs.plate_with_size_and_subsample,
    programs.full_covariance_guide,
    programs.nested_plates,
    programs.masked_columns,
]

# Pyro's other two run on Pyro's own code; free bits look at masks.
CAPTURED = [name for name in OBJECTIVES if name not in ("TraceGraph_ELBO", "TraceEnum_ELBO", "FreeBits")]


@pytest.fixture
def at_once(monkeypatch):
    """Capture after two plain steps."""
    monkeypatch.setattr(steps_module, "_PLAIN_FIRST", 2)


def run(program, count, *, objective="Trace_ELBO", weight=None, seed=0, to_come=np.inf, **options):
    """Steps on a pair's rows: the losses, what ran them, and the parameters afterwards."""
    torch.manual_seed(seed)
    model, guide, rows = program()
    rows = rows if isinstance(rows, tuple) else (rows,)
    with isolated(seed):
        start = prepare(model, guide, pplvae.data.as_rows(rows), None)
        optimiser = torch.optim.Adam(list(start.trained.values()), lr=0.01, fused=True)
        taking = Steps(Gradients(model, guide, start, Objective(objective)), optimiser, **options)
        reseed(seed)
        batch = Batch.of(rows)
        losses = [float(taking(batch, 1.0 if weight is None else weight(i), to_come)) for i in range(count)]
    return losses, str(taking), start.weights.copy()


def plainly(monkeypatch, *args, **options):
    with monkeypatch.context() as patch:
        patch.setattr(steps_module, "_PLAIN_FIRST", 10**9)
        return run(*args, **options)


@pytest.mark.parametrize("program", STYLES, ids=lambda p: p.__name__)
@pytest.mark.parametrize("objective", ["Trace_ELBO", "TraceMeanField_ELBO"])
def test_a_captured_step_is_the_program_to_the_bit(program, objective, monkeypatch, at_once):
    losses, how, weights = run(program, 12, objective=objective)
    plain, plain_how, plain_weights = plainly(monkeypatch, program, 12, objective=objective)
    assert how == "captured"
    assert plain_how.startswith("plain")
    assert losses == plain
    for name, tensor in weights.items():
        assert torch.equal(tensor, plain_weights[name]), name


@pytest.mark.parametrize("name", [name for name in CAPTURED])
def test_every_objective_is_captured(name, monkeypatch, at_once):
    program = programs.bound_methods_with_pyro_module
    losses, how, _ = run(program, 8, objective=name, weight=lambda i: torch.tensor(0.1 * i))
    plain, _, _ = plainly(monkeypatch, program, 8, objective=name, weight=lambda i: 0.1 * i)
    assert how == "captured"
    np.testing.assert_allclose(losses, plain, rtol=1e-10)


@pytest.mark.parametrize("objective", [Trace_ELBO, TraceMeanField_ELBO])
def test_two_hundred_steps_are_those_of_pyro(objective, at_once, single_precision):
    """The same seed, the same losses as SVI, in float32."""

    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 8))
            self.decoder = nn.Sequential(nn.Linear(4, 32), nn.Tanh(), nn.Linear(32, 16))

        def model(self, v):
            pyro.module("decoder", self.decoder)
            with pyro.plate("data", len(v)):
                h = pyro.sample("h", dist.Normal(torch.zeros(4), 1.0).to_event(1))
                pyro.sample("v", dist.Bernoulli(logits=self.decoder(h)).to_event(1), obs=v)

        def guide(self, v):
            pyro.module("encoder", self.encoder)
            loc, log_scale = self.encoder(v).chunk(2, -1)
            with pyro.plate("data", len(v)):
                pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(1))

    v = (torch.rand(64, 16) < 0.3).float()

    def program():
        torch.manual_seed(1)
        pair = Pair()
        return pair.model, pair.guide, v

    losses, how, _ = run(program, 200, objective=objective())
    assert how == "captured"
    model, guide, _ = program()
    with isolated(0):
        reseed(0)
        svi = SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), objective())
        theirs = [svi.step(v) / 64 for _ in range(200)]
    np.testing.assert_allclose(losses, theirs, rtol=1e-5)


def linear_program(model_noise):
    """A linear pair whose model adds something of the test's to its scale."""

    def program():
        oracle, v = random_linear(0, rows=20)

        def model(rows):
            with pyro.plate("data", len(rows)):
                h = pyro.sample("h", dist.Normal(torch.zeros(oracle.latent), 1.0).to_event(1))
                pyro.sample("v", dist.Normal(h @ oracle.factors.T, 1.0 + model_noise()).to_event(1), obs=rows)

        weight = nn.Parameter(torch.zeros(v.shape[1], oracle.latent))

        def guide(rows):
            pyro.module("factors", oracle)
            with pyro.plate("data", len(rows)):
                pyro.sample("h", dist.Normal(rows @ pyro.param("weight", weight), 1.0).to_event(1))

        return model, guide, v

    return program


def in_training(number):
    """A number that stays out of what is done without gradients: inspection would refuse it."""
    return lambda: number() if torch.is_grad_enabled() else 0.0


def test_numpys_random_numbers_are_noticed(at_once):
    with pytest.warns(PplvaeWarning, match="NumPy"):
        _, how, _ = run(linear_program(in_training(np.random.rand)), 10)
    assert how == "plain: replayed, the step gave another loss than the program"


def test_a_number_that_changes_is_noticed(at_once):
    now = 0.0

    def changing(i):
        nonlocal now
        now = 0.0 if i < 20 else 1.0
        return 1.0

    with pytest.warns(PplvaeWarning, match="a Python number that changes"):
        _, how, _ = run(linear_program(in_training(lambda: now)), 40, weight=changing)
    assert how == "plain: replayed, the step gave another loss than the program"


def test_a_tensor_that_changes_is_followed(monkeypatch, at_once):
    noise = torch.zeros(())

    def changing(i):
        noise.fill_(0.1 * i)
        return 1.0

    losses, how, _ = run(linear_program(lambda: noise), 20, weight=changing)
    noise.zero_()
    plain, _, _ = plainly(monkeypatch, linear_program(lambda: noise), 20, weight=changing)
    assert how == "captured"
    assert losses == plain


def test_a_branch_on_a_tensor_is_run_as_it_is_written(at_once):
    def branching():
        return 0.0 if torch.rand(()) > 2 else 0.5

    _, how, _ = run(linear_program(branching), 6)
    assert how.startswith("plain: a Python branch, or a number, is taken from a tensor's value")


def test_a_compiler_that_cannot_is_said(at_once):
    with pytest.warns(PplvaeWarning, match="not compiled: a Python branch"):
        run(linear_program(lambda: float(torch.zeros(()))), 3, compile=True)


def test_what_is_not_reparameterised_runs_on_pyros_own_code(at_once):
    def program():
        logits = nn.Parameter(torch.zeros(3))

        def model(rows):
            with pyro.plate("data", len(rows)):
                k = pyro.sample("k", dist.Categorical(torch.ones(3)))
                pyro.sample("v", dist.Normal(k.to(rows.dtype).unsqueeze(-1), 1.0).to_event(1), obs=rows)

        def guide(rows):
            with pyro.plate("data", len(rows)):
                pyro.sample("k", dist.Categorical(logits=pyro.param("logits", logits).expand(len(rows), 3)))

        return model, guide, torch.randn(10, 2)

    losses, how, _ = run(program, 4)
    assert how == "Pyro's own code: 'k' is not reparameterised"
    assert np.isfinite(losses).all()
    _, how, _ = run(program, 4, objective="TraceEnum_ELBO")
    assert how == "Pyro's own code: TraceEnum_ELBO is known to its own class only"


def test_train_and_eval_mode_have_steps_of_their_own(monkeypatch, at_once):
    """A module switched to eval mode between steps (dropout off, running means frozen) is captured anew."""
    held = []

    def program():
        model, guide, rows = programs.convolutions_with_batchnorm_and_dropout()
        held[:] = [model.__self__ if hasattr(model, "__self__") else model]
        return model, guide, rows

    def switching(i):
        for module in held:
            if isinstance(module, nn.Module):
                module.train(i % 8 < 4)
        return 1.0

    losses, how, _ = run(program, 24, weight=switching)
    plain, _, _ = plainly(monkeypatch, program, 24, weight=switching)
    assert how == "captured"
    assert losses == plain


def test_a_compiled_step_is_the_plain_one_to_rounding(monkeypatch):
    """Gradients were held against the plain step's to 1e-4 while it ran; parameters follow to a thousandth."""
    monkeypatch.setattr(Distribution, "_validate_args", True)  # torch's compiler switches it off for the whole process
    program = programs.bound_methods_with_pyro_module
    losses, how, weights = run(program, 30, compile=True, clip=0.05, weight=lambda i: torch.tensor(i / 30))
    plain, _, plain_weights = plainly(monkeypatch, program, 30, clip=0.05, weight=lambda i: i / 30)
    assert how == "compiled"
    np.testing.assert_allclose(losses, plain, rtol=1e-6)
    for name, tensor in weights.items():
        torch.testing.assert_close(tensor, plain_weights[name], rtol=1e-3, atol=1e-6)


def test_a_wrong_graph_is_noticed_at_once(monkeypatch, at_once):
    """What a check compares: a replay whose gradients are off by a thousandth."""
    real = replays.Captured

    class Wrong(real):
        def __call__(self, *inputs):
            loss, *slopes = super().__call__(*inputs)
            return [loss, *(slope * 1.001 for slope in slopes)]

    monkeypatch.setattr(replays, "Captured", Wrong)
    with pytest.warns(PplvaeWarning, match="another gradient"):
        losses, how, _ = run(programs.bound_methods_with_pyro_module, 10)
    plain, _, _ = plainly(monkeypatch, programs.bound_methods_with_pyro_module, 10)
    assert how.startswith("plain")
    assert losses == plain  # the first replay was the one that was looked at


def test_a_loss_that_is_nan_moves_nothing(monkeypatch, at_once):
    noise = torch.zeros(())

    def breaking(i):
        noise.fill_(torch.nan if i > 8 else 0.0)
        return 1.0

    losses, how, weights = run(linear_program(lambda: noise), 12, weight=breaking)
    assert how == "captured"
    assert np.isnan(losses).tolist() == [False] * 9 + [True] * 3
    assert all(tensor.isfinite().all() for tensor in weights.values())


@pytest.fixture
def whatever_it_costs(monkeypatch):
    """A capture is made for few steps too."""
    monkeypatch.setattr(steps_module, "_SHARE", np.inf)


@pytest.mark.usefixtures("whatever_it_costs")
def test_fit_says_what_ran_its_steps(tmp_path):
    model, v = random_linear(0, rows=40)
    fit = pplvae.fit(model.model, model.guide, v, epochs=60, batch_size=40, run=tmp_path / "run")
    assert fit.steps == "captured"
    assert "steps captured" in repr(fit)
    assert pplvae.load_fit(tmp_path / "run", model.model, model.guide, v).steps == "captured"
    few = pplvae.fit(model.model, model.guide, v, epochs=2)
    assert few.steps == "plain: there were fewer than 50 steps of one kind"


@pytest.mark.usefixtures("whatever_it_costs")
def test_a_resumed_fit_is_captured_at_another_step_and_equals_the_whole(tmp_path):
    def whole(folder, epochs, existing="refuse"):
        model, v = random_linear(0, rows=50)
        options = {"batch_size": 20, "kl_weight": warm_up(4), "run": folder, "existing": existing}
        return pplvae.fit(model.model, model.guide, v, epochs=epochs, **options), model

    once, model = whole(tmp_path / "a", 40)
    whole(tmp_path / "b", 13)
    twice, other = whole(tmp_path / "b", 40, "resume")
    assert once.steps == twice.steps == "captured"
    np.testing.assert_array_equal(once.history["objective"], twice.history["objective"])
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_capture_for_few_steps_is_not_begun(monkeypatch):
    monkeypatch.setattr(replays, "Captured", None)
    model, v = random_linear(0, rows=40)
    fit = pplvae.fit(model.model, model.guide, v, epochs=60, batch_size=40)
    assert re.fullmatch(r"plain: to capture its \d+ operations would take too long for so few steps", fit.steps)


def test_a_capture_that_takes_too_long_is_stopped_without_a_trace(monkeypatch, at_once):
    """Its price was said to be nothing, and it may take none of the time."""
    monkeypatch.setattr(steps_module, "price", lambda _: 0.0)
    monkeypatch.setattr(steps_module, "_SHARE", 1e-12)
    program = programs.convolutions_with_batchnorm_and_dropout
    losses, how, weights = run(program, 8, to_come=8)
    plain, _, plain_weights = plainly(monkeypatch, program, 8)
    assert how.startswith("plain: to capture it would have taken too long")
    assert losses == plain
    assert all(torch.equal(tensor, plain_weights[name]) for name, tensor in weights.items())


def test_steps_know_how_many_of_their_kind_are_to_come(monkeypatch):
    counted, take = [], Steps.__call__

    def counting(self, batch, kl_weight, to_come, of):
        counted.append((len(batch), to_come))
        return take(self, batch, kl_weight, to_come, of)

    monkeypatch.setattr(Steps, "__call__", counting)
    model, v = random_linear(0, rows=50)
    pplvae.fit(model.model, model.guide, v, epochs=2, batch_size=20)
    assert counted == [(20, 4), (20, 3), (10, 2), (20, 2), (20, 1), (10, 1)]


def test_objectives_of_ours_still_need_rows():
    with pytest.raises(RowwiseError, match="scored row by row"):
        Objective("IWAE").loss(None, None, None, Batch.of((torch.zeros(2, 1),)), 1.0, 1.0)


def recurrent_program(net):
    """A pair in float32 whose encoder is a recurrent net."""

    def program():
        torch.manual_seed(1)
        encoder, out, decoder = net().float(), nn.Linear(6, 4).float(), nn.Linear(2, 5).float()

        def model(rows):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(rows)):
                h = pyro.sample("h", dist.Normal(rows.new_zeros(2), 1.0).to_event(1))
                pyro.sample("v", dist.Normal(decoder(h), 0.5).to_event(1), obs=rows)

        def guide(rows):
            pyro.module("encoder", encoder), pyro.module("out", out)
            loc, log_scale = out(encoder(rows.unsqueeze(-1))[0][:, -1]).chunk(2, -1)
            with pyro.plate("data", len(rows)):
                pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(1))

        return model, guide, torch.randn(8, 5, dtype=torch.float32)

    return program


@pytest.mark.parametrize(
    "net",
    [
        lambda: nn.LSTM(1, 6, batch_first=True),
        lambda: nn.LSTM(1, 3, batch_first=True, bidirectional=True),
        lambda: nn.LSTM(1, 6, 2, batch_first=True, dropout=0.2),
        lambda: nn.GRU(1, 6, batch_first=True),
    ],
)
def test_recurrent_nets_are_trained_as_they_are_written(net, monkeypatch, at_once):
    """Whether their kernels can be replayed or not: the same losses, to the bit."""
    losses, _, weights = run(recurrent_program(net), 12)
    plain, _, plain_weights = plainly(monkeypatch, recurrent_program(net), 12)
    assert losses == plain
    assert all(torch.equal(tensor, plain_weights[name]) for name, tensor in weights.items())


def test_a_compiler_that_makes_a_step_which_raises_is_said():
    with pytest.warns(PplvaeWarning, match="not compiled: replayed, the step raised"):
        losses, how, _ = run(recurrent_program(lambda: nn.LSTM(1, 6, batch_first=True)), 3, compile=True)
    assert how.startswith("plain: replayed, the step raised")
    assert np.isfinite(losses).all()


@pytest.mark.parametrize("after", [1, 3, 9])
def test_a_graph_that_raises_later_gives_way_to_the_program(after, monkeypatch, at_once):
    calls = []

    class Tired(replays.Captured):
        def __call__(self, *inputs):
            calls.append(1)
            if len(calls) > after:
                raise RuntimeError("no memory")
            return super().__call__(*inputs)

    monkeypatch.setattr(replays, "Captured", Tired)
    losses, how, _ = run(programs.bound_methods_with_pyro_module, 16)
    plain, _, _ = plainly(monkeypatch, programs.bound_methods_with_pyro_module, 16)
    assert how == "plain: replayed, the step raised RuntimeError: no memory"
    assert losses == plain
