"""The loop: what Pyro's SVI does, resumable to the bit, honest when it fails."""

import functools
import json
import math
import re

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import process_state
from oracles import FactorAnalysis, random_linear
from programs import bound_methods_with_pyro_module, functions_with_pyro_param, plate_with_size_and_subsample, real
from pyro.infer import SVI, RenyiELBO, Trace_ELBO, TraceGraph_ELBO, TraceMeanField_ELBO
from torch import nn

import pplvae
from pplvae.errors import DataError, PplvaeWarning, ProgramError, StoreError, UnknownNameError
from pplvae.objectives import warm_up
from pplvae.training.fitting import FitStatus


def linear_pair(seed=0, rows=60):
    model, v = random_linear(seed, rows=rows)
    with torch.no_grad():
        model.mean.zero_()
    return model, v


def test_a_full_batch_step_is_that_of_pyro():
    """Closed-form KL and one particle: the loss and the gradient step equal those of Pyro's SVI with the same noise."""
    ours, v = linear_pair()
    theirs, _ = linear_pair()
    history = pplvae.fit(ours.model, ours.guide, v, epochs=1, batch_size=60, lr=0.01, seed=3).history
    with pplvae.isolate.isolated(3):
        pplvae.isolate.reseed(3, 0)
        order = torch.randperm(60)
        svi = SVI(theirs.model, theirs.guide, pyro.optim.Adam({"lr": 0.01}), TraceMeanField_ELBO())
        loss = svi.step(v[order])
    assert float(history["objective"][0]) == pytest.approx(-loss / 60, rel=1e-10)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


@pytest.mark.statistical
def test_linear_vae_reaches_the_maximum_likelihood_of_factor_analysis():
    from sklearn.decomposition import FactorAnalysis as ExactFactorAnalysis

    _, v = random_linear(1, rows=400)
    exact = ExactFactorAnalysis(2, tol=1e-4, max_iter=5000).fit(v.numpy()).score(v.numpy())
    model = FactorAnalysis(v.shape[1], 2)
    for lr, epochs in ((0.02, 400), (0.005, 200)):
        pplvae.fit(model.model, model.guide, v, epochs=epochs, lr=lr, batch_size=100)
    reached = float(model.log_evidence(v).mean().detach())
    assert exact - 0.05 < reached < exact + 1e-6


@pytest.mark.parametrize(
    "objective",
    ["Trace_ELBO", "TraceMeanField_ELBO", Trace_ELBO(num_particles=3), RenyiELBO(num_particles=4), TraceGraph_ELBO()],
    ids=lambda o: o if isinstance(o, str) else type(o).__name__,
)
def test_objectives(objective):
    class Pair(nn.Module):  # registers nothing with Pyro
        def __init__(self):
            super().__init__()
            self.decoder, self.encoder = nn.Linear(2, 5), nn.Linear(5, 2)

        def model(self, x):
            with pyro.plate("data", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))

    pair, rows = Pair(), real(rows=60)
    result = pplvae.fit(pair.model, pair.guide, rows, objective=objective, epochs=30, lr=0.02, validation=rows)
    elbo = result.history["elbo_validation"].values
    assert elbo[-1] > elbo[0] + 0.5


def test_plate_size_scales_nothing_that_is_reported():
    model, guide, rows = plate_with_size_and_subsample()
    result = pplvae.fit(model, guide, rows, epochs=3, batch_size=5, validation=rows, lr=1e-9, objective="Trace_ELBO")
    history = result.history
    difference = history["objective"].mean() - history["elbo_validation"].mean()
    assert abs(float(difference)) < 0.3 * abs(float(history["elbo_validation"].mean()))


def test_minibatch_plates_are_told_their_rows():
    """A subsampling plate yields the positions of the rows that are passed in, in training and in scoring."""
    rows = real(rows=20)
    seen = []

    def model(x):
        with pyro.plate("data", 20, subsample_size=len(x)) as index:
            seen.append((index.clone(), x.clone()))
            z = pyro.sample("z", dist.Normal(torch.zeros(5), pyro.param("scale", torch.ones(()))).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        with pyro.plate("data", 20, subsample_size=len(x)):
            pyro.sample("z", dist.Normal(x, 1.0).to_event(1))

    pplvae.fit(model, guide, rows, epochs=1, batch_size=6)
    trained = seen[-4:]
    assert sorted(torch.cat([index for index, _ in trained]).tolist()) == list(range(20))
    for index, x in trained:
        assert torch.equal(rows[index], x)


def test_interrupted_and_resumed_equals_uninterrupted(tmp_path):
    def run(folder, epochs, existing="refuse", interrupt=None):
        model, v = linear_pair(rows=50)
        options = {"validation": v[:20], "batch_size": 16, "lr": 0.01, "kl_weight": warm_up(4), "seed": 5}
        program = model.model if interrupt is None else interrupt(model.model)
        return model, pplvae.fit(program, model.guide, v, epochs=epochs, run=folder, existing=existing, **options)

    def stop_at(call):
        def interrupt(program):
            calls = 0

            @functools.wraps(program)
            def interrupted(v):
                nonlocal calls
                calls += len(v) == 16
                if calls == call:
                    raise KeyboardInterrupt
                return program(v)

            interrupted.__self__ = program.__self__
            return interrupted

        return interrupt

    whole, uninterrupted = run(tmp_path / "whole", 6)
    _, stopped = run(tmp_path / "parts", 6, interrupt=stop_at(8))
    assert stopped.status is FitStatus.INTERRUPTED
    assert 0 < stopped.history.sizes["epoch"] < 6
    resumed, result = run(tmp_path / "parts", 6, "resume")
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    columns = [name for name in result.history if name != "seconds"]
    assert result.history[columns].identical(uninterrupted.history[columns])
    assert result.best_epoch == uninterrupted.best_epoch


def test_resume_refuses_other_settings_and_other_programs(tmp_path):
    model, v = linear_pair()
    pplvae.fit(model.model, model.guide, v, epochs=1, run=tmp_path / "run")
    with pytest.raises(StoreError, match="already holds a run"):
        pplvae.fit(model.model, model.guide, v, epochs=1, run=tmp_path / "run")
    with pytest.raises(StoreError, match=r"lr was 0\.001 and is 0\.1"):
        pplvae.fit(model.model, model.guide, v, epochs=2, lr=0.1, run=tmp_path / "run", existing="resume")
    other = FactorAnalysis(model.visible, model.latent + 1)
    with pytest.raises(StoreError, match=r"another program: they differ in .*factors"):
        pplvae.fit(other.model, other.guide, v, epochs=2, run=tmp_path / "run", existing="resume")
    (tmp_path / "run" / "checkpoint.safetensors").write_bytes(b"nonsense")
    with pytest.raises(StoreError, match="damaged"):
        pplvae.fit(model.model, model.guide, v, epochs=2, run=tmp_path / "run", existing="resume")


def test_resume_refuses_other_rows(tmp_path):
    model, v = linear_pair()
    pplvae.fit(model.model, model.guide, v, epochs=1, run=tmp_path / "run")
    with pytest.raises(StoreError, match="rows_digest was"):
        pplvae.fit(model.model, model.guide, v + 1, epochs=2, run=tmp_path / "run", existing="resume")


@pytest.mark.parametrize(
    "wrong",
    [
        {"model": lambda v: 1 / 0},
        {"objective": "no such objective"},
        {"lr": "fast"},
        {"optimiser": lambda _: None},
        {"objective": "EntropyELBO", "kl_weight": lambda epoch: 1 / 0},
        {"rows": torch.full((3, 2), torch.nan)},
    ],
    ids=lambda wrong: " ".join(wrong),
)
def test_a_fit_that_is_refused_leaves_the_folder_as_it_was(wrong, tmp_path):
    model, v = linear_pair()
    given = {"model": model.model, "guide": model.guide, "rows": v, "epochs": 1}
    pplvae.fit(**given, run=tmp_path / "run")
    before = {path: path.read_bytes() for path in (tmp_path / "run").iterdir()}
    for folder in ("run", "new"):
        with pytest.raises((ProgramError, DataError, UnknownNameError, TypeError, ZeroDivisionError)):
            pplvae.fit(**given | wrong, run=tmp_path / folder, existing="overwrite")
    assert {path: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("interrupted", [False, True])
def test_overwriting_leaves_nothing_of_the_old_run(interrupted, tmp_path):
    """Nor does one that is interrupted before its first epoch is over leave the old checkpoint, to be resumed."""
    model, v = linear_pair()
    pplvae.fit(model.model, model.guide, v, epochs=3, run=tmp_path)

    def program(rows):
        if interrupted and len(rows) == 20:
            raise KeyboardInterrupt
        return model.model(rows)

    pplvae.fit(program, model.guide, v, epochs=1, batch_size=20, run=tmp_path, existing="overwrite", lr=0.1)
    loaded = pplvae.load_fit(tmp_path, model.model, model.guide, v)
    assert loaded.settings["lr"] == 0.1
    assert loaded.history.sizes["epoch"] == 1 - interrupted
    assert (tmp_path / "checkpoint.safetensors").exists() is not interrupted


def test_going_on_trains_on():
    model, guide, rows = functions_with_pyro_param()
    first = pplvae.fit(model, guide, rows, epochs=2, lr=0.05, validation=rows)
    second = pplvae.fit(first.model, first.guide, rows, epochs=40, lr=0.05, validation=rows)
    elbo = second.history["elbo_validation"].values
    assert elbo.max() > elbo[0] + 0.5


def test_going_on_leaves_the_earlier_fit_alone():
    model, guide, rows = functions_with_pyro_param()
    first = pplvae.fit(model, guide, rows, epochs=3, lr=0.05)
    before = pplvae.log_weights(first.model, first.guide, rows)
    pplvae.fit(first.model, first.guide, rows, epochs=3, lr=0.5)
    assert torch.equal(pplvae.log_weights(first.model, first.guide, rows), before)


def test_optimiser_of_pyro_is_refused_in_words():
    model, v = linear_pair()
    with pytest.raises(TypeError, match=r"torch\.optim\.AdamW"):
        pplvae.fit(model.model, model.guide, v, optimiser=lambda _: object())


def test_run_folder_brings_the_fit_back(tmp_path):
    model, v = linear_pair()
    result = pplvae.fit(model.model, model.guide, v, validation=v, epochs=3, run=tmp_path / "run")
    names = sorted(path.name for path in (tmp_path / "run").iterdir())
    assert names == [".lock", "checkpoint.safetensors", "history.nc", "run.json", "weights.safetensors"]
    fresh = FactorAnalysis(model.visible, model.latent)
    loaded = pplvae.load_fit(tmp_path / "run", fresh.model, fresh.guide, v)
    assert torch.equal(fresh.factors, model.factors)
    assert loaded.history.identical(result.history)
    assert (loaded.status, loaded.best_epoch) == (result.status, result.best_epoch)
    content = json.loads((tmp_path / "run" / "run.json").read_text())
    (tmp_path / "run" / "run.json").write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(StoreError, match="format 99"):
        pplvae.load_fit(tmp_path / "run", fresh.model, fresh.guide, v)


@pytest.mark.parametrize("held_by", ["module", "closure"])
def test_running_statistics_travel_with_the_run(held_by, tmp_path):
    def make():
        class Pair(nn.Module):
            def __init__(self):
                super().__init__()
                self.decoder, self.encoder = nn.Linear(2, 5), nn.Sequential(nn.BatchNorm1d(5), nn.Linear(5, 2))

            def model(self, x):
                pyro.module("decoder", self.decoder)
                with pyro.plate("data", len(x)):
                    z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                    pyro.sample("x", dist.Normal(self.decoder(z), 0.5).to_event(1), obs=x)

            def guide(self, x):
                pyro.module("encoder", self.encoder)
                with pyro.plate("data", len(x)):
                    pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))

        pair = Pair()
        if held_by == "module":
            return pair, pair.model, pair.guide
        return pair, lambda x: pair.model(x), lambda x: pair.guide(x)

    rows = 3 + real(rows=60)
    pair, model, guide = make()
    result = pplvae.fit(model, guide, rows, epochs=4, run=tmp_path / "run")
    fresh, model, guide = make()
    loaded = pplvae.load_fit(tmp_path / "run", model, guide, rows)
    assert float(fresh.encoder[0].running_mean.mean()) > 1
    assert torch.equal(fresh.encoder[0].running_mean, pair.encoder[0].running_mean)
    theirs, ours = (pplvae.log_weights(f.model, f.guide, rows) for f in (result, loaded))
    assert torch.equal(theirs, ours)


def test_params_of_functions_are_saved_and_loaded(tmp_path):
    model, guide, rows = functions_with_pyro_param()
    pplvae.fit(model, guide, rows, epochs=5, lr=0.1, run=tmp_path / "run")
    loaded = pplvae.load_fit(tmp_path / "run", model, guide, rows)
    fitted = pplvae.log_weights(loaded.model, loaded.guide, rows, particles=50).mean()
    assert fitted > pplvae.log_weights(model, guide, rows, particles=50).mean()


def test_best_weights_are_kept_and_stopping_is_early():
    model, v = linear_pair(rows=40)
    given = {"validation": v[8:], "lr": 0.05}
    result = pplvae.fit(model.model, model.guide, v[:8], epochs=400, patience=10, **given)
    elbo = result.history["elbo_validation"].values
    assert result.status is FitStatus.STOPPED_EARLY
    assert result.best_epoch == elbo.argmax() == len(elbo) - 11
    shorter, _ = linear_pair(rows=40)
    pplvae.fit(shorter.model, shorter.guide, v[:8], epochs=result.best_epoch + 1, **given)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), shorter.parameters(), strict=True))


def test_one_row_held_out_has_no_error_of_a_mean():
    model, v = linear_pair(rows=9)
    result = pplvae.fit(model.model, model.guide, v[:8], validation=v[8:], epochs=2)
    assert result.history["elbo_validation"].notnull().all()
    assert result.history["elbo_validation_stderr"].isnull().all()


def test_two_models_with_the_same_names_both_train():
    for _ in range(2):
        model, guide, rows = bound_methods_with_pyro_module()
        before = [p.clone() for p in model.__self__.parameters()]
        pplvae.fit(model, guide, rows, epochs=5, lr=0.05)
        assert all(not torch.equal(a, b) for a, b in zip(before, model.__self__.parameters(), strict=True))


def test_going_on_from_an_earlier_fit():
    model, guide, rows = functions_with_pyro_param()
    first = pplvae.fit(model, guide, rows, epochs=30, lr=0.05, validation=rows)
    second = pplvae.fit(first.model, first.guide, rows, epochs=1, lr=1e-6, validation=rows)
    assert float(second.history["elbo_validation"][0]) > float(first.history["elbo_validation"][0]) + 0.1


def test_kl_weight_scales_both_sides():
    """Objective at weight w is E log p(v|h) - w KL, in both objectives: exact on a linear-Gaussian model."""
    model, v = linear_pair()
    loc, scale = (t.detach() for t in (model.encoder(v), model.log_scale.exp().expand(len(v), -1)))
    kl = 0.5 * (scale**2 + loc**2 - 1 - 2 * scale.log()).sum(-1).mean()
    elbo = model.elbo(v, loc, scale).mean().detach()
    for objective, draws in ((TraceMeanField_ELBO(num_particles=500), 500), (Trace_ELBO(num_particles=500), 500)):
        settings = {"objective": objective, "epochs": 1, "batch_size": len(v), "lr": 1e-12, "kl_weight": 0.25}
        found = float(pplvae.fit(model.model, model.guide, v, **settings).history["objective"][0])
        log_weights = pplvae.log_weights(model.model, model.guide, v, particles=draws)
        stderr = float(log_weights.mean(1).std()) / math.sqrt(draws)
        assert found == pytest.approx(float(elbo + 0.75 * kl), abs=5 * stderr)


def test_kl_schedule_is_recorded():
    model, v = linear_pair()
    history = pplvae.fit(model.model, model.guide, v, epochs=4, batch_size=60, kl_weight=warm_up(2)).history
    assert history["kl_weight"].values.tolist() == [0.0, 0.5, 1.0, 1.0]


def test_clipping_bounds_the_step():
    model, v = linear_pair()
    before = torch.cat([p.detach().clone().flatten() for p in model.parameters()])
    sgd = functools.partial(torch.optim.SGD, lr=1.0)
    pplvae.fit(model.model, model.guide, v, epochs=1, batch_size=60, clip=0.01, optimiser=sgd)
    after = torch.cat([p.detach().flatten() for p in model.parameters()])
    assert float((after - before).norm()) == pytest.approx(0.01, rel=1e-3)


def test_nonfinite_loss_stops_and_says_where(tmp_path):
    model, v = linear_pair()

    def breaking(rows):
        with pyro.plate("data", len(rows)):
            h = pyro.sample("h", dist.Normal(torch.zeros(model.latent), 1.0).to_event(1))
            scale = torch.where(rows[:, :1] == v[7, 0], torch.nan, 1.0) if counting() > 10 else torch.ones(())
            # A name that holds the other program's must not be taken for it.
            pyro.sample("no guide's", dist.Normal(h @ model.factors.T, scale).to_event(1), obs=rows)

    calls = 0

    def counting():
        nonlocal calls
        calls += 1
        return calls

    with pytest.warns(PplvaeWarning, match=r"site \"no guide's\" of the model, rows 7\."):
        result = pplvae.fit(breaking, model.guide, v, epochs=20, batch_size=60, run=tmp_path / "run")
    assert result.status is FitStatus.NONFINITE
    assert result.history.sizes["epoch"] < 20
    assert all(p.isfinite().all() for p in model.parameters())


def thrown(family, rows, **options):
    """A fit whose first step throws the encoder far away, so that the next one breaks down, and the pair's networks."""
    torch.manual_seed(0)
    encoder, decoder = nn.Linear(4, 6), nn.Linear(2, 4)

    def model(v):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.MultivariateNormal(torch.zeros(2), torch.eye(2)))
            pyro.sample("v", dist.Normal(decoder(h), 0.5).to_event(1), obs=v)

    def guide(v):
        pyro.module("encoder", encoder)
        with pyro.plate("data", len(v)):
            pyro.sample("h", family(encoder(v)))

    networks = nn.ModuleList([encoder, decoder])
    before = {name: tensor.clone() for name, tensor in networks.state_dict().items()}
    with pytest.warns(PplvaeWarning, match="became NaN or infinite"):
        result = pplvae.fit(model, guide, torch.randn(rows, 4), batch_size=8, lr=1e3, epochs=50, **options)
    return result, networks.state_dict(), before


def of_scales(lam):
    return dist.MultivariateNormal(lam[:, :2], scale_tril=torch.diag_embed(lam[:, 2:4].exp()))


def of_a_covariance(lam):
    factor = lam[:, 2:].reshape(-1, 2, 2).exp()
    return dist.MultivariateNormal(lam[:, :2], covariance_matrix=factor @ factor.mT + 1e-3 * torch.eye(2))


@pytest.mark.parametrize("objective", ["TraceMeanField_ELBO", "TraceGraph_ELBO", "IWAE"])
@pytest.mark.parametrize("rows", [12, 16])  # the second batch is smaller, or of the same kind
@pytest.mark.parametrize(
    ("family", "where"), [(of_scales, r"the site 'h' of the guide, rows \d"), (of_a_covariance, "site|matrix")]
)
def test_a_breakdown_in_the_first_step_of_a_kind_is_an_outcome(family, where, rows, objective):
    """Checks of arguments, or the factorisation of a matrix, raise then; the weights of before are put back."""
    result, after, before = thrown(family, rows, objective=objective)
    assert result.status is FitStatus.NONFINITE
    assert re.search(rf"epoch 0, step 1\. .*({where})", result.message)
    assert all(torch.equal(tensor, before[name]) for name, tensor in after.items())


def test_a_program_that_raises_in_the_midst_leaves_the_weights_of_the_best_epoch():
    model, v = linear_pair(rows=60)
    calls = 0

    def failing(rows):
        nonlocal calls
        calls += len(rows) == 30
        if calls > 2:  # in the second step
            raise RuntimeError("a typo")
        return model.model(rows)

    before = [p.clone() for p in model.parameters()]
    with pytest.raises(ProgramError, match="a typo"):
        pplvae.fit(failing, model.guide, v, epochs=3, batch_size=30, lr=0.1)
    for parameter, value in zip(model.parameters(), before, strict=False):
        assert torch.equal(parameter, value)
        assert parameter.grad is None


def test_exploding_parameters_are_named():
    model, v = linear_pair()
    with pytest.warns(PplvaeWarning, match="ower `lr`"):
        result = pplvae.fit(
            model.model, model.guide, v, epochs=50, optimiser=functools.partial(torch.optim.SGD, lr=1e6)
        )
    assert result.status is FitStatus.NONFINITE
    assert all(p.isfinite().all() for p in model.parameters())


def test_modules_follow_the_rows():
    model, v = linear_pair()
    result = pplvae.fit(model.model, model.guide, v.float(), epochs=1)
    assert model.factors.dtype == torch.float32
    assert result.status is FitStatus.COMPLETED


def test_same_seed_same_bits():
    histories = []
    for seed in (1, 1, 2):
        model, v = linear_pair()
        histories.append(pplvae.fit(model.model, model.guide, v, epochs=2, seed=seed).history["objective"].values)
    assert np.array_equal(histories[0], histories[1])
    assert not np.array_equal(histories[0], histories[2])


def test_stochastic_binarisation_is_redrawn_each_epoch():
    data = pplvae.load_data("digits", binarise="stochastic")
    first, second = data.train.redrawn(0, 0).values, data.train.redrawn(0, 1).values
    assert not torch.equal(first, second)
    assert torch.equal(first, data.train.redrawn(0, 0).values)
    mean = torch.stack([data.train.redrawn(0, k).values for k in range(50)]).mean()
    assert float(mean) == pytest.approx(float(data.train.intensities.mean()), abs=1e-3)


def test_modes_and_process_are_left_alone_also_after_an_error():
    model, guide, rows = bound_methods_with_pyro_module()
    model.__self__.decoder.eval()
    before = process_state()
    with torch.no_grad():
        pplvae.fit(model, guide, rows, validation=rows, epochs=1)
        assert not torch.is_grad_enabled()
    with pytest.raises(ProgramError):
        pplvae.fit(model, lambda v: guide(v[:, :3]), rows)
    assert process_state() == before
    assert not model.__self__.decoder.training
    assert model.__self__.encoder.training


def test_a_forgotten_network_is_named():
    model, v = linear_pair()
    encoder = nn.Linear(model.visible, model.latent)

    def guide(rows):
        with pyro.plate("data", len(rows)):
            pyro.sample("h", dist.Normal(encoder(rows), 1.0).to_event(1))

    with pytest.warns(PplvaeWarning, match=r"use Linear\(in_features=.* not trained.*pyro\.module"):
        pplvae.fit(model.model, guide, v, epochs=1)


def test_bad_calls():
    model, v = linear_pair()
    with pytest.raises(UnknownNameError, match="Did you mean 'Trace_ELBO'"):
        pplvae.fit(model.model, model.guide, v, objective="TraceELBO")
    with pytest.raises(TypeError, match="Pyro ELBO object"):
        pplvae.fit(model.model, model.guide, v, objective=3)
    with pytest.raises(ValueError, match="`epochs` must be at least 1"):
        pplvae.fit(model.model, model.guide, v, epochs=0)
    with pytest.raises(ValueError, match="pass `validation` rows"):
        pplvae.fit(model.model, model.guide, v, patience=3)
    with pytest.raises(DataError, match="rows 3"):
        pplvae.fit(model.model, model.guide, v.index_fill(0, torch.tensor([3]), torch.nan))
    with pytest.raises(ValueError, match="existing"):
        pplvae.fit(model.model, model.guide, v, run="x", existing="maybe")

    def bare(x):
        with pyro.plate("data", len(x)):
            pyro.sample("h", dist.Normal(x, 1.0).to_event(1))

    def bare_model(x):
        with pyro.plate("data", len(x)):
            h = pyro.sample("h", dist.Normal(torch.zeros(x.shape[1]), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(h, 1.0).to_event(1), obs=x)

    with pytest.raises(ProgramError, match="declare no parameters"):
        pplvae.fit(bare_model, bare, v)


def test_training_the_guide_alone():
    vae = pplvae.models.BernoulliVAE(visible=16, latent=2, hidden=(8,))
    v = (torch.rand(60, 16) < 0.4).to(torch.get_default_dtype())
    before = {name: p.clone() for name, p in vae.named_parameters()}
    pplvae.fit(vae.model, vae.guide, v, train="guide", epochs=2)
    moved = {name for name, p in vae.named_parameters() if not torch.equal(p, before[name])}
    assert moved == {name for name in before if name.startswith("family.")}
    with pytest.raises(UnknownNameError, match="Did you mean 'guide'"):
        pplvae.fit(vae.model, vae.guide, v, train="guid")

    def fixed_guide(rows):
        with pyro.plate("data", len(rows)):
            pyro.sample("h", dist.Normal(torch.zeros(len(rows), 2), 1.0).to_event(1))

    with pytest.raises(ProgramError, match="cannot be trained alone"):
        pplvae.fit(vae.model, fixed_guide, v, train="guide", epochs=1)


def test_training_the_guide_alone_leaves_running_means_and_gradients():
    vae = pplvae.models.BernoulliVAE(6, 2).double()
    vae.decoder = torch.nn.Sequential(torch.nn.BatchNorm1d(2), vae.decoder)
    vae.family = torch.nn.Sequential(torch.nn.BatchNorm1d(6), vae.family)
    v = (torch.rand(40, 6) < 0.5).double()
    before = vae.decoder[0].running_mean.clone(), vae.family[0].running_mean.clone()
    pplvae.fit(vae.model, vae.guide, v, train="guide", epochs=3)
    assert torch.equal(vae.decoder[0].running_mean, before[0])
    assert not torch.equal(vae.family[0].running_mean, before[1])
    assert vae.decoder[0].training
    assert all(parameter.grad is None for parameter in vae.parameters())
