"""Every test: float64, a fixed seed, and one thread, since test processes with several threads wait for each other."""

import os

import numpy as np
import pyro
import pytest
import torch
from torch.distributions import Distribution

os.environ["OMP_NUM_THREADS"] = "1"  # for the processes that tests start
torch.set_num_threads(1)


def process_state():
    """What a call must leave as it found it (`random` is watched in test_isolate: the type checker itself draws)."""
    store = pyro.get_param_store().get_state()
    return {
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": (np.random.get_state()[1].tolist(), np.random.get_state()[2]),
        "validate": Distribution._validate_args,
        "settings": pyro.settings.get(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "store": {name: id(value) for name, value in store["params"].items()},
    }


@pytest.fixture(autouse=True)
def double_precision():
    torch.set_default_dtype(torch.float64)
    torch.manual_seed(0)
    yield
    torch.set_default_dtype(torch.float32)
    pyro.clear_param_store()
