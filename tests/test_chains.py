"""Chains of many sites: what they cost, in calls of Python and in operations, never by the clock."""

import io
import sys
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from pyro.infer import SVI, Trace_ELBO

import pplvae
from pplvae.comparison.columns import parted
from pplvae.models import DeepMarkov
from pplvae.programs.batch import Batch
from pplvae.programs.chunking import rows_at_once
from pplvae.programs.inspection import inspect_pair
from pplvae.search.further import prove
from pplvae.search.local_guides import LocalGuides
from pplvae.search.optimum import Optimum, Schedule, Status

LIBRARIES = tuple(str(Path(module.__file__).parent) for module in (pyro, torch, xr))


def calls(function, *args):
    """How many calls of functions of torch, Pyro and xarray it takes."""
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


def test_to_part_lambda_from_the_rest_is_linear_in_its_parameters():
    counts = []
    for parameters in (20, 40, 60):
        columns = {f"lambda h_{k}.loc": (("row", "guide_", f"of {k}"), np.zeros((2, 2, 3))) for k in range(parameters)}
        counts.append(calls(parted, xr.Dataset(columns | {"elbo_local": ("row", np.zeros(2))})))
    first, second, third = counts
    assert abs((third - second) - (second - first)) < 0.02 * third


ROWS, STEPS, COLUMNS = 20, 12, 300


def walk(seen=None, steps=STEPS):
    """A random walk of three latents a step, seen in wide columns, with a guide that follows its own draws."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = torch.zeros(len(v), 3)
            for t in range(steps):
                h = pyro.sample(f"h_{t}", dist.Normal(h, 1.0).to_event(1))
                seen_there = dist.Normal(h.sum(-1, keepdim=True), 5.0).expand([len(v), COLUMNS]).to_event(1)
                pyro.sample(f"v_{t}", seen_there, obs=v[:, t])

    def guide(v):
        if seen is not None:
            seen.append(len(v))
        with pyro.plate("data", len(v)):
            h = torch.zeros(len(v), 3)
            for t in range(steps):
                h = pyro.sample(f"h_{t}", dist.Normal(0.5 * h + 0.1 * v[:, t, :3], 0.5).to_event(1))

    return model, guide, torch.randn(ROWS, steps, COLUMNS)


def test_the_rows_of_a_sequence_are_searched_together():
    """What stays in the cache is a step of them; and noise is matched within a step, which takes the fewest draws."""
    seen = []
    model, guide, v = walk(seen)
    found = pplvae.amortisation_gap(model, guide, v, max_steps=1, particles=4)
    assert set(found.rows["steps"].values) == {1}
    tiled = [rows for rows in seen if rows > 2 * ROWS]
    assert all(rows % ROWS == 0 for rows in tiled)
    assert max(tiled) == ROWS * Schedule().selection_draws


def test_sites_share_the_memory_of_a_row():
    row = 160 * 88 * 4
    v = torch.zeros(500, 160, 88, dtype=torch.float32)
    assert rows_at_once([v], 16) == 8 * 2**20 // (16 * row)
    assert rows_at_once([v], 16, sites=2) == 16 * 2**20 // (16 * row)
    assert rows_at_once([v], 16, sites=160) == 96 * 2**20 // (16 * row)


def test_a_search_is_tested_a_few_rows_at_once():
    """With many draws, all rows of a search together would not fit into memory; the answers are the same."""
    seen = []
    model, guide, v = walk(seen, steps=2)
    layout = inspect_pair(model, guide, (v,))
    batch = Batch.of((v,))

    def proven(rows, split):
        def make(index, particles):
            made = LocalGuides(model, guide, layout, batch.take(rows[index]).times(particles))
            made.rows_at_once = lambda draws: split
            return made

        nothing = torch.full((len(rows),), torch.nan)
        start = LocalGuides(model, guide, layout, batch.take(rows)).zeros()
        status, method = [Status.CONVERGED] * len(rows), ["first_order"] * len(rows)
        found = Optimum(start, status, torch.zeros(len(rows)).long(), method, nothing, nothing.clone())
        return prove(make, found, Schedule(tolerance=1e9), 0).shortfall

    together = proven(torch.arange(2), split=2)
    seen.clear()
    torch.testing.assert_close(proven(torch.arange(2), split=1), together)
    assert max(seen) == 256


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_long_search_says_how_far_it_is(monkeypatch):
    model, guide, v = walk()
    monkeypatch.setattr(sys, "stderr", Terminal())
    pplvae.amortisation_gap(model, guide, v[:2], max_steps=1, particles=4, progress=True)
    assert "steps at most" in sys.stderr.getvalue()
