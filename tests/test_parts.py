"""Batches in parts, networks in few digits, noise of rows, windows of a feed, and leases: in one process."""

import os
import time

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import random_linear
from torch import nn

import pplvae
from pplvae.errors import RanksError
from pplvae.leases import Leases
from pplvae.programs.batch import Batch
from pplvae.programs.keyed import noise_of_step
from pplvae.programs.keys import keys_of_step
from pplvae.ranks.checksums import check_same, checksum
from pplvae.ranks.group import Ranks, by_itself, of_torchrun, ranks
from pplvae.training import feed as feeding
from pplvae.training.feed import Feed
from pplvae.training.narrow import networks_in


def fitted(**options):
    model, v = random_linear(3, rows=50)
    fit = pplvae.fit(model.model, model.guide, v, **{"epochs": 3, "batch_size": 16, "lr": 0.01, "seed": 2} | options)
    return fit, [parameter.detach().clone() for parameter in model.parameters()]


def test_pieces_are_the_batch_but_for_rounding():
    whole, weights = fitted(noise="rows")
    pieces, others = fitted(noise="rows", accumulate=5)
    np.testing.assert_allclose(pieces.history["objective"], whole.history["objective"], rtol=1e-12)
    for one, other in zip(weights, others, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
    assert (whole.settings["noise"], pieces.settings["accumulate"]) == ("rows", None)


def test_pieces_with_noise_from_the_generator_are_other_draws():
    whole, _ = fitted()
    pieces, _ = fitted(accumulate=2)
    assert pieces.settings["accumulate"] == 2
    assert not np.array_equal(pieces.history["objective"], whole.history["objective"])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"accumulate": 0}, ValueError, "`accumulate` must be at least 1"),
        ({"accumulate": 17}, ValueError, "A batch of 16 rows cannot be taken in 17 parts"),
        ({"accumulate": 2, "objective": "InfoVAE"}, ValueError, "compares the latents of a whole batch"),
        ({"noise": "row"}, KeyError, "Did you mean 'rows'"),
        ({"autocast": "float16"}, KeyError, "Known: bfloat16"),
        ({"autocast": "bfloat16"}, ValueError, "rows are torch.float64: pass `rows.float"),
    ],
)
def test_what_makes_no_sense_is_refused(options, error, words):
    with pytest.raises(error, match=words):
        fitted(**options)


def test_noise_of_a_step_belongs_to_the_row_and_its_place():
    """Not to the batch, nor to the order in it; equal rows have noise of their own, and every epoch another."""
    rows = torch.zeros(40, 3)

    def drawn(index, epoch=0, step=0, dropped=False):
        batch = Batch.of_step([rows[index]], index, (7, epoch), step)
        with noise_of_step(batch, 0):
            if dropped:
                return nn.functional.dropout(torch.ones(len(index), 4), 0.5)
            return torch.randn(len(index), 4)

    for dropped in (False, True):
        everyone = drawn(torch.arange(40), dropped=dropped)
        some = torch.tensor([30, 2, 17])
        assert torch.equal(drawn(some, step=5, dropped=dropped), everyone[some])
        assert not torch.equal(drawn(some, epoch=1, dropped=dropped), everyone[some])
    assert len(drawn(torch.arange(40)).unique()) == 160


def test_what_belongs_to_all_rows_is_drawn_alike_for_all_parts_and_anew_in_each_step():
    def drawn(index, step):
        batch = Batch.of_step([torch.zeros(len(index), 3)], index, (7, 0), step)
        with noise_of_step(batch, 0):
            return torch.randn(5)

    assert torch.equal(drawn(torch.arange(3), 1), drawn(torch.arange(3, 9), 1))
    assert not torch.equal(drawn(torch.arange(3), 1), drawn(torch.arange(3), 2))


def test_keys_of_a_step_are_spread():
    keys, _ = keys_of_step(torch.arange(10_000), (11, 3, 0), 0)
    others, _ = keys_of_step(torch.arange(10_000), (11, 3, 1), 0)
    assert len(torch.cat([keys, others]).unique()) == 20_000
    ones = torch.stack([(keys >> bit) & 1 for bit in range(64)]).double().mean(1)
    assert float((ones - 0.5).abs().max()) < 5 * 0.5 / 100  # standard errors


class Narrow(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(6, 4), nn.Sequential(nn.Linear(2, 32), nn.Tanh(), nn.Linear(32, 6))
        self.seen = []

    def model(self, v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            loc = self.decoder(h)
            self.seen.append(loc.dtype)
            pyro.sample("v", dist.Normal(loc, 1.0).to_event(1), obs=v)

    def guide(self, v):
        loc, log_scale = self.encoder(v).chunk(2, -1)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(1))


def test_networks_in_few_digits_and_densities_in_those_of_the_rows(single_precision):
    rows = torch.randn(64, 6)
    found = {}
    for autocast in (None, "bfloat16"):
        torch.manual_seed(0)
        vae = Narrow()
        options = {"epochs": 70, "batch_size": 64, "lr": 1e-3, "seed": 0, "validation": rows, "autocast": autocast}
        fit = pplvae.fit(vae.model, vae.guide, rows, **options)
        assert {parameter.dtype for parameter in vae.parameters()} == {torch.float32} == {*vae.seen}
        found[autocast] = fit.history["objective"].values
    difference = np.abs(found[None] - found["bfloat16"]).max()
    assert 1e-5 < difference < 0.1  # nats per row: three digits of a network's output, and not none
    inner = []
    with networks_in(torch.bfloat16, vae.model):
        vae.decoder[0].register_forward_hook(lambda *given: inner.append(given[-1].dtype))
        assert vae.decoder(torch.ones(1, 2)).dtype == torch.float32
    assert inner == [torch.bfloat16]


@pytest.mark.parametrize("window", [1, 500, 2**26])
def test_a_feed_gives_every_row_once_to_one_rank_and_in_order(window, monkeypatch):
    monkeypatch.setattr(feeding, "_WINDOW", window)
    rows, order = pplvae.data.as_rows(torch.arange(46.0).reshape(23, 2)), torch.randperm(23)
    batches = [[fed for fed in Feed(rows, order, 5, Ranks(rank, 3))] for rank in range(3)]
    for step, parts in enumerate(zip(*batches, strict=True)):
        positions = torch.cat([part.positions for part in parts])
        assert torch.equal(positions, order[5 * step : 5 * step + 5])
        assert torch.equal(torch.cat([part.tensors[0] for part in parts]), rows.values[positions])
        assert {part.of for part in parts} == {len(positions)}
        assert max(len(part.positions) for part in parts) - min(len(part.positions) for part in parts) <= 1


def test_checksums_see_every_bit_and_its_place():
    tensor = torch.randn(50)
    seen = {int(checksum(tensor)), int(checksum(tensor.flip(0)))}
    for k in range(50):
        other = tensor.clone()
        other[k] = torch.nextafter(other[k], torch.tensor(np.inf))
        seen.add(int(checksum(other)))
    assert len(seen) == 52
    assert int(checksum(torch.tensor([0.0]))) != int(checksum(torch.tensor([-0.0])))
    checksum(torch.zeros(0)), checksum(torch.tensor([True])), checksum(torch.zeros(2, dtype=torch.complex64))


def test_the_first_tensor_that_differs_is_named():
    class Other(Ranks):
        def largest_(self, tensor):
            tensor[0, 2] += 1  # of some other rank
            return tensor

    tensors = {name: torch.ones(2) for name in "abcd"}
    with pytest.raises(RanksError, match=r"come apart in epoch 1: 'c' is not the same on all of them \(1 of 4"):
        check_same(Other(0, 2), tensors, "in epoch 1")


def test_alone_everything_is_as_it_was_given():
    here = ranks()
    assert (here.rank, here.size, here.is_job, of_torchrun()) == (0, 1, False, (0, 0))
    tensor = torch.ones(3)
    assert torch.equal(here.sum_(tensor), torch.ones(3))
    assert here.of_all("x") == ["x"]
    assert here.first_alone(lambda: 5) == 5
    with pytest.raises(KeyError):
        here.first_alone(lambda: {}["a"])


def test_a_rank_may_work_by_itself(monkeypatch):
    for name, value in {"TORCHELASTIC_RUN_ID": "x", "RANK": "1", "WORLD_SIZE": "3", "LOCAL_WORLD_SIZE": "3"}.items():
        monkeypatch.setenv(name, value)
    assert of_torchrun() == (1, 3)
    with by_itself():
        assert (ranks().size, of_torchrun()) == (1, (0, 0))


def test_a_lease_is_one_processs_until_it_gives_no_more_signs(tmp_path):
    with Leases(tmp_path) as ours:
        assert ours.take("a")
        with Leases(tmp_path) as theirs:
            assert not theirs.is_free("a")
            assert not theirs.take("a")
            assert theirs.take("b")
        assert ours.take("b")  # whose holder has left
        ours.end("a")
        assert ours.is_free("a")
    path = tmp_path / "c"
    path.write_text("nobody")
    with Leases(tmp_path) as ours:
        assert ours.take("c")


def test_a_lease_without_signs_or_far_too_old_is_free(tmp_path):
    with Leases(tmp_path) as theirs, Leases(tmp_path) as ours:
        assert theirs.take("a")
        old = time.time() - 3600
        os.utime(tmp_path / "a", (old, old))
        assert not ours.is_free("a")  # how long such a piece takes is not known yet
        assert ours.take("b")
        ours.end("b")
        assert ours.take("a")  # a second is what it takes; an hour has passed
        assert theirs.take("c")
        os.utime(theirs._alive(theirs._token), (old, old))
        assert ours.take("c")


def test_of_two_that_find_a_piece_free_at_once_one_takes_it(tmp_path, monkeypatch):
    with Leases(tmp_path) as ours, Leases(tmp_path) as theirs:
        assert theirs.take("a")
        monkeypatch.setattr(ours, "_holder", lambda _: None)  # it looked just before
        assert not ours.take("a")
        monkeypatch.setattr(ours, "_holder", lambda _: "somebody who is gone")
        assert not ours.take("a")
        assert theirs._holder("a") == theirs._token
