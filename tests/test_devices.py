"""Rows on a device: every call follows them there, gives the CPU's bits, and does not make the processor wait."""

from functools import cache

import numpy as np
import pytest
import torch
import xarray as xr
from devices import AWAY, Device, MixedDevicesError
from torch import Tensor

import pplvae
from pplvae.isolate import validation
from pplvae.models import DeepMarkov, DiscreteVAE, HierarchicalVAE, IncompleteVAE, composed_vae
from pplvae.objectives import OBJECTIVES
from pplvae.programs import widening
from pplvae.programs.batch import Batch
from pplvae.programs.opening import opened
from pplvae.search.first_order import optimise
from pplvae.search.local_guides import LocalGuides
from pplvae.search.optimum import Schedule

BRIEF = pplvae.Annealing(particles=4, temperatures=2, leapfrog=1)
SHORT = {"max_steps": 2, "particles": 8}
ROWS = 3


@pytest.fixture(autouse=True)
def _single_precision():
    torch.set_default_dtype(torch.float32)  # that of rows on a device
    yield
    torch.set_default_dtype(torch.float64)


def bits(*shape):
    return (torch.rand(*(shape or (ROWS, 6)), generator=torch.Generator().manual_seed(0)) < 0.4).float()


def log_true(*v):
    return v[0].flatten(1).sum(1)


# A new function that takes rows is a line here (`attribute` calls `fit` and `compare`).
CALLS = {
    "log_weights": lambda model, guide, rows: pplvae.log_weights(model, guide, rows, particles=4),
    "amortisation_gap": lambda *pair: pplvae.amortisation_gap(*pair, **SHORT),
    "compare": lambda *pair: pplvae.compare(*pair, families=["full_covariance"], simulated=1, **SHORT),
    "compare, simulated": lambda *pair: pplvae.compare(*pair, simulated=2, **SHORT),
    "log_evidence": lambda *pair: pplvae.log_evidence(*pair, **SHORT),
    "log_evidence, ais": lambda *pair: pplvae.log_evidence(*pair, method="ais", annealing=BRIEF, max_steps=2),
    "evidence_bracket": lambda *pair: pplvae.evidence_bracket(*pair, annealing=BRIEF, max_steps=2),
    "posterior_means": lambda *pair: pplvae.posterior_means(*pair, particles=60, max_steps=25),
    "calibrate": lambda *pair: pplvae.calibrate(*pair, particles=9),
    "latent_use": lambda *pair: pplvae.latent_use(*pair, particles=4, mixture_draws=12),
    "gradient_noise": lambda *pair: pplvae.gradient_noise(*pair, objectives=["Trace_ELBO"], repeats=3),
    "joint_kl": lambda *pair: pplvae.joint_kl(*pair, log_true, particles=4),
    "fit": lambda model, guide, rows: pplvae.fit(model, guide, rows, validation=rows, epochs=2, batch_size=2),
}


class Brought(torch.nn.Module):
    """Networks of torch, and quantities beside them that must follow."""

    def __init__(self):
        super().__init__()
        encoder, decoder = torch.nn.Linear(6, 4), torch.nn.Linear(2, 6)
        said = {"encoder_output": "loc-logvar", "likelihood": "gaussian", "scale": torch.ones(6)}
        self.model, self.guide = pplvae.from_torch(encoder, decoder, prior=(torch.zeros(2), 2.0), **said)


# One for each way in which lambda is found: by second order, by first order, with sums over states, along a chain.
PAIRS = {
    "gaussian": lambda: (composed_vae(6, 2, [5]), (bits(),)),
    "flow": lambda: (composed_vae(6, 2, [5], guide="flow"), (bits(),)),
    "mixture": lambda: (composed_vae(6, 2, [5], guide="mixture"), (bits(),)),
    "discrete": lambda: (DiscreteVAE(6, 2, classes=3), (bits(),)),
    "hierarchical": lambda: (HierarchicalVAE(6, (2, 2), [5]), (bits(),)),
    "chain": lambda: (DeepMarkov(6, 2), (bits(ROWS, 3, 6),)),
    "incomplete": lambda: (IncompleteVAE(6, 2, [5]), (bits(), bits().bool().logical_not())),
    "beta": lambda: (composed_vae(6, 2, [5], likelihood="beta"), (0.8 * bits() + 0.1,)),
    "from torch": lambda: (Brought(), (bits(),)),
}


def numbers_of(result):
    """The columns of a result, as NumPy arrays."""
    if isinstance(result, Tensor):
        return {"": result.cpu().numpy()}
    if isinstance(result, pplvae.Fit):
        columns = dict(result.history.drop_vars("seconds").variables)
        return columns | {name: tensor.detach().cpu() for name, tensor in result.model.func.__self__.named_parameters()}
    return dict((result if isinstance(result, xr.Dataset) else result.rows).variables)


def called(call, pair, *, away=False, has_float64=True):
    """What a call gives for a new pair, with its rows here or on the device."""
    torch.manual_seed(0)
    module, rows = PAIRS[pair]()
    with Device(has_float64=has_float64):
        if away:
            module.to(AWAY)
            rows = tuple(tensor.to(AWAY) for tensor in rows)
        found = CALLS[call](module.model, module.guide, rows)
        if isinstance(found, Tensor):
            assert found.device == rows[0].device
        return numbers_of(found)


@cache
def on_the_cpu(call, pair):
    return called(call, pair)


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, column in expected.items():
        np.testing.assert_array_equal(np.asarray(found[name]), np.asarray(column), err_msg=name)


@pytest.mark.parametrize("call", sorted(CALLS.keys() - {"compare, simulated"}))
def test_every_call_gives_the_bits_of_the_cpu(call):
    assert_same_bits(called(call, "gaussian", away=True), on_the_cpu(call, "gaussian"))


@pytest.mark.parametrize(
    ("pair", "call"),
    [(pair, "log_weights") for pair in PAIRS]
    + [(pair, "amortisation_gap") for pair in ("mixture", "beta", "from torch")]
    + [("discrete", "compare, simulated")],
)
def test_every_kind_of_pair_gives_the_bits_of_the_cpu(pair, call):
    found, expected = called(call, pair, away=True), on_the_cpu(call, pair)
    if call == "log_weights":
        assert_same_bits(found, expected)
    # A model may meet more rows at once there, which rounds otherwise.
    np.testing.assert_allclose(found.get("elbo_local", 0.0), expected.get("elbo_local", 0.0), rtol=1e-5)


@pytest.mark.parametrize(
    "call", ["amortisation_gap", "log_evidence, ais", "calibrate", "latent_use", "joint_kl", "fit"]
)
def test_a_device_without_float64(call, monkeypatch):
    monkeypatch.setattr(widening, "_WITHOUT_FLOAT64", (AWAY.type,))
    found, expected = called(call, "gaussian", away=True, has_float64=False), on_the_cpu(call, "gaussian")
    for name in found.keys() & {"elbo_local", "elbo_local_full_covariance", "log_evidence", "lower", "h", "elbo", "kl"}:
        assert found[name].dtype == expected[name].dtype
        np.testing.assert_allclose(found[name], expected[name], rtol=2e-5, atol=2e-5)


def test_the_search_of_chains_without_float64(monkeypatch):
    monkeypatch.setattr(widening, "_WITHOUT_FLOAT64", (AWAY.type,))
    found = called("amortisation_gap", "mixture", away=True, has_float64=False)
    np.testing.assert_allclose(found["elbo_local"], on_the_cpu("amortisation_gap", "mixture")["elbo_local"], rtol=1e-5)


def waits(call):
    with Device() as device:
        call()
    return device.waits.total()


def fit_waits(steps, **options):
    torch.manual_seed(0)
    vae, rows = composed_vae(6, 2, [5]), bits(4 * steps, 6)

    def call():
        pplvae.fit(vae.to(AWAY).model, vae.guide, rows.to(AWAY), epochs=1, batch_size=4, **options)

    return waits(call)


def search_waits(steps):
    torch.manual_seed(0)
    vae, asked = composed_vae(6, 2, [5]), {"particles": 4, "max_steps": steps, "tolerance": 1e-6}
    return waits(lambda: pplvae.amortisation_gap(vae.to(AWAY).model, vae.guide, bits().to(AWAY), **asked))


PYROS_OWN = {"TraceGraph_ELBO", "TraceEnum_ELBO"}  # look at numbers themselves


@pytest.mark.parametrize("objective", sorted(OBJECTIVES.keys() - PYROS_OWN - {"FreeBits"}))
def test_a_step_of_a_fit_waits_for_nothing(objective):
    """Losses stay there for 50 steps, Adam itself sees whether they are finite, and rows are cut out by slices."""
    assert fit_waits(8, objective=objective) == fit_waits(4, objective=objective)


def test_a_step_of_a_fit_whose_gradient_is_clipped_waits_for_nothing():
    assert fit_waits(8, clip=1.0) == fit_waits(4, clip=1.0)


def test_a_step_of_a_users_optimiser_waits_once():
    """It takes any loss, so the loss must be looked at before: a weight that is NaN cannot be mended."""
    sgd = {"optimiser": lambda parameters: torch.optim.SGD(parameters, lr=1e-3)}
    assert fit_waits(8, **sgd) - fit_waits(4, **sgd) == 4


def test_a_refinement_waits_three_times():
    """It must know how many rows end, how many of them where they are, and how many go on: each a size of tensors."""
    assert search_waits(3) - search_waits(2) == 3


def test_a_window_of_first_order_steps_waits_three_times_and_a_step_never():
    """At its end it must know how many rows are better, worse, and left: each a size of tensors."""
    torch.manual_seed(0)
    vae, seen = composed_vae(6, 2, [5], guide="mixture"), []
    with Device() as device:
        rows = (bits().to(AWAY),)
        with opened(vae.to(AWAY).model, vae.guide, rows, 0) as layout, validation(False):
            batch = Batch.of(rows)

            def make(index, draws):
                return LocalGuides(vae.model, vae.guide, layout, batch.take(index).times(draws))

            schedule = Schedule(max_steps=12, window=4, selection_draws=8, tolerance=1e-6)
            optimise(make, ROWS, schedule, 0, tell=lambda steps: seen.append((steps, device.waits.total())))
    (_, first), (steps, second), _ = seen
    assert (steps, second - first) == (4, 3)


def test_the_device_of_these_tests_is_strict():
    here, index = torch.ones(3, 2), torch.tensor([0, 2])
    with Device(has_float64=False) as device:
        there = here.to(AWAY)
        assert (there[index] + 1 + torch.tensor(2.0)).tolist() == [[4.0, 4.0], [4.0, 4.0]]
        assert (there[:, 0].sum() > 2).item()
        assert device.waits == {"_to_copy": 1, "_local_scalar_dense": 1}
        assert len(there[there[:, 0] > 0]) == 3
        assert device.waits["index"] == 1
        for mixed in (lambda: there + here, lambda: here.add_(there), lambda: here[index.to(AWAY)]):
            with pytest.raises(MixedDevicesError):
                mixed()
        with pytest.raises(MixedDevicesError, match="float64"):
            there.double()
        with pytest.raises(RuntimeError, match="numpy"):
            there.numpy()


def test_a_run_folder_goes_from_device_to_device(tmp_path):
    torch.manual_seed(0)
    vae, rows = composed_vae(6, 2, [5]), bits()
    with Device():
        there = vae.to(AWAY), rows.to(AWAY)
        for epochs in (1, 2):
            asked = {"epochs": epochs, "run": tmp_path / "run", "existing": "resume"}
            fitted = pplvae.fit(there[0].model, there[0].guide, there[1], **asked)
        back = pplvae.load_fit(tmp_path / "run", there[0].model, there[0].guide, there[1])
        torch.manual_seed(1)
        other = composed_vae(6, 2, [5])
        here = pplvae.load_fit(tmp_path / "run", other.model, other.guide, rows)
        expected = pplvae.log_weights(fitted.model, fitted.guide, there[1]).cpu()
        assert torch.equal(pplvae.log_weights(back.model, back.guide, there[1]).cpu(), expected)
    assert torch.equal(pplvae.log_weights(here.model, here.guide, rows), expected)
