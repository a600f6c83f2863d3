"""Every test: float64, a fixed seed, and a process that it leaves as it found it."""

import random

import numpy as np
import pyro
import pytest
import torch
from torch.distributions import Distribution


def process_state():
    store = pyro.get_param_store().get_state()
    return {
        "torch": torch.random.get_rng_state().tolist(),
        "numpy": tuple(np.random.get_state()[1].tolist()) + (np.random.get_state()[2],),
        "random": random.getstate(),
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

