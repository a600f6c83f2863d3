"""Looks at the gap while a pair is fitted: right, and without a trace in what is fitted."""

import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import bad_pair, random_linear
from programs import beta_latent, convolutions_with_batchnorm_and_dropout, functions_with_pyro_param

import pplvae
from pplvae.errors import RowwiseError, StoreError
from pplvae.isolate import isolated, validation
from pplvae.programs.batch import Batch
from pplvae.programs.inspection import inspect_pair
from pplvae.scoring.chunks import Chunk
from pplvae.search.optimum import Schedule
from pplvae.search.own_guides import OwnGuides
from pplvae.store import read_tensors, write_tensors
from pplvae.training.looks import SECONDS, chosen

TIMES = ["seconds", SECONDS]


def fitted(seed=0, *, rows=60, existing="refuse", **how):
    model, v = random_linear(seed, rows=rows)
    how = {"epochs": 5, "batch_size": 30, "lr": 0.01, "validation": v[:20], "seed": seed, "existing": existing} | how
    return pplvae.fit(model.model, model.guide, v, **{"compare_every": 2, "compare_rows": 12} | how), model, v


def weights(model):
    return [tensor.detach().clone() for tensor in (*model.parameters(), *model.buffers())]


@pytest.mark.parametrize("seed", range(4))
def test_a_look_says_what_closed_forms_say(seed):
    fit, model, v = fitted(seed, epochs=4, compare_every=4)
    looked_at = {"train": v[chosen(60, 12, seed)], "validation": v[:20][chosen(20, 12, seed)]}
    last = fit.history.isel(epoch=-1)
    for part, some in looked_at.items():
        with torch.no_grad():
            exact = model.amortisation_gap(some, *encoded(fit.guide, some)).numpy()
        assert abs(float(last[f"{part}_gap"]) - exact.mean()) < 3 * float(last[f"{part}_gap_mc_stderr"]) + 0.01
        cold = pplvae.amortisation_gap(fit.model, fit.guide, some, particles=100, seed=seed).rows["amortisation_gap"]
        assert float(last[f"{part}_gap"]) == pytest.approx(float(cold.mean()), abs=1e-6)  # the first look is cold
        assert float(last[f"{part}_gap_stderr"]) == pytest.approx(exact.std(ddof=1) / 12**0.5, rel=0.3)
        assert float(last[f"{part}_converged"]) == 1


def encoded(guide, v):
    base = pyro.poutine.trace(guide).get_trace(v).nodes["h"]["fn"].base_dist
    return base.loc, base.scale


@pytest.mark.parametrize("pair", [functions_with_pyro_param, beta_latent], ids=["second order", "first order"])
def test_a_look_from_the_last_one_agrees_with_a_cold_comparison(pair):
    model, guide, rows = pair()
    how = {"epochs": 6, "batch_size": 6, "lr": 0.02, "objective": "Trace_ELBO", "compare_every": 3}
    fit = pplvae.fit(model, guide, rows, **how)
    cold = pplvae.amortisation_gap(fit.model, fit.guide, rows, particles=400).rows["amortisation_gap"]
    last = fit.history.isel(epoch=-1)
    assert abs(float(last["train_gap"]) - float(cold.mean())) < 3 * float(last["train_gap_mc_stderr"]) + 0.01


@pytest.mark.parametrize(("pair", "draws"), [(functions_with_pyro_param, 100), (beta_latent, 400)])
def test_a_first_look_is_a_comparison_on_draws_of_its_own(pair, draws):
    """Not on those by which its search was judged, which would flatter it."""
    model, guide, rows = pair()
    fit = pplvae.fit(model, guide, rows, epochs=1, objective="Trace_ELBO", compare_every=1, seed=3)
    cold = pplvae.amortisation_gap(fit.model, fit.guide, rows, particles=draws, seed=3).rows["amortisation_gap"]
    assert float(fit.history["train_gap"][0]) == pytest.approx(float(cold.mean()), abs=1e-6)


@pytest.mark.parametrize("pair", [convolutions_with_batchnorm_and_dropout, functions_with_pyro_param])
def test_a_fit_that_is_looked_at_is_the_same_to_the_bit(pair):
    def run(**looks):
        torch.manual_seed(0)
        model, guide, rows = pair()
        how = {"epochs": 4, "batch_size": 5, "objective": "Trace_ELBO", "validation": rows[:6]}
        fit = pplvae.fit(model, guide, rows, **how, **looks)
        return fit, list(fit.guide.store["params"].values())

    (plain, before), (looked_at, after) = run(), run(compare_every=1, compare_rows=5)
    assert len(before) == len(after) > 0
    assert all(map(torch.equal, before, after))
    assert all(parameter.grad is None for parameter in after)
    shared = [name for name in plain.history if name != "seconds"]
    assert looked_at.history[shared].identical(plain.history[shared])
    assert np.isfinite(looked_at.history["train_gap"]).all()


def test_looks_come_when_they_are_due_and_after_the_last_epoch():
    told = {}
    fit, *_ = fitted(on_epoch=told.__setitem__)
    seen = np.isfinite(fit.history["train_gap"].values)
    assert seen.tolist() == [False, True, False, True, True]
    assert [("train_gap" in values) for values in told.values()] == seen.tolist()
    assert re.search(
        r"after epoch 4: train .* ± .*, validation .*\n3 looks at it took \d+ % of", repr(fit).replace("%", " %")
    )
    assert "train_gap" not in fitted(compare_every=None)[0].history
    assert "validation_gap" not in fitted(validation=None)[0].history
    early, *_ = fitted(epochs=400, lr=1.0, patience=3, compare_every=1000)
    assert early.status.name == "STOPPED_EARLY"
    assert np.isfinite(early.history["train_gap"].values).tolist() == [False] * (early.history.sizes["epoch"] - 1) + [
        True
    ]


def killed(at):
    def kill(epoch, _):
        if epoch == at:
            raise KeyboardInterrupt

    return kill


@pytest.mark.parametrize("how", [{"on_epoch": killed(2)}, {"epochs": 3}], ids=["killed", "more epochs"])
def test_resumed_it_is_as_if_it_had_never_been_interrupted(how, tmp_path):
    whole, model, _ = fitted()
    fitted(run=tmp_path, **how)
    resumed, other, _ = fitted(run=tmp_path, existing="resume")
    assert all(map(torch.equal, weights(model), weights(other)))
    assert resumed.history.drop_vars(TIMES).identical(whole.history.drop_vars(TIMES))
    back = pplvae.load_fit(tmp_path, other.model, other.guide, random_linear(0, rows=60)[1])
    assert back.history["train_gap"].identical(resumed.history["train_gap"])


def test_what_the_next_look_begins_with_is_checked_when_it_is_read(tmp_path):
    fitted(run=tmp_path, on_epoch=killed(2))
    path = tmp_path / "checkpoint.safetensors"
    tensors, content = read_tensors(path)
    name = next(name for name in tensors if name.startswith("looks/train/"))
    write_tensors(path, tensors | {name: tensors[name][:3].clone()}, content)
    with pytest.raises(StoreError, match="guides of train rows"):
        fitted(run=tmp_path, existing="resume")


def test_a_pair_that_cannot_be_compared_is_refused_before_the_first_epoch():
    rows, told = torch.randn(20, 3), []

    def without_a_plate(x):
        weight = pyro.param("weight", torch.ones(3))
        pyro.sample("x", dist.Normal(weight, 1.0).expand([len(x), 3]).to_event(2), obs=x)

    def nothing(x):
        pass

    with pytest.raises(RowwiseError):
        pplvae.fit(without_a_plate, nothing, rows, compare_every=50, on_epoch=lambda *values: told.append(values))
    assert told == []
    with pytest.raises(ValueError, match="compare_every"):
        fitted(compare_every=0)


def own(model, guide, v, earlier=None, **schedule):
    with isolated(0, dtype=v.dtype), validation(False):
        layout = inspect_pair(model, guide, [v])
        chunk = Chunk(OwnGuides(model, guide, layout, Schedule(**schedule), 0), Batch.of([v]), earlier)
        return chunk.own_lambda, chunk.optimum


@pytest.mark.parametrize("wrong", [40.0, float("nan"), float("inf")])
def test_from_a_start_that_is_no_good_rows_end_where_they_would_have_without(wrong):
    model, guide, v = bad_pair(2, 20)
    cold, _ = own(model.model, guide, v)
    warm, optimum = own(model.model, guide, v, {key: torch.full_like(lam, wrong) for key, lam in cold.items()})
    assert {status.name for status in optimum.status} == {"CONVERGED"}
    for key, lam in cold.items():
        torch.testing.assert_close(warm[key], lam, rtol=0, atol=0.15)


def test_a_row_does_not_stay_in_a_mode_that_has_become_the_lesser_one():
    """p(v | h) is N(h^2, 0.3^2): the prior, of mean 1, makes the mode above 0 the likelier one."""
    v = torch.full((6, 1), 4.0, dtype=torch.float64)

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(v.new_ones(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h**2, 0.3).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(v.new_full((len(v), 1), 1.2), 0.5).to_event(1))

    lesser = {"h.loc": torch.full_like(v, -2.0), "h.scale": torch.full_like(v, -2.6)}
    found, _ = own(model, guide, v, lesser, max_steps=150)  # too few to look for modes at draws of the prior
    assert (found["h.loc"] > 1.5).all()


@pytest.mark.parametrize(("wrong", "least"), [({"compare_every": 0}, 1), ({"compare_rows": 1}, 2)])
def test_looks_that_say_nothing_are_refused(wrong, least):
    with pytest.raises(ValueError, match=f"must be at least {least}"):
        fitted(**wrong)


@pytest.mark.statistical
def test_an_encoder_that_overfits_is_seen_to_as_it_happens():
    """A large encoder and 100 rows: the gap stays small where it was trained, and grows where it was not."""
    torch.manual_seed(0)
    data = pplvae.load_data("digits", seed=0)
    vae = pplvae.models.BernoulliVAE(visible=64, latent=8, hidden=(256,))
    how = {"epochs": 200, "lr": 2e-3, "batch_size": 50, "compare_every": 50, "compare_rows": 40}
    history = pplvae.fit(vae.model, vae.guide, data.train[:100], validation=data.valid, **how).history
    looked_at = history.isel(epoch=slice(49, None, 50))
    train, held_out = looked_at["train_gap"].values, looked_at["validation_gap"].values
    assert (np.diff(held_out) > 5 * looked_at["validation_gap_mc_stderr"].values[1:]).all()
    assert held_out[-1] > 2 * held_out[0]
    assert train.max() < held_out[0]
