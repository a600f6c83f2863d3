"""The gaps against exact answers, and the promises of the comparison."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from oracles import PPCA, FactorAnalysis, bad_encoder, bad_guide, random_linear
from statistics_ import SEARCH, assert_spread_is_one, assert_within, of_mean, standard_errors
from torch.distributions import constraints

import pplvae
from pplvae.errors import UnknownNameError
from pplvae.isolate import unwarned
from pplvae.programs.log_weights import log_weights


@pytest.mark.statistical
@pytest.mark.parametrize(("seed", "kind"), [(0, FactorAnalysis), (1, FactorAnalysis), (2, PPCA), (3, FactorAnalysis)])
def test_against_the_exact_gap(seed, kind):
    model, v = random_linear(seed, kind=kind)
    guide, encode = bad_guide(model, seed)
    rows = pplvae.compare(model.model, guide, v, seed=seed, simulated=0).rows
    exact = {
        "elbo_amortised": model.elbo(v, *encode(v)),
        "elbo_local": model.elbo(v, *model.best_factorised(v)),
        "amortisation_gap": model.amortisation_gap(v, *encode(v)),
        "log_evidence": model.log_evidence(v),
        "approximation_gap": model.approximation_gap().expand(len(v)),
        "inference_gap": model.log_evidence(v) - model.elbo(v, *encode(v)),
    }
    for name, truth in exact.items():
        error, stderr = rows[name].values - truth.detach().numpy(), rows[f"{name}_stderr"].values
        if name.startswith(("elbo", "amortisation")):
            assert abs(error).max() < 1e-6, name  # nothing is left to the draws, and the search ends at the optimum
        else:  # of the mixture's weights; the logarithm of a mean is low by half its variance
            assert_within(error.mean(), of_mean(stderr), low=-0.5 * (stderr**2).mean(), what=name)
            assert_spread_is_one(error / stderr, degrees=999, what=name)
    assert (rows["status"] == "converged").all()


@pytest.mark.statistical
def test_the_error_of_a_small_gap_is_that_of_paired_differences():
    """Of a guide whose scale alone is free, so that its log weights keep their noise."""
    model, v = random_linear(1)  # five latents: the factorised optimum itself has noisy log weights

    def encode(v):
        loc, scale = (values.detach() for values in model.best_factorised(v))
        return loc, scale * (0.1 * torch.sin(5 * v[:, : model.latent])).exp()

    def guide(v):
        loc, scale = encode(v)
        with pyro.plate("data", len(v)):
            scale = pplvae.local("scale", scale, constraint=constraints.positive)
            pyro.sample("h", dist.Normal(loc, scale).to_event(1))

    result = pplvae.amortisation_gap(model.model, guide, v, particles=400, max_steps=50)
    rows = result.rows
    own = torch.tensor(result.parameters["scale"].sel(guide="local").values)
    stderr = rows["amortisation_gap_stderr"].values
    unpaired = np.hypot(rows["elbo_amortised_stderr"].values, rows["elbo_local_stderr"].values)
    assert stderr.mean() < 0.7 * unpaired.mean()
    exact = model.elbo(v, encode(v)[0], own) - model.elbo(v, *encode(v))
    assert_spread_is_one((rows["amortisation_gap"].values - exact.detach().numpy()) / stderr, degrees=199)


@pytest.mark.parametrize("seed", [0, 1])
def test_exact_posterior_leaves_nothing(seed):
    """Given by `covariance_matrix`: every log weight is log p(v), and no row has a gap."""
    model, v = random_linear(seed, rows=60)
    weights = log_weights(model.model, model.exact_guide, v, particles=5)
    assert float((weights - model.log_evidence(v)).abs().max().detach()) < 1e-9
    result = pplvae.compare(model.model, model.exact_guide, v, families=["full_covariance"], simulated=0)
    rows, summary = result.rows, result.summary().isel(part=0)
    assert float(abs(rows["amortisation_gap"]).max()) < 1e-9
    assert_within(rows["approximation_gap"], rows["approximation_gap_stderr"], low=-0.001, degrees=999)
    assert float(rows["approximation_gap_stderr"].max()) < 0.015
    assert (rows["pareto_k_amortised"] < 0.7).all()
    # Rounding errors are no failed search.
    shares = ("unconverged", "negative", "unreliable", "unnested_full_covariance")
    assert [float(summary[name]) for name in shares] == [0.0] * 4
    assert "failed" not in str(result)
    assert "lower bounds" not in str(result)


def test_full_covariance_family_has_no_approximation_gap():
    model, v = random_linear(4, rows=40)

    def guide(v):
        covariance = torch.eye(model.latent).expand(len(v), -1, -1)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.MultivariateNormal(torch.zeros(len(v), model.latent), covariance_matrix=covariance))

    rows = pplvae.compare(model.model, guide, v, simulated=0).rows
    assert float(rows["amortisation_gap"].mean()) > 1
    np.testing.assert_allclose(rows["elbo_local"], model.log_evidence(v).detach(), rtol=0, atol=1e-6)


def test_same_seed_same_bits():
    model, v = random_linear(5, rows=10)
    guide, _ = bad_guide(model, 5)
    first, again, other = (
        pplvae.amortisation_gap(model.model, guide, v, seed=seed, particles=50).rows for seed in (1, 1, 2)
    )
    assert first.identical(again)
    assert not np.array_equal(first["amortisation_gap"], other["amortisation_gap"])


def test_row_alone_in_chunks_in_any_order():
    model, v = random_linear(6, rows=30)
    guide, _ = bad_guide(model, 6)

    def found(rows, **options):
        return pplvae.compare(model.model, guide, rows, stderr=0.02, **options, simulated=0).rows

    whole, order = found(v, chunk_size=1000), torch.randperm(30)
    for rows, those in ((found(v[11:12]), [11]), (found(v, chunk_size=7), range(30)), (found(v[order]), order.numpy())):
        expected = whole.isel(row=list(those))
        for name in ("status", "method", "draws"):
            np.testing.assert_array_equal(rows[name], expected[name])
        for name in ("elbo_amortised", "elbo_local", "amortisation_gap", "log_evidence", "log_evidence_stderr"):
            np.testing.assert_allclose(rows[name], expected[name], rtol=1e-6)


def test_local_statement_names_lambda():
    """Freeing the mean only, by name, gives the gap of the best mean at the encoder's scale."""
    model, v = random_linear(7, rows=50)
    encode = bad_encoder(model, 7)

    def guide(v):
        loc, scale = encode(v)
        loc = pplvae.local("loc", loc)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, scale).to_event(1))

    result = pplvae.amortisation_gap(model.model, guide, v)
    _, scale = encode(v)
    best = model.elbo(v, model.posterior(v).mean, scale)
    exact = (best - model.elbo(v, *encode(v))).detach().numpy()
    error = result.rows["amortisation_gap"].values - exact
    assert_within(error.mean(), of_mean(result.rows["amortisation_gap_stderr"]), low=-SEARCH)
    assert result.rows.attrs["lambda"] == "loc"
    guide(v)  # outside the comparison the statement is the identity


def test_a_row_without_a_finite_elbo_is_named_and_does_not_spoil_others():
    model, v = random_linear(8, rows=6)
    guide, _ = bad_guide(model, 8)

    def breaking(rows):
        with pyro.plate("data", len(rows)):
            h = pyro.sample("h", dist.Normal(torch.zeros(model.latent), 1.0).to_event(1))
            broken = torch.where(rows[:, 0] == v[2, 0], -torch.inf, 0.0)
            pyro.factor("penalty", broken)
            pyro.sample("v", dist.Normal(h @ model.factors.T, 1.0).to_event(1), obs=rows)

    rows = pplvae.compare(breaking, guide, v, particles=50, simulated=4).rows
    assert rows["status"].values.tolist() == ["converged"] * 2 + ["nonfinite"] + ["converged"] * 3
    assert np.isfinite(np.delete(rows["amortisation_gap"].values, 2)).all()


def test_an_encoder_that_says_no_gaussian_of_one_row_fails_there_alone():
    model, v = random_linear(8, rows=9)
    encode = bad_encoder(model, 8)

    def guide(rows):
        loc, scale = encode(rows)
        with pyro.plate("data", len(rows)):
            wrong = torch.where(rows[:, :1] == v[6, 0], torch.inf, 1.0)
            pyro.sample("h", dist.Normal(loc, scale * wrong).to_event(1))

    good = [0, 1, 2, 3, 4, 5, 7, 8]
    together, alone = (pplvae.compare(model.model, guide, rows, simulated=4).rows for rows in (v, v[good]))
    assert str(together["status"].values[6]) == "nonfinite"
    for name in ("method", "status", "draws"):
        np.testing.assert_array_equal(together[name].values[good], alone[name])
    for name in ("elbo_amortised", "elbo_local", "amortisation_gap", "log_evidence"):
        np.testing.assert_allclose(together[name].values[good], alone[name], rtol=1e-9)


def test_a_gradient_that_is_nan_is_not_convergence():
    def broken(rows):
        with pyro.plate("data", len(rows)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            mean = h + torch.where(rows[:, :1] > 100, (h - h).sqrt(), h * 0)  # 0, with a gradient that is NaN
            pyro.sample("v", dist.Normal(mean, 0.1).to_event(1), obs=rows)

    def prior(rows):
        with pyro.plate("data", len(rows)):
            pyro.sample("h", dist.Normal(torch.zeros(1), 1.0).to_event(1))

    result = pplvae.amortisation_gap(broken, prior, torch.randn(4, 1), particles=20)
    assert (result.rows["status"] == "nonfinite").all()
    assert int(result.summary()["nonfinite"][0]) == 4
    assert "left out" in str(result)


@pytest.mark.statistical
def test_monte_carlo_error_of_the_mean_counts_equal_rows_once():
    model, v = random_linear(3, rows=3)

    def guide(rows):
        loc, scale = (values.detach() for values in model.best_factorised(rows))
        loc = pplvae.local("loc", loc)  # no Gaussian to the search: its scores keep their noise
        with pyro.plate("data", len(rows)):
            pyro.sample("h", dist.Normal(loc, 1.5 * scale).to_event(1))

    repeated = v.repeat(9, 1)
    found = [
        pplvae.amortisation_gap(model.model, guide, repeated, particles=100, max_steps=0, seed=seed)
        .summary()
        .isel(part=0)
        .sel(term="elbo_amortised")
        for seed in range(40)
    ]
    loc, scale = model.best_factorised(v)
    exact = float(model.elbo(v, loc, 1.5 * scale).mean().detach())
    scores = [(float(f["mean"]) - exact) / float(f["mc_stderr"]) for f in found]
    assert_spread_is_one(scores, degrees=49)


def test_labels_of_some_parts_only():
    model, v = random_linear(9, rows=6)
    data = pplvae.data.Rows((v[:3],), np.arange(3), "a", labels=np.arange(3))
    result = pplvae.amortisation_gap(model.model, model.guide, {"a": data, "b": v[3:]}, particles=20, max_steps=25)
    assert "label" not in result.rows.coords


def test_train_and_held_out_side_by_side():
    model, v = random_linear(9, rows=20)
    guide, _ = bad_guide(model, 9)
    result = pplvae.amortisation_gap(model.model, guide, {"train": v[:12], "held out": v[12:]}, particles=50)
    assert result.parts == ["train", "held out"]
    assert result.summary()["count"].values.tolist() == [12, 8]


@pytest.mark.parametrize(
    ("options", "text"),
    [({"particles": 7}, "even"), ({"particles": 2}, "at least 4"), ({"chunk_size": 0}, "chunk_size")],
)
def test_bad_numbers(options, text):
    model, v = random_linear(0, rows=4)
    with pytest.raises(ValueError, match=text):
        pplvae.amortisation_gap(model.model, model.guide, v, **options)


def test_unknown_evidence():
    model, v = random_linear(0, rows=4)
    with pytest.raises(UnknownNameError, match="Did you mean 'importance'"):
        pplvae.compare(model.model, model.guide, v, evidence="importnce")


def test_a_screen_skips_rows_that_cannot_lose_much():
    model, v = random_linear(9, rows=24)
    encode = bad_encoder(model, 9)
    bad = torch.arange(24) % 3 == 0

    def guide(rows):
        mean, scale = model.best_factorised(rows)
        far_mean, far_scale = encode(rows)
        poor = torch.isin(rows[:, 0], v[bad, 0]).unsqueeze(1)
        with pyro.plate("data", len(rows)):
            loc, spread = torch.where(poor, far_mean, mean.detach()), torch.where(poor, far_scale, scale.detach())
            pyro.sample("h", dist.Normal(loc, spread).to_event(1))

    whole = pplvae.compare(model.model, guide, v, simulated=0).rows
    result = pplvae.compare(model.model, guide, v, screen=0.2, chunk_size=10, simulated=0)
    rows = result.rows
    skipped = (rows["status"] == "skipped").values
    assert not skipped[bad.numpy()].any()
    assert skipped[~bad.numpy()].all()
    assert np.isnan(rows["amortisation_gap"].values[skipped]).all()
    refined = {name: rows[name].values[~skipped] for name in ("amortisation_gap", "log_evidence", "elbo_local")}
    for name, values in refined.items():
        np.testing.assert_allclose(values, whole[name].values[~skipped], rtol=1e-6)
    np.testing.assert_allclose(rows["elbo_amortised"], whole["elbo_amortised"], rtol=1e-9)
    assert (whole["amortisation_gap"].values[skipped] < rows["amortisation_gap_bound"].values[skipped]).all()
    summary = result.summary().isel(part=0)
    assert int(summary["skipped"]) == 16
    assert float(summary["gap_at_most"]) > float(whole["amortisation_gap"].mean())
    assert "16 rows were screened out" in str(result)
    everything = pplvae.compare(model.model, guide, v[~bad], screen=0.5, max_steps=50, simulated=0)
    assert (everything.rows["status"] == "skipped").all()
    str(everything)


def test_lambda_of_the_encoder_and_of_each_row():
    model, v = random_linear(9, rows=8)
    guide, encode = bad_guide(model, 9)
    parameters = pplvae.amortisation_gap(model.model, guide, v, particles=50).parameters
    for name, exact, best in zip(("h.loc", "h.scale"), encode(v), model.best_factorised(v), strict=True):
        np.testing.assert_allclose(parameters[name].sel(guide="amortised"), exact.detach(), rtol=1e-9)
        np.testing.assert_allclose(parameters[name].sel(guide="local"), best.detach(), rtol=1e-6, atol=1e-6)


def test_posterior_means_of_a_poor_guide_are_corrected():
    model, v = random_linear(9, rows=12)
    guide, encode = bad_guide(model, 9)
    exact = model.posterior(v).mean.detach().numpy()
    found = pplvae.posterior_means(model.model, guide, v, particles=4000).rows
    error = (found["h"].values - exact) / found["h_stderr"].values
    assert_spread_is_one(error, degrees=999)
    poor = pplvae.posterior_means(model.model, guide, v, particles=4000, max_steps=0).rows
    np.testing.assert_allclose(poor["h_guide"], encode(v)[0].detach(), atol=0.2)
    off, corrected = (abs(poor[name].values - exact).mean() for name in ("h_guide", "h"))
    assert corrected < 0.5 * off
    with pytest.raises(ValueError, match="25"):
        pplvae.posterior_means(model.model, guide, v, particles=10)


def test_both_means_of_a_latent_can_be_subtracted():
    model, v = random_linear(9, rows=5)
    rows = pplvae.posterior_means(model.model, bad_guide(model, 9)[0], v, particles=50, max_steps=0).rows
    moved = rows["h"] - rows["h_guide"]
    assert moved.sizes == {"row": 5, "element of h": model.latent}
    np.testing.assert_array_equal(moved, rows["h"].values - rows["h_guide"].values)
    assert rows["h_stderr"].dims == rows["h"].dims


TAKEN = ("h", "h_guide", "h_stderr", "pareto_k", "draws of h", "site h_guide", "draw")


def test_sites_whose_names_are_those_of_columns_have_their_own_means(tmp_path):
    """Each is seen with noise of variance 1 in a column of its own: its posterior mean is half of that."""

    def sites_of(*arguments):
        return torch.stack([pyro.sample(name, dist.Normal(*(x[..., k] for x in arguments))) for k, name in
                            enumerate(TAKEN)], -1)  # fmt: skip

    def model(v):
        with pyro.plate("data", len(v)):
            h = sites_of(torch.zeros_like(v), torch.ones_like(v))
            pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            sites_of(0.4 * v, torch.full_like(v, 0.8))

    v = torch.randn(5, len(TAKEN), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    found = pplvae.posterior_means(model, guide, v, particles=2000, draws=3)
    names = ["h", "site site h_guide", "site h_stderr", "site pareto_k", "site draws of h", "site h_guide", "site draw"]
    for k, name in enumerate(names):
        error = found.rows[name].values[:, 0] - v[:, k].numpy() / 2
        assert (abs(error) < 5 * found.rows[f"{name}_stderr"].values[:, 0]).all(), name
        assert found.rows[f"{name}_guide"].sizes == found.rows[name].sizes
        assert found.posterior[name].sizes["draw"] == 3
    assert found.rows["pareto_k"].dims == ("row",)
    assert found.summary()["latent"].values.tolist() == names
    assert pplvae.PosteriorMeans.load(found.save(tmp_path / "means.nc")) == found


def test_draws_of_the_posterior_have_its_moments():
    """Of a guide that is far off: what its draws are without their weights is not the posterior."""
    model, v = random_linear(9, rows=4)
    found = pplvae.posterior_means(
        model.model, bad_guide(model, 9)[0], v, draws=8000, particles=20_000, max_steps=0, seed=1
    )
    exact = model.posterior(v)
    good = found.rows["pareto_k"].values < 0.7
    assert good.any()
    draws = found.posterior["h"]
    assert draws.dims == ("chain", "draw", "row", "element of h")
    mean, variance = (np.asarray(getattr(draws, name)(("chain", "draw")))[good] for name in ("mean", "var"))
    resampled = abs(mean - found.rows["h"].values[good])  # by the same weights
    assert (resampled < standard_errors() * np.sqrt(variance / 8000)).all()
    np.testing.assert_allclose(mean, exact.mean.detach()[good], atol=0.15)
    np.testing.assert_allclose(variance, exact.variance.detach()[good], rtol=0.3)
    with unwarned():
        import arviz
    container = found.to_arviz()
    table = arviz.summary(container, kind="stats")
    np.testing.assert_allclose(table["mean"].astype(float), draws.mean(("chain", "draw")).values.flatten(), atol=0.006)
    with pytest.raises(TypeError, match="log likelihood not found"):  # as docs/gallery.md says
        arviz.loo(container)
    with pytest.raises(TypeError, match="ELPD"):
        arviz.compare({"one": container, "other": container})
    with pytest.raises(ValueError, match="draws"):
        pplvae.posterior_means(model.model, model.guide, v, draws=-1)


def test_simulated_rows_are_no_fewer_than_none():
    model, v = random_linear(0, rows=4)
    with pytest.raises(ValueError, match="`simulated` is a number of rows"):
        pplvae.compare(model.model, model.guide, v, simulated=-1)
