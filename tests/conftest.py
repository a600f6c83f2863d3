"""Every test: float64, fixed seeds, one thread, and a process that is left as it was found.

Test processes with several threads would wait for each other.
"""

import os
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro.poutine.runtime import _PYRO_STACK
from torch.distributions import Distribution
from torch.nn.modules import module

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)

_OF_OTHERS = ("PYTEST_", "TORCHINDUCTOR_", "KMP_")  # what other libraries set in the environment as they come in


def flags():
    """What neither a call nor a whole test may leave changed."""
    environment = {f"${name}": value for name, value in os.environ.items() if not name.startswith(_OF_OTHERS)}
    return environment | {
        "validate": Distribution._validate_args,
        "settings": pyro.settings.get(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "inference": torch.is_inference_mode_enabled(),
        "threads": torch.get_num_threads(),
        "handlers": len(_PYRO_STACK),
        "hooks": len(module._global_forward_pre_hooks),
        "filters": [entry for entry in warnings.filters if not _is_a_librarys(entry)],
    }


def _is_a_librarys(entry):
    """Some filter warnings of their own as they come in; xarray does whenever it reads a file."""
    _, message, category, *_ = entry
    of_xarray = message is not None and message.pattern == "decode_timedelta"
    return of_xarray or category.__module__.split(".")[0] not in ("builtins", "pplvae")


def process_state():
    """What a call must leave as it found it (`random` is watched in test_isolate: the type checker itself draws)."""
    store = pyro.get_param_store().get_state()
    return flags() | {
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": (np.random.get_state()[1].tolist(), np.random.get_state()[2]),
        "store": {name: id(value) for name, value in store["params"].items()},
    }


@pytest.fixture(autouse=True)
def own_process_state():
    """Float64, seeds and an empty store for each test; a test that leaves a flag changed fails."""
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    np.random.seed(0)
    pyro.clear_param_store()
    before = flags()
    yield
    after = flags()
    restore(before)
    changed = {name: (before.get(name), after.get(name)) for name in before | after}
    changed = {name: pair for name, pair in changed.items() if pair[0] != pair[1]}
    assert not changed, f"the test, or what it calls, left these changed (before, after): {changed}"


def restore(before):
    """So that the tests after one that leaves flags changed do not fail too."""
    pyro.settings.set(**before["settings"])
    Distribution.set_default_validate_args(before["validate"])
    torch.set_default_dtype(torch.float32)
    torch.set_grad_enabled(before["grad"])
    torch.set_num_threads(before["threads"])
    warnings.filters[:] = before["filters"]
    pyro.clear_param_store()
