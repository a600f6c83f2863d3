"""Where the mean under a Gaussian is taken: how many rows at once, and that it changes nothing."""

import pytest
import torch

from benchmarks.truth_searches import steep_pair
from pplvae import amortisation_gap
from pplvae.search import nodes
from pplvae.search.gaussian import Factorised


def test_rows_are_taken_in_pieces_that_memory_holds():
    like = Factorised(torch.zeros(1000, 2), torch.ones(1000, 2))
    pieces = nodes.pieces_of(torch.arange(1000), like, 16384)
    assert torch.equal(torch.cat(pieces), torch.arange(1000))
    assert all(len(piece) * 16384 * 2 <= 2**22 for piece in pieces)
    assert len(nodes.pieces_of(torch.arange(1000), like, 32)) == 1


def test_a_row_with_more_nodes_than_that_goes_alone():
    like = Factorised(torch.zeros(3, 100), torch.ones(3, 100))
    assert [len(piece) for piece in nodes.pieces_of(torch.arange(3), like, 10**6)] == [1, 1, 1]


def test_pieces_change_no_number(monkeypatch):
    pair = steep_pair(20)
    whole = amortisation_gap(pair.model, pair.guide, pair.rows, particles=4)
    for most in (2**10, 2**14):
        monkeypatch.setattr(nodes, "_MOST_AT_ONCE", most)
        pieces = amortisation_gap(pair.model, pair.guide, pair.rows, particles=4)
        for name in ("elbo_local", "shortfall", "steps"):
            assert pieces.rows[name].values == pytest.approx(whole.rows[name].values, rel=1e-6, abs=1e-9), most
