"""Nothing leaks: each public call, whether it ends well or raises, leaves the process as it found it."""

import signal
import subprocess
import sys
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import nn
from torch.distributions import Distribution

import pplvae
from pplvae.isolate import ended_like_ctrl_c, evaluation_mode, import_zuko, isolated, undisturbed, validation
from pplvae.training import steps

# In a process of its own, because the type checker of the test run draws from `random` itself.
SCRIPT = """
import random, sys, tempfile, warnings
sys.path.insert(0, {tests!r})
import numpy as np, pyro, torch
from torch.distributions import Distribution
import programs, pplvae

torch.set_default_dtype(torch.float64)
model, guide, rows = programs.trained_by_its_owner()
module = programs.bound_methods_with_pyro_module()
module[0].__self__.encoder.eval()

def state():
    store = pyro.get_param_store().get_state()
    return dict(
        torch=torch.random.get_rng_state().tolist(), numpy=repr(np.random.get_state()), random=random.getstate(),
        flags=pyro.settings.get(), dtype=torch.get_default_dtype(), grad=torch.is_grad_enabled(),
        store={{name: (id(value), value.tolist()) for name, value in store["params"].items()}},
        constraints={{name: repr(c) for name, c in store["constraints"].items()}},
        modes=[m.training for m in module[0].__self__.modules()], inference=torch.is_inference_mode_enabled(),
        hooks=len(torch.nn.modules.module._global_forward_pre_hooks), stack=len(pyro.poutine.runtime._PYRO_STACK),
    )

quick = dict(particles=20, max_steps=25)
broken = lambda *_: 1 / 0
calls = {{
    "gap": lambda: pplvae.amortisation_gap(model, guide, rows, **quick),
    "gap of modules": lambda: pplvae.amortisation_gap(*module, **quick),
    "compare": lambda: pplvae.compare(model, guide, rows, **quick),
    "weights": lambda: pplvae.log_weights(model, guide, rows),
    "fit": lambda: pplvae.fit(model, guide, rows, validation=rows, epochs=2),
    "fit of modules": lambda: pplvae.fit(*module, epochs=2, run=tempfile.mkdtemp(), existing="overwrite"),
    "data": lambda: pplvae.load_data("digits", binarise="fixed"),
    "broken guide": lambda: pplvae.amortisation_gap(model, broken, rows),
    "broken model": lambda: pplvae.fit(broken, guide, rows),
    "bad rows": lambda: pplvae.compare(model, guide, rows * float("nan")),
}}
random.seed(1), np.random.seed(2), torch.manual_seed(3)
for name, call in calls.items():
    for grad in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with grad():
            before = state()
            try:
                call()
            except pplvae.errors.PplvaeError:
                assert "b" in name
            after = state()
        changed = [key for key in before if before[key] != after[key]]
        assert not changed, (name, grad.__name__, changed)
print("unchanged")
"""


def test_public_calls_leave_the_process_alone(request):
    script = SCRIPT.format(tests=str(request.path.parent))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "unchanged"


def test_a_store_of_its_own():
    pyro.param("mine", torch.zeros(1))
    kept = {"params": {}, "constraints": {}}
    with isolated(0, store=kept):
        assert "mine" not in pyro.get_param_store()
        pyro.param("theirs", torch.ones(1))
    assert list(pyro.get_param_store().keys()) == ["mine"]
    assert list(kept["params"]) == ["theirs"]


def test_the_same_seed_draws_the_same():
    def draw(seed):
        with isolated(seed):
            return torch.rand(3)

    assert torch.equal(draw(1), draw(1))
    assert not torch.equal(draw(1), draw(2))


def test_flags_come_back_after_an_error():
    before = pyro.settings.get()

    def broken():
        with isolated(0, dtype=torch.float32), validation(False):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        broken()
    assert pyro.settings.get() == before
    assert torch.get_default_dtype() == torch.float64


def test_zuko_comes_without_switching_validation_off():
    """In a process that has not imported it yet."""
    code = """
import pyro
from torch.distributions import Distribution
from pplvae.isolate import import_zuko
before = pyro.settings.get()
zuko = import_zuko()
assert zuko.flows and Distribution._validate_args and pyro.settings.get() == before
Distribution._validate_args = False
import_zuko()
assert not Distribution._validate_args
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_without_zuko_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "zuko", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'pplvae\[flows\]'"):
        import_zuko()


def test_evaluation_mode_finds_modules_that_only_a_closure_holds():
    inner, frozen = nn.Sequential(nn.Dropout(0.5)), nn.Dropout(0.5).eval()

    def program(x):
        return frozen(inner(x))

    with evaluation_mode(program):
        assert torch.equal(program(torch.ones(100)), torch.ones(100))
        assert not inner[0].training
    assert inner.training
    assert inner[0].training
    assert not frozen.training


class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(5, 6), nn.Dropout(0.5), nn.Linear(6, 4))

    def forward(self, v):
        return self.layers(v)


COMPILED = {
    "wrapped": lambda net, backend: torch.compile(net, backend=backend),
    "in place": lambda net, backend: net.compile(backend=backend) or net,
    "function": lambda net, backend: torch.compile(lambda v: net(v), backend=backend),
    "without breaks": lambda net, backend: torch.compile(net, backend=backend, fullgraph=True),
}


@pytest.mark.parametrize("how", COMPILED)
def test_what_is_compiled_runs_as_it_is_written(how, monkeypatch):
    """A compiled encoder with dropout gives the numbers of the plain one, captured steps too; it stays compiled."""
    import_zuko()  # whose flows are looked for from then on
    monkeypatch.setattr(steps, "_PLAIN_FIRST", 2)
    monkeypatch.setattr(steps, "_SHARE", float("inf"))
    monkeypatch.setattr(Distribution, "_validate_args", True)  # torch's compiler switches it off for the whole process
    compilations = []

    def backend(graph, _inputs):
        compilations.append(graph)
        return graph.forward

    def pair(compiled):
        torch.manual_seed(0)
        net, decoder = Encoder(), nn.Linear(2, 5)
        encode = COMPILED[how](net, backend) if compiled else net

        def model(v):
            pyro.module("decoder", decoder)
            with pyro.plate("data", len(v)):
                h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("v", dist.Normal(decoder(h), 0.5).to_event(1), obs=v)

        def guide(v):
            pyro.module("net", net)
            with pyro.plate("data", len(v)):
                loc, log_scale = encode(v).chunk(2, -1)
                pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(1))

        return model, guide, encode

    v, found = torch.randn(12, 5), []
    for compiled in (True, False):
        model, guide, encode = pair(compiled)
        fit = pplvae.fit(model, guide, v, validation=v, epochs=6)
        gap = pplvae.amortisation_gap(fit.model, fit.guide, v, particles=20, max_steps=20)
        found.append((fit.history.drop_vars("seconds"), gap.rows))
        assert fit.steps == "captured"
        assert compilations == []
        if compiled:
            torch._dynamo.reset()
            encode(v)
            assert compilations
            compilations.clear()
    for ours, theirs in zip(*found, strict=True):
        xr.testing.assert_identical(ours, theirs)


def test_a_librarys_future_is_no_exception_and_what_else_is_warned_of_is():
    """Under `-W error`, as in these tests."""
    old = FutureWarning("torch.jit.script is deprecated")
    with isolated(0):
        warnings.warn_explicit(old, FutureWarning, "_script.py", 1, "torch.jit._script")
        with pytest.raises(FutureWarning):
            warnings.warn_explicit(old, FutureWarning, "mine.py", 1, "torchmine")
        with pytest.raises(UserWarning):
            warnings.warn_explicit("NaN", UserWarning, "elbo.py", 1, "pyro.infer.elbo")
    with pytest.raises(FutureWarning):
        warnings.warn_explicit(old, FutureWarning, "_script.py", 1, "torch.jit._script")


def handlers():
    return [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]


def test_a_process_that_is_asked_to_end_heeds_it_like_ctrl_c():
    before = handlers()
    with ended_like_ctrl_c() as came:
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGTERM)
        assert came == [signal.SIGTERM]
    assert handlers() == before


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_are_put_off_to_the_end_of_a_block(number):
    before, done = handlers(), []

    def work():
        with undisturbed():
            signal.raise_signal(number)
            done.append("all of it")

    with ended_like_ctrl_c(), pytest.raises(KeyboardInterrupt):
        work()
    assert done == ["all of it"]
    assert handlers() == before
