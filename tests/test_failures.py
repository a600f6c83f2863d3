"""Why a program failed, in the user's words: the site, the numbers, the true cause, and what to write instead."""

import json
import re

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from torch import nn

import pplvae
from pplvae.errors import ProgramError


def pair(shape=(3,), gives=3, events=(1, 1, 1)):
    """A pair on rows of a shape, with a decoder that gives so many numbers, and event dimensions of h, h and v."""
    columns = torch.Size(shape).numel()
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(columns, 4)).float()
    decoder = nn.Linear(2, gives).float()
    in_model, in_guide, observed = events

    def model(v):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(in_model))
            mean = decoder(h)
            mean = mean.reshape(len(v), *shape) if gives == columns and observed != 1 else mean
            pyro.sample("pixels", dist.Normal(mean, 1.0).to_event(observed), obs=v)

    def guide(v):
        pyro.module("encoder", encoder)
        loc, log_scale = encoder(v).chunk(2, -1)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(in_guide))

    return model, guide


def rows_of(*shape):
    return torch.randn(20, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float32)


def told(model, guide, rows, **options):
    """What both verbs say: the same."""
    with pytest.raises(ProgramError) as gap:
        pplvae.amortisation_gap(model, guide, rows, particles=4, **options)
    with pytest.raises(ProgramError) as fit:
        pplvae.fit(model, guide, rows, epochs=1)
    assert str(fit.value) == str(gap.value)
    return str(gap.value)


@pytest.mark.parametrize(
    ("shape", "events", "site", "event"),
    [
        ((4,), (1, 1, 0), "pixels", 1),
        ((4, 6), (1, 1, 0), "pixels", 2),
        ((1, 4, 6), (1, 1, 2), "pixels", 3),
        ((4,), (1, 0, 1), "h", 1),
        ((4,), (0, 0, 1), "h", 1),
    ],
)
def test_an_event_dimension_that_misses(shape, events, site, event):
    text = told(*pair(shape, torch.Size(shape).numel(), events), rows_of(*shape))
    assert re.match(rf".*The site {site!r} (of the model )?has batch shape", text)
    assert f"`Normal(...).to_event({event})`" in text
    assert "size must be" not in text


def test_numbers_of_another_shape_or_count():
    text = told(*pair((1, 4, 5), 20), rows_of(1, 4, 5))
    assert "observed site 'pixels'" in text
    assert "`nn.Unflatten(1, (1, 4, 5))`" in text
    text = told(*pair((20,), 19), rows_of(20))
    assert "'pixels'" in text
    assert "a row has 20 numbers, and the model gives it 19" in text


@pytest.mark.parametrize(
    ("dtype", "named"),
    [
        (torch.uint8, "uint8"),
        (torch.int64, "int64"),
        (torch.float64, "float64"),
        (torch.bool, "bool"),
    ],
)
def test_the_dtype_is_named_where_it_alone_is_the_cause(dtype, named):
    rows = (rows_of(3) > 0).to(dtype)
    text = told(*pair(), rows)
    assert f"The rows are {named}, and the programs work with float32" in text
    assert "`rows.float()`" in text


def test_integers_that_a_program_wants_are_no_fault():
    """Broken in another way, on integer rows: the dtype is not blamed."""
    table = nn.Embedding(5, 4).float()

    def guide(v):
        pyro.module("table", table)
        loc, log_scale = table(v[:, 0]).chunk(2, -1)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, log_scale.exp()).to_event(1))

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h @ torch.ones(3, 3), 1.0).to_event(1), obs=v)

    text = told(model, guide, torch.ones(20, 3, dtype=torch.int64))
    assert "mat1 and mat2 shapes cannot be multiplied" in text
    assert "int64" not in text


def a_parameter_for_each_of_20(v):
    loc = pyro.param("loc", torch.zeros(20, 2))
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal(loc, 1.0).to_event(1))


def a_parameter_for_each(v):
    loc = pyro.param("loc", torch.zeros(len(v), 2))
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal(loc, 1.0).to_event(1))


@pytest.mark.parametrize("kind", ["fixed", "grows", AutoNormal, AutoDiagonalNormal])
def test_a_guide_with_a_line_for_each_row_is_no_amortised_one(kind):
    model, _ = pair()
    guides = {"fixed": a_parameter_for_each_of_20, "grows": a_parameter_for_each}
    guide = guides[kind] if isinstance(kind, str) else kind(model)
    text = told(model, guide, rows_of(3))
    assert "The plate is right" in text
    assert "other rows have none" in text
    assert "loc" in text


def test_a_plate_of_a_size_that_is_written_down():
    _, guide = pair()

    def model(v):
        with pyro.plate("data", 20):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h @ torch.ones(2, 3), 1.0).to_event(1), obs=v)

    text = told(model, guide, rows_of(3))
    assert "The plate's size must be the number of rows" in text
    assert "20" in text


def test_numbers_that_a_distribution_does_not_take_are_counted_not_dumped():
    text = told(*pair(), 1e30 * rows_of(3))
    assert "of Normal must be" in text
    assert "standardise" in text
    assert "tensor(" not in text
    small = pair()
    model, _ = small

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(v[:, :2], -1.0).to_event(1))

    text = told(model, guide, rows_of(3))
    assert "The guide failed. `scale` of Normal must be above 0. Of 6 numbers 6 are not, such as -1." in text
    assert "standardise" not in text


def test_a_program_that_takes_more_than_it_is_given():
    _, guide = pair()

    def model(v, c):
        raise AssertionError

    assert "called as `model(*rows)`, here with 1: pass all that it takes, `rows=(v, c)`" in told(
        model, guide, rows_of(3)
    )


def test_an_error_without_words_shows_its_line():
    _, guide = pair()

    def model(v):
        assert len(v) > 10

    text = told(model, guide, rows_of(3))
    assert "AssertionError" in text
    assert "`assert len(v) > 10`" in text


def test_the_line_is_the_users_not_that_of_a_library():
    """An error deep in the standard library shows the line that called it."""
    _, guide = pair()

    def model(v):
        json.loads("no json")

    assert "line" in (text := told(model, guide, rows_of(3)))
    assert '`json.loads("no json")`' in text
