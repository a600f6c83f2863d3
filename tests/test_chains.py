"""Chains of many sites: what they cost, in calls of Python and in operations, never by the clock."""

import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import SVI, Trace_ELBO

from pplvae.models import DeepMarkov
from pplvae.programs.inspection import inspect_pair

LIBRARIES = tuple(str(Path(module.__file__).parent) for module in (pyro, torch))


def calls(function, *args):
    """How many calls of functions of torch and Pyro it takes."""
    count = 0

    def note(frame, event, _argument):
        nonlocal count
        count += event == "call" and frame.f_code.co_filename.startswith(LIBRARIES)

    sys.setprofile(note)
    try:
        function(*args)
    finally:
        sys.setprofile(None)
    return count


def chain(steps):
    """A deep Markov model, and sequences with padding of so many steps."""
    pair = DeepMarkov(5, 2, 8)
    return pair, ((torch.rand(6, steps, 5) < 0.3).double(), torch.tensor([steps] * 5 + [steps - 1]))


def mean_field(v):
    """As many latents as a chain has, none of which follows from another."""
    with pyro.plate("data", len(v)):
        for t in range(v.shape[1]):
            pyro.sample(f"h_{t + 1}", dist.Normal(v[:, t, :2], 1.0).to_event(1))


@pytest.mark.parametrize("own", [True, False])
def test_to_inspect_a_chain_costs_a_few_steps_of_pyros(own):
    counts = []
    for steps in (4, 8, 12):
        pair, rows = chain(steps)
        rows = rows if own else rows[:1]
        guide = pair.guide if own else mean_field
        svi = SVI(pair.model, guide, pyro.optim.Adam({"lr": 1e-3}), Trace_ELBO())
        inspect_pair(pair.model, guide, rows)
        svi.step(*rows)
        counts.append((calls(inspect_pair, pair.model, guide, rows), calls(svi.step, *rows)))
    (first, _), (second, _), (third, step) = counts
    assert abs((third - second) - (second - first)) < 0.02 * third
    assert third < 8 * step
