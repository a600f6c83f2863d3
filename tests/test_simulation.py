"""Rows drawn from a program: the right distribution, whatever way the program observes its rows, or a refusal."""

import programs
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from conftest import process_state
from oracles import random_linear
from statistics_ import assert_chi_square, assert_within, of_mean

from pplvae.errors import ProgramError
from pplvae.isolate import isolated
from pplvae.programs.batch import Batch
from pplvae.programs.inspection import inspect_pair
from pplvae.programs.simulation import draw_rows, simulate, told_apart


def prior_guide(*rows):
    with pyro.plate("data", len(rows[0])):
        pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))


def model_with(observe):
    """A model of two latents whose likelihood is `observe(h, *rows)`."""

    def model(*rows):
        with pyro.plate("data", len(rows[0])):
            observe(pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1)), *rows)

    return model


def rows_of(count, columns=3):
    return torch.randn(count, columns, generator=torch.Generator().manual_seed(1))


def assert_moments(draws, mean, covariance):
    """Draws of a Gaussian: made white, they have means, squares and products of independent standard normals."""
    factor, away = torch.linalg.cholesky(covariance.detach()), (draws - mean).detach()
    white = torch.linalg.solve_triangular(factor, away.T, upper=False)
    assert_within(white.mean(1), len(draws) ** -0.5)
    assert_chi_square(white.square().sum(1), len(draws))
    first, second = torch.triu_indices(len(white), len(white), 1)
    assert_within((white[first] * white[second]).sum(1) / white[first].norm(dim=1), 1.0)  # normal given the first


def test_latents_and_rows_of_a_linear_model_have_their_joint_moments():
    model, _ = random_linear(1)
    templates = torch.zeros(4000, model.visible)  # all equal: each must still get noise of its own
    made = draw_rows(model.model, model.guide, templates)
    joint = torch.cat([made.values["h"], made.tensors[0]], 1)
    link = torch.cat([torch.eye(model.latent), model.factors])
    covariance = link @ link.T
    covariance[model.latent :, model.latent :] += model.noise.diag()
    assert_moments(joint, torch.cat([torch.zeros(model.latent), model.mean]), covariance)
    assert (templates == 0).all()


def autoregressive(h, v):
    for t in range(v.shape[1]):
        before = v[:, t - 1] if t else torch.zeros(len(v))
        pyro.sample(f"v{t}", dist.Normal(0.8 * before + h[:, 0], 0.5), obs=v[:, t])


def test_an_autoregressive_program_reads_its_own_draws():
    made = draw_rows(model_with(autoregressive), prior_guide, 10 * rows_of(4000))
    solve = torch.linalg.inv(torch.eye(3) - 0.8 * torch.diag(torch.ones(2), -1))
    covariance = solve @ (torch.ones(3, 3) + 0.25 * torch.eye(3)) @ solve.T
    assert_moments(made.tensors[0], torch.zeros(3), covariance)


def test_a_batch_of_several_draws_is_so_many_rows():
    model = model_with(autoregressive)
    with isolated(0), torch.no_grad():
        layout = inspect_pair(model, prior_guide, (rows_of(7),))
        made = simulate(model, layout, Batch.of((rows_of(7),)).times(3), (0,))
    assert made.tensors[0].shape == (21, 3)
    assert made.values["h"].shape == (21, 2)
    assert len(made.tensors[0].unique(dim=0)) == 21
    assert made.batch.positions.tolist() == list(range(7)) * 3


def normal(h, shape):
    return dist.Normal(h.sum(-1).reshape(-1, *(1,) * (len(shape) - 1)).expand(shape), 1.0)


VIEWS = {
    "flattened": lambda h, v: pyro.sample("v", normal(h, (len(v), 12)).to_event(1), obs=v.flatten(1)),
    "transposed": lambda h, v: [
        pyro.sample(f"v{i}", normal(h, (len(v), 4)).to_event(1), obs=column)
        for i, column in enumerate(v.permute(1, 0, 2))
    ],
    "detached": lambda h, v: pyro.sample("v", normal(h, v.shape).to_event(2), obs=v.detach()),
    "a copy": lambda h, v: pyro.sample("v", normal(h, v.shape).to_event(2), obs=v.clone()),
    "a copy in single precision": lambda h, v: pyro.sample(
        "v", dist.Normal(h.sum(-1).float().reshape(-1, 1, 1), 1.0).expand(v.shape).to_event(2), obs=v.float()
    ),
    "chosen by lists": lambda h, v: [
        pyro.sample("one", normal(h, (len(v), 1, 4)).to_event(2), obs=v[:, [1]]),
        pyro.sample("others", normal(h, (len(v), 2, 4)).to_event(2), obs=v[:, torch.tensor([2, 0])].clone()),
    ],
    "chosen by index_select": lambda h, v: pyro.sample(
        "v", normal(h, v.shape).to_event(2), obs=torch.index_select(v, 2, torch.tensor([3, 0, 1, 2]))
    ),
    "two halves": lambda h, v: [
        pyro.sample("left", normal(h, (len(v), 1, 4)).to_event(2), obs=v[:, :1]),
        pyro.sample("right", normal(h, (len(v), 2, 4)).to_event(2), obs=v[:, 1:]),
    ],
}


@pytest.mark.parametrize("observe", VIEWS.values(), ids=VIEWS.keys())
def test_however_the_rows_are_observed(observe):
    rows = rows_of(300, 12).float().double().reshape(-1, 3, 4)  # numbers that single precision holds
    made = draw_rows(model_with(observe), prior_guide, rows)
    h, v = made.values["h"], made.tensors[0]
    assert v.shape == rows.shape
    assert (v != rows).all()
    residual = (v - h.sum(-1).reshape(-1, 1, 1)).flatten(1)
    assert_moments(residual, torch.zeros(12), torch.eye(12))


def test_codes_that_begin_at_one_are_written_back_as_such():
    probs = torch.tensor([0.2, 0.3, 0.5])

    def observe(h, v, known):
        codes = torch.where(known, v[:, [2, 0]] - 1, 0.0).long()
        pyro.sample("v", dist.Categorical(probs).expand(codes.shape).mask(known).to_event(1), obs=codes)
        pyro.sample("rest", dist.Normal(h[:, :1] + codes[:, :1], 1.0).to_event(1), obs=v[:, 1:2])

    rows, known = torch.full((3000, 3), 2.0), torch.rand(3000, 2) < 0.8
    made = draw_rows(model_with(observe), prior_guide, (rows, known))
    drawn = made.tensors[0][:, [2, 0]]
    assert (drawn[~known] == 2).all()
    assert set(drawn.flatten().tolist()) == {1.0, 2.0, 3.0}
    shares = torch.stack([(drawn[known] == code).double().mean() for code in (1, 2, 3)])
    assert_within(shares - probs, (probs * (1 - probs) / int(known.sum())).sqrt())
    codes = torch.where(known[:, 0], drawn[:, 0] - 1, 0.0)
    residual = made.tensors[0][:, 1] - made.values["h"][:, 0] - codes
    assert_within(residual.mean(), 3000**-0.5)


def test_counts_are_written_into_integer_rows():
    def observe(h, v):
        pyro.sample("v", dist.Poisson(h.exp()).to_event(1), obs=v.to(h))

    rows = torch.randint(0, 9, (3000, 2))
    made = draw_rows(model_with(observe), prior_guide, rows)
    rate, counts = made.values["h"].exp(), made.tensors[0]
    assert counts.dtype == torch.int64
    z = (counts - rate) / rate.sqrt()
    assert_within(z.mean(), 6000**-0.5)
    assert_within(z.square().mean() - 1, of_mean((2 + 1 / rate).sqrt()))  # the fourth moment is 3 + 1 / rate


def masked(fn, v, mask, how):
    if how == "handler":
        with poutine.mask(mask=mask.all(1)):
            pyro.sample("v", fn.to_event(1), obs=v)
    else:
        pyro.sample("v", fn.to_event(1).mask(mask.all(1)) if how == "event" else fn.mask(mask).to_event(1), obs=v)


@pytest.mark.parametrize("how", ["handler", "event", "element"])
def test_what_is_masked_stays_as_it_was(how):
    rows, mask = rows_of(50), torch.rand(50, 3) < 0.7

    def observe(h, v, seen):
        masked(dist.Normal(h.sum(-1, keepdim=True).expand_as(v), 1.0), v, seen, how)

    made = draw_rows(model_with(observe), prior_guide, (rows, mask))
    drawn = mask if how == "element" else mask.all(1, keepdim=True).expand(-1, 3)
    assert torch.equal(made.tensors[0] != rows, drawn)
    assert torch.equal(made.tensors[1], mask)


def looks_ahead(h, v):
    """A masked autoregressive network: all conditionals at once, from all of v."""
    earlier = torch.cat([torch.zeros(len(v), 1), v[:, :-1]], 1)
    pyro.sample("v", dist.Normal(earlier + h[:, :1], 1.0).to_event(1), obs=v)


def looks_at_a_view_ahead(h, v):
    pyro.sample("second", dist.Normal(v[:, 0], 1.0), obs=v[:, 1])
    pyro.sample("first", dist.Normal(h[:, 0], 1.0), obs=v[:, 0])


def observes_twice(h, v):
    for i in range(2):
        pyro.sample(f"v{i}", dist.Normal(h.sum(-1, keepdim=True).expand_as(v), 1.0).to_event(1), obs=v)


def expands(h, v):
    pyro.sample("v", normal(h, (len(v), 5)).to_event(1), obs=v[:, :1].expand(-1, 5))


def weights(h, v):
    pyro.sample("v", normal(h, v.shape).to_event(1), obs=v)
    pyro.factor("bonus", h.sum(-1))


REFUSED = {
    "looks ahead": (looks_ahead, "looks at v before"),
    "looks at a view ahead": (looks_at_a_view_ahead, "looks at v before"),
    "observes twice": (observes_twice, "two sites"),
    "expands": (expands, "no view"),
    "chooses a column twice": (
        lambda h, v: pyro.sample("v", normal(h, (len(v), 2)).to_event(1), obs=v[:, [0, 0]]),
        "two sites",
    ),
    "standardises": (
        lambda h, v: pyro.sample("v", normal(h, v.shape).to_event(1), obs=(v - 1) / 2),
        "'v' observes something that is no view",
    ),
    "observes a constant": (
        lambda h, v: pyro.sample("v", normal(h, v.shape).to_event(1), obs=torch.zeros_like(v)),
        "'v' observes something that is no view",
    ),
    "broadcasts": (
        lambda h, v: pyro.sample("v", normal(h, (len(v), 5)).to_event(1), obs=v[:, :1]),
        "observed several times",
    ),
    "weights": (weights, "pyro.factor"),
}


@pytest.mark.parametrize(("observe", "message"), REFUSED.values(), ids=REFUSED.keys())
def test_programs_that_cannot_be_simulated_are_refused(observe, message):
    with pytest.raises(ProgramError, match=message):
        draw_rows(model_with(observe), prior_guide, rows_of(20))


def test_draws_that_integers_cannot_hold_are_refused():
    def observe(h, v):
        pyro.sample("v", normal(h, v.shape).to_event(1), obs=v)

    with pytest.raises(ProgramError, match="floating-point rows"):
        draw_rows(model_with(observe), prior_guide, torch.randint(0, 9, (20, 3)))


def test_a_constant_that_equals_a_covariate_is_refused():
    def observe(h, v, zeros):
        pyro.sample("v", normal(h, v.shape).to_event(1), obs=v)
        pyro.sample("pull", dist.Normal(h[:, 0], 1.0), obs=torch.zeros(len(v)))

    with pytest.raises(ProgramError, match="'pull'"):
        draw_rows(model_with(observe), prior_guide, (rows_of(20), torch.zeros(20)))


def test_a_factor_of_nothing_is_no_weight():
    def observe(h, v):
        pyro.sample("v", normal(h, v.shape).to_event(1), obs=v)
        pyro.factor("nothing", torch.zeros(len(v)))

    assert (draw_rows(model_with(observe), prior_guide, rows_of(20)).tensors[0] != rows_of(20)).all()


def test_a_latent_outside_the_plate_is_refused():
    def model(v):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", normal(h + shift, v.shape).to_event(1), obs=v)

    def local(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", normal(h, v.shape).to_event(1), obs=v)

    with isolated(0), torch.no_grad():
        layout = inspect_pair(local, prior_guide, (rows_of(5),))
        with pytest.raises(ProgramError, match="'shift' lies outside"):
            simulate(model, layout, Batch.of((rows_of(5),)), (0,))
        held = poutine.condition(model, {"shift": torch.tensor(1.0)})
        assert simulate(held, layout, Batch.of((rows_of(5),)), (0,)).tensors[0].shape == (5, 3)


@pytest.mark.parametrize("program", programs.ALL, ids=lambda f: f.__name__)
def test_programs_of_outsiders(program):
    model, guide, rows = program()
    first, *others = rows if isinstance(rows, tuple) else (rows,)
    before, content = process_state(), first.clone()
    made = draw_rows(model, guide, rows)
    assert process_state() == before
    assert torch.equal(first, content)
    assert made.tensors[0].shape == first.shape
    changed = (made.tensors[0] != first).flatten(1).any(1)
    assert torch.equal(changed, others[0]) if program is programs.masked_columns else changed.float().mean() > 0.9
    assert all(torch.equal(a, b) for a, b in zip(made.tensors[1:], others, strict=True))


def test_same_seed_same_rows():
    model, guide, rows = programs.convolutions_with_batchnorm_and_dropout()
    first, again, other = (draw_rows(model, guide, rows, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first.tensors[0], again.tensors[0])
    assert torch.equal(first.values["z"], again.values["z"])
    assert not torch.equal(first.tensors[0], other.tensors[0])


def test_a_row_alone_is_simulated_as_among_others():
    model, v = random_linear(3, rows=40)
    made, alone = (draw_rows(model.model, model.guide, rows).tensors[0] for rows in (v, v[11:12]))
    assert torch.allclose(alone, made[11:12], rtol=1e-12)


def test_pieces_of_a_data_set_have_noise_of_their_own_where_torch_draws():
    def observe(h, v):
        pyro.sample("v", dist.Poisson((0 * h[:, :1]).exp().expand_as(v)).to_event(1), obs=v)

    model, rows = model_with(observe), programs.binary(rows=20)
    with isolated(0), torch.no_grad():
        layout = inspect_pair(model, prior_guide, (rows,))
        whole = Batch.of((rows,))
        first, again, second = (simulate(model, layout, whole.take(slice(i, i + 10)), (0,)) for i in (0, 0, 10))
    assert torch.equal(first.tensors[0], again.tensors[0])
    assert not torch.equal(first.tensors[0], second.tensors[0])


def test_equal_simulated_rows_share_no_noise():
    def observe(h, v):
        pyro.sample("v", dist.Bernoulli(logits=h[:, :1]).to_event(1), obs=v)

    model, rows = model_with(observe), torch.zeros(20, 1)
    with isolated(0), torch.no_grad():
        layout = inspect_pair(model, prior_guide, (rows,))
        whole = told_apart(Batch.of((rows,)))
        pieces = [simulate(model, layout, whole.take(slice(i, i + 10)).times(3), (0,)) for i in (0, 10)]
        together = simulate(model, layout, whole, (0,))
    for piece in pieces:
        assert len(piece.batch.keys.unique()) == 30
        assert len(piece.batch.tensors[0].unique(dim=0)) == 2
    keys = torch.cat([piece.batch.keys.reshape(3, 10)[0] for piece in pieces])
    assert torch.equal(keys, together.batch.keys)
    assert len(torch.cat([piece.batch.keys for piece in pieces]).unique()) == 60


def test_equal_rows_are_told_apart():
    rows = torch.tensor([[1.0], [2.0], [1.0], [3.0], [1.0]])
    batch = Batch.of((rows,))
    keys = told_apart(batch).keys
    assert len(keys.unique()) == 5
    assert torch.equal(keys[[0, 1, 3]], batch.keys[[0, 1, 3]])
    assert torch.equal(told_apart(batch.take(torch.tensor([1, 3, 0]))).keys, batch.keys[[1, 3, 0]])
