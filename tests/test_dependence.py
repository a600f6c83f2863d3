"""What follows from a draw: also through Python's and NumPy's hands, and where no run of a few rows shows it."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch

from pplvae.isolate import isolated
from pplvae.programs.dependence import depends_on_draws
from pplvae.programs.inspection import inspect_pair

ROWS = torch.randn(8, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)

# Whether the first element is larger than nearly every draw is, by every way out of a tensor.
GATES = {
    "operations": lambda z: z.flatten()[:1] > 50,
    "item": lambda z: torch.tensor(z.flatten()[0].item() > 50),
    "branch": lambda z: torch.ones(1) if z.flatten()[0] > 50 else torch.zeros(1),
    "tolist": lambda z: torch.tensor(z.flatten().tolist()[0] > 50),
    "numpy": lambda z: torch.from_numpy(z.detach().numpy().ravel()[:1] > 50),
    "asarray": lambda z: torch.tensor(np.asarray(z.detach()).ravel()[0] > 50),
    "dlpack": lambda z: torch.from_dlpack(z.detach()).flatten()[:1] > 50,
}


@pytest.mark.parametrize("gate", GATES)
def test_a_gate_that_no_run_shows(gate):
    """Two latents, the second behind a gate on the first that opens once in longer than anybody waits."""

    def programs(gated):
        def program(v):
            with pyro.plate("data", len(v)):
                first = pyro.sample("first", dist.Normal(v[:, :1], 1.0).to_event(1))
                more = GATES[gate](first) if gated else torch.zeros(1)
                pyro.sample("second", dist.Normal(v[:, 1:] + more.to(v), 1.0).to_event(1))

        return program

    def model(v):
        with pyro.plate("data", len(v)):
            both = [pyro.sample(name, dist.Normal(torch.zeros(1), 1.0).to_event(1)) for name in ("first", "second")]
            pyro.sample("v", dist.Normal(torch.cat(both, -1), 1.0).to_event(1), obs=v)

    with isolated(0):
        assert not inspect_pair(model, programs(gated=True), (ROWS,)).fixed
        assert inspect_pair(model, programs(gated=False), (ROWS,)).fixed


def test_numbers_from_before_the_draw_do_not_follow_from_it():
    def function():
        size = torch.ones(3).tolist()[0]
        torch.randn(3).tolist()
        return [torch.ones(3) * size]

    assert depends_on_draws(function)  # what comes after a number of a draw may hang on it

    def before():
        found = torch.ones(3) * torch.ones(3).tolist()[0]
        torch.randn(3)
        return [found]

    assert not depends_on_draws(before)
