"""Rate, distortion, KL per dimension, ELBO surgery and the joint divergence, against closed forms and quadrature."""

from dataclasses import replace

import numpy as np
import programs
import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from conftest import process_state
from oracles import FactorAnalysis, bad_encoder, marginal, random_linear
from scipy import stats
from scipy.special import logsumexp
from statistics_ import LEVEL, assert_spread_is_one, assert_within, of_mean

from pplvae.diagnostics import surgery as surgery_module
from pplvae.diagnostics.calibration import calibrate
from pplvae.diagnostics.joint import joint_kl
from pplvae.diagnostics.latent_use import latent_use
from pplvae.errors import DataError, ProgramError, ShapeError
from pplvae.plots.latents import kl_per_dimension, rate_distortion
from pplvae.programs.simulation import draw_rows


def gaussian_guide(encode):
    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(*encode(v)).to_event(1))

    return guide


def as_two_sites(guide, given):
    """The same factorised Gaussian over the last latent given the others, in two sites."""

    def chained(v):
        loc, scale = guide(v)
        with pyro.plate("data", len(v)):
            first = pyro.sample("first", dist.Normal(loc[:, :1], scale[:, :1]).to_event(1))
            pyro.sample("rest", dist.Normal(loc[:, 1:] + given * first, scale[:, 1:]).to_event(1))

    return chained


def model_in_two_sites(model):
    def program(v):
        with pyro.plate("data", len(v)):
            first = pyro.sample("first", dist.Normal(torch.zeros(1), 1.0).to_event(1))
            rest = pyro.sample("rest", dist.Normal(torch.zeros(model.latent - 1), 1.0).to_event(1))
            mean = model.mean + torch.cat([first, rest], -1) @ model.factors.T
            pyro.sample("v", dist.Normal(mean, model.noise.sqrt()).to_event(1), obs=v)

    return program


def gaussian_kl(loc, scale):
    return (0.5 * (loc**2 + scale**2 - 1) - scale.log()).detach().numpy()


def one_latent(rows=30):
    torch.manual_seed(2)
    model = FactorAnalysis(4, 1)
    v = 3 * torch.randn(rows, 4)
    encode = lambda v: (model.encoder(v), 0.3 + 0.1 * v[:, :1].abs())  # noqa: E731
    return model, v, encode


def by_quadrature(loc, scale):
    """I_q(n; h) and KL(q(h) || N(0, 1)) of a mixture of Gaussians in one dimension."""
    grid = np.linspace(-40, 40, 40_001)
    log_q = np.stack([stats.norm(m, s).logpdf(grid) for m, s in zip(loc, scale, strict=True)])
    mixture = logsumexp(log_q, axis=0) - np.log(len(loc))
    weight = np.exp(mixture)
    far = np.trapezoid(weight * (mixture - stats.norm.logpdf(grid)), grid)
    entropy = -np.trapezoid(weight * mixture, grid)
    return entropy - stats.norm(loc, scale).entropy().mean(), far


@pytest.mark.parametrize("seed", [1, 4])
def test_kl_of_gaussians_is_exact(seed):
    model, v = random_linear(seed, rows=40)
    encode = bad_encoder(model, seed)
    use = latent_use(model.model, gaussian_guide(encode), v, particles=2, mixture_draws=0)
    exact = gaussian_kl(*encode(v))
    np.testing.assert_allclose(use.rows["kl"], exact, rtol=1e-10)
    np.testing.assert_allclose(use.rows["site_kl"][:, 0], exact.sum(1), rtol=1e-10)
    np.testing.assert_allclose(use.latents["kl"], exact.mean(0), rtol=1e-10)
    np.testing.assert_allclose(use.latents["kl_stderr"], exact.std(0, ddof=1) / np.sqrt(40), rtol=1e-10)
    assert use.latents["exact"].all()
    assert use.latents["latent"].values.tolist() == [f"h[{i}]" for i in range(model.latent)]


def test_rate_and_distortion_make_the_elbo():
    model, v = random_linear(2, rows=60)
    encode = bad_encoder(model, 2)
    rows = latent_use(model.model, gaussian_guide(encode), v, particles=400, mixture_draws=0).rows
    np.testing.assert_allclose(rows["elbo"], -rows["rate"] - rows["distortion"], rtol=1e-12)
    exact = {"rate": gaussian_kl(*encode(v)).sum(1), "elbo": model.elbo(v, *encode(v)).detach().numpy()}
    exact["distortion"] = -exact["elbo"] - exact["rate"]
    for name, truth in exact.items():
        error, stderr = rows[name].values - truth, rows[f"{name}_stderr"].values
        assert_within(error.mean(), of_mean(stderr), what=name)
        assert_spread_is_one(error / stderr, degrees=399, what=name)


def test_active_variance_is_free_of_the_noise_of_draws():
    """Of a guide that knows its mean, and of one whose mean comes after a latent that is drawn."""
    model, v = random_linear(1, rows=300)
    encode = bad_encoder(model, 1)
    means = encode(v)[0].detach().numpy()
    use = latent_use(model.model, gaussian_guide(encode), v, particles=2, mixture_draws=0)
    np.testing.assert_allclose(use.latents["active_variance"], means.var(0, ddof=1), rtol=1e-10)
    small = as_two_sites(lambda v: (0.01 * encode(v)[0], encode(v)[1]), 2.0)
    use = latent_use(model_in_two_sites(model), small, v, particles=4, mixture_draws=0)
    exact = 1e-4 * (means + 2 * means[:, :1]).var(0, ddof=1)
    noise = 4 * encode(v)[1][:, 0].detach().numpy() ** 2 / 4  # of the mean of 4 draws, left in if it is not taken out
    # In the square of that mean, and in its variance as estimated from 4 draws; and with the small means themselves.
    stderr = of_mean(np.sqrt(2 * noise**2 * (1 + 1 / 3) + 4 * noise * 1e-4 * means.max() ** 2))
    assert_within((use.latents["active_variance"].values - exact)[1:], stderr)
    assert noise.mean() > 6 * stderr


def test_moments_of_all_rows_together():
    model, v = random_linear(1, rows=400)
    encode = bad_encoder(model, 1)
    loc, scale = (x.detach().numpy() for x in encode(v))
    latents = latent_use(model.model, gaussian_guide(encode), v, particles=200, mixture_draws=0).latents
    away = loc - loc.mean(0)
    stderr = np.sqrt((4 * away**2 * scale**2 + 2 * scale**4).mean(0) / (400 * 200))  # of squares of draws in their rows
    assert_within(latents["aggregated_variance"] - (loc.var(0) + (scale**2).mean(0)), stderr)
    assert_within(latents["prior_variance"] - 1, np.sqrt(2 / 10_000))


@pytest.mark.parametrize("chained", [False, True])
@pytest.mark.parametrize("draws", [20, 3000])
def test_surgery_against_quadrature(chained, draws):
    """With draws of a subset of the rows and of all of them; with the guide run once and run for every pair."""
    model, v, encode = one_latent()
    loc, scale = (x.detach().numpy()[:, 0] for x in encode(v))
    information, far = by_quadrature(loc, scale)
    program, guide = model.model, gaussian_guide(encode)
    if chained:  # a second latent that is the prior, and tells nothing, but makes the guide depend on what it draws

        def program(v):
            model.model(v)
            with pyro.plate("more", len(v)):
                pyro.sample("idle", dist.Normal(0.0, 1.0))

        def guide(v):
            gaussian_guide(encode)(v)
            with pyro.plate("more", len(v)):
                pyro.sample("idle", dist.Normal(0.0, 1.0))

    aggregate = latent_use(program, guide, v, particles=2, mixture_draws=draws, seed=1).aggregate
    for name, truth in (("mutual_information", information), ("marginal_kl", far)):
        assert_within(aggregate[name] - truth, aggregate[f"{name}_stderr"], degrees=draws - 1, what=name)
        if draws == 3000:
            assert float(aggregate[f"{name}_stderr"]) < 0.05 * max(truth, 1)
    assert float(aggregate["log_rows"]) == pytest.approx(np.log(30))


def test_surgery_adds_up_to_the_rate():
    model, v = random_linear(3, rows=80)
    use = latent_use(model.model, gaussian_guide(bad_encoder(model, 3)), v, particles=300, mixture_draws=8000)
    parts = use.aggregate["mutual_information"] + use.aggregate["marginal_kl"]
    # Both parts come from the same draws, the rate from others.
    of_parts = use.aggregate["mutual_information_stderr"] + use.aggregate["marginal_kl_stderr"]
    assert_within(parts - use.rows["rate"].mean(), np.hypot(of_parts, of_mean(use.rows["rate_stderr"])))
    left_out = use.aggregate["mutual_information_upper"] + use.aggregate["marginal_kl_lower"]
    assert float(left_out) == pytest.approx(float(parts), rel=1e-10)


def test_the_bounds_hold_what_more_rows_give():
    model, v = random_linear(1, rows=1000)  # enough for I_q over all of them to be that of the population
    guide = gaussian_guide(lambda v: model.best_factorised(v))
    many = latent_use(model.model, guide, v, particles=2, mixture_draws=2000).aggregate
    few = [latent_use(model.model, guide, rows, particles=2, mixture_draws=400).aggregate for rows in v.split(100)]

    def more(name, other):
        """What all rows have more of than a tenth of them, with its standard error over the tenths."""
        each = np.array([float(part[other]) for part in few])
        return float(many[name]) - each.mean(), each.std(ddof=1) / np.sqrt(len(each))

    for name, other in (("mutual_information", "upper"), ("marginal_kl", "lower")):
        (above, first), (below, second) = more(name, name), more(name, f"{name}_{other}")
        sign = 1 if other == "upper" else -1
        assert_within([sign * above, -sign * below], [first, second], high=np.inf, degrees=len(few) - 1, what=name)
        assert sign * (above - below) > 0.05  # the bounds lie apart
    assert all(float(part["mutual_information"]) < float(part["log_rows"]) for part in few)


def test_a_guide_that_ignores_the_rows_tells_nothing():
    model, v, _ = one_latent()

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(torch.ones(1), 0.5).to_event(1))

    aggregate = latent_use(model.model, guide, v, particles=2, mixture_draws=60).aggregate
    for name in ("mutual_information", "mutual_information_upper"):
        assert float(aggregate[name]) == pytest.approx(0.0, abs=1e-10)
        assert float(aggregate[f"{name}_stderr"]) == pytest.approx(0.0, abs=1e-10)


def test_rows_that_are_told_apart_for_certain_reach_the_cap():
    model, v, _ = one_latent()

    def guide(v):
        loc = 1000 * v[:, :1]
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(loc, 0.01).to_event(1))

    use = latent_use(model.model, guide, v, particles=2, mixture_draws=300)
    assert float(use.aggregate["mutual_information"]) == pytest.approx(np.log(30), rel=1e-6)
    assert any("too few" in sentence for sentence in use.warnings)


@pytest.mark.parametrize("program", [programs.nested_plates, programs.lognormal_latent])
def test_the_two_ways_to_densities_of_pairs_agree(program, monkeypatch):
    """From distributions that are kept and from runs of the guide; in one block and in many."""
    model, guide, rows = program()
    results = []
    for numbers, look in ((2**22, True), (2**22, False), (3000, True), (3000, False)):
        monkeypatch.setattr(surgery_module, "_NUMBERS_AT_ONCE", numbers)
        monkeypatch.setattr(surgery_module, "_ROWS_AT_ONCE", numbers)
        before = surgery_module._Pairs.__init__

        def force(self, guide, layout, whole, chunk_size, before=before, look=look):
            before(self, guide, layout, whole, chunk_size)
            if not look:
                self._layout = replace(layout, fixed=False)

        monkeypatch.setattr(surgery_module._Pairs, "__init__", force)
        results.append(latent_use(model, guide, rows, particles=2, mixture_draws=24, chunk_size=5 if look else 12))
        monkeypatch.setattr(surgery_module._Pairs, "__init__", before)
    for other in results[1:]:
        for name in ("mutual_information", "marginal_kl", "mutual_information_upper"):
            np.testing.assert_allclose(other.aggregate[name], results[0].aggregate[name], rtol=1e-9)


def test_a_latent_that_the_decoder_ignores_collapses():
    model, v = random_linear(1, rows=100)
    with torch.no_grad():
        model.factors[:, 1] = 0

    def guide_with(scale):
        def encode(v):
            loc, own = model.best_factorised(v)
            return loc.detach() + 0.0, own.detach() * torch.tensor([1.0, scale, 1.0])

        return gaussian_guide(encode)

    use = latent_use(model.model, guide_with(1.0), v, mixture_draws=0)  # the best factor of an unused latent: N(0, 1)
    assert use.collapsed == ["h[1]"]
    assert use.latents["active"].values.tolist() == [True, False, True]
    assert float(use.latents["kl"][1]) < 1e-12
    assert "h[1]: collapsed" in str(use)
    use = latent_use(model.model, guide_with(0.2), v, mixture_draws=0)
    assert use.collapsed == []
    assert use.latents["status"].values.tolist() == ["active", "constant", "active"]
    assert any(sentence.startswith("h[1]") and "less than 0.5" in sentence for sentence in use.warnings)


def test_the_threshold_is_in_units_of_the_prior():
    def model(v, size=100.0):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(1), size).to_event(1))
            pyro.sample("v", dist.Normal(h.expand(-1, 2) / size, 1.0).to_event(1), obs=v)

    def guide(v, size=100.0):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0.02 * size * v[:, :1], size).to_event(1))

    v = torch.randn(50, 2)
    use = latent_use(model, guide, v, mixture_draws=0)
    assert use.latents["active_variance"] > 1
    assert use.collapsed == ["h[0]"]
    assert latent_use(model, guide, v, mixture_draws=0, threshold=1e-4).collapsed == []


def test_an_aggregated_posterior_that_misses_half_of_the_prior_is_reported():
    model, v, _ = one_latent(rows=400)
    half = torch.distributions.HalfNormal(1.0)

    def guide(v):
        u = torch.special.ndtr(v[:, :1] / 3)  # uniform over these rows
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(half.icdf(u), 0.1).to_event(1))

    use = latent_use(model.model, guide, v)
    _, far = by_quadrature(half.icdf(torch.special.ndtr(v[:, 0] / 3)).numpy(), np.full(400, 0.1))
    assert_within(use.aggregate["marginal_kl"] - far, use.aggregate["marginal_kl_stderr"])
    assert abs(far - np.log(2)) < 0.1
    assert any("not spread as the prior" in sentence for sentence in use.warnings)


def test_families_without_elements_have_a_total():
    model, v = random_linear(1, rows=50)
    use = latent_use(model.model, model.exact_guide, v, particles=500, mixture_draws=0)
    assert use.rows["kl"].isnull().all()
    posterior = model.posterior(v)
    exact = torch.distributions.kl_divergence(
        posterior, torch.distributions.MultivariateNormal(torch.zeros(model.latent), torch.eye(model.latent))
    )
    error = use.rows["site_kl"][:, 0].values - exact.detach().numpy()
    assert_within(error.mean(), of_mean(use.rows["rate_stderr"]))
    assert_spread_is_one(error / use.rows["rate_stderr"].values, degrees=499)
    assert "site_kl" in str(use)


def test_total_of_a_site_with_a_closed_form():
    """Both programs with full covariances, three in a row: the closed form, with any number of draws."""

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.MultivariateNormal(torch.zeros(3, 2), torch.eye(2)).to_event(1))
            pyro.sample("v", dist.Normal(h, 1.0).to_event(2), obs=v)

    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.MultivariateNormal(0.5 * v, torch.diag(torch.tensor([0.25, 4.0]))).to_event(1))

    v = torch.randn(20, 3, 2)
    use = latent_use(model, guide, v, particles=2, mixture_draws=0)
    exact = gaussian_kl(0.5 * v, torch.tensor([0.5, 2.0]).expand(20, 3, 2)).sum((1, 2))
    np.testing.assert_allclose(use.rows["site_kl"][:, 0], exact, rtol=1e-10)


def test_kl_without_a_closed_form_is_estimated():
    model, guide, rows = programs.laplace_latent_with_a_noise_axis_of_its_own()
    use = latent_use(model, guide, rows, particles=4000, mixture_draws=0)
    assert not use.latents["exact"].any()
    np.testing.assert_allclose(use.rows["kl"].sum("latent"), use.rows["rate"], rtol=1e-9)  # the same draws


def test_what_is_masked_counts_for_nothing():
    def program(v, seen, guide):
        with pyro.plate("data", len(v)):
            loc = 0.5 * v if guide else torch.zeros(3)
            with poutine.mask(mask=torch.tensor(True)):
                h = pyro.sample("h", dist.Normal(loc, 0.5 if guide else 1.0).expand([len(v), 3]).mask(seen).to_event(1))
            if not guide:
                pyro.sample("v", dist.Normal(h, 1.0).mask(seen).to_event(1), obs=v)

    v, seen = torch.randn(30, 3), torch.rand(30, 3) < 0.6
    seen[:, 2] = False
    options = {"particles": 20, "mixture_draws": 100}
    use = latent_use(lambda *r: program(*r, False), lambda *r: program(*r, True), (v, seen), **options)
    assert use.latents["latent"].values.tolist() == ["h[0]", "h[1]"]
    exact = np.where(seen, gaussian_kl(0.5 * v, torch.full((30, 3), 0.5)), 0.0)
    np.testing.assert_allclose(use.rows["kl"], exact[:, :2], rtol=1e-10)
    means = (0.5 * v).numpy()
    exact = [means[seen[:, i].numpy(), i].var(ddof=1) for i in range(2)]
    np.testing.assert_allclose(use.latents["active_variance"], exact, rtol=1e-10)
    assert "masked in some rows" in use.aggregate["undefined"].item()


def test_parts_that_do_not_exist_are_left_out_with_a_reason():
    reasons = {
        programs.auxiliary_latent_with_a_delta: "auxiliary",
        programs.guide_with_noise_of_its_own_and_an_unused_latent: "noise outside",
        conditional_prior: "prior changes with the row",
    }
    for program, reason in reasons.items():
        model, guide, rows = program()
        use = latent_use(model, guide, rows, particles=4)
        assert reason in use.aggregate["undefined"].item()
        assert np.isnan(float(use.aggregate["mutual_information"]))
        assert np.isfinite(use.rows["rate"]).all()
        assert any(reason in sentence for sentence in use.warnings)


def test_global_latents_are_refused():
    def both(v, observed):
        shift = pyro.sample("shift", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            if observed:
                pyro.sample("v", dist.Normal(h + shift, 1.0).to_event(1), obs=v)

    for measure in (latent_use, calibrate, draw_rows, lambda *pair: joint_kl(*pair, lambda v: v[:, 0])):
        with pytest.raises(ProgramError, match="shift"):
            measure(lambda v: both(v, True), lambda v: both(v, False), torch.randn(10, 2))


def clusters(v):
    """Two clusters in h."""
    with pyro.plate("data", len(v)):
        c = pyro.sample("c", dist.Bernoulli(torch.tensor(0.5)))
        h = pyro.sample("h", dist.Normal(6 * c - 3, 1.0))
        pyro.sample("v", dist.Normal(h, 1.0), obs=v)


def exact_clusters(v):
    with pyro.plate("data", len(v)):
        c = pyro.sample("c", dist.Bernoulli(logits=3 * v))  # N(3, 2) against N(-3, 2)
        pyro.sample("h", dist.Normal((v + 6 * c - 3) / 2, 0.5**0.5))


def test_discrete_latents():
    v = draw_rows(clusters, exact_clusters, torch.zeros(500)).tensors[0]
    use = latent_use(clusters, exact_clusters, v, particles=20)
    spread = torch.distributions.MixtureSameFamily(
        torch.distributions.Categorical(torch.ones(2)), torch.distributions.Normal(torch.tensor([-3.0, 3.0]), 2**0.5)
    )
    np.testing.assert_allclose(use.rows["elbo"], spread.log_prob(v), rtol=1e-6)  # the exact posterior: log p(v)
    assert use.latents["exact"].all()
    # All rows of the model together are spread as the prior: below 0 in expectation.
    assert_within(use.aggregate["marginal_kl_lower"], use.aggregate["marginal_kl_lower_stderr"], low=-np.inf)
    assert float(calibrate(clusters, exact_clusters, v).latents["p_value"].min()) > LEVEL


def test_discrete_latents_that_the_guide_leaves_to_the_model():
    """As the same model with a mixture for its prior."""
    _, guide, v = clusters_left_to_the_model()

    def marginal(v):
        parts = dist.Normal(torch.tensor([-3.0, 3.0]), 1.0)
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.MixtureSameFamily(dist.Categorical(torch.ones(2)), parts))
            pyro.sample("v", dist.Normal(h, 1.0), obs=v)

    ours, same = (latent_use(model, guide, v, particles=10) for model in (clusters, marginal))
    for term in ("rate", "distortion", "elbo"):
        np.testing.assert_allclose(ours.rows[term], same.rows[term], rtol=1e-10)
    assert float(ours.aggregate["marginal_kl"]) == pytest.approx(float(same.aggregate["marginal_kl"]), rel=1e-10)
    assert ours.rows["kl"].isnull().all()
    assert ours.latents["latent"].values.tolist() == ["h"]
    # Two clusters at -3 and 3: a variance of 10, and fourth moments of 138.
    assert_within(ours.latents["prior_variance"] - 10, np.sqrt((138 - 10**2) / (10 * len(v))))
    assert calibrate(clusters, guide, v, particles=9).rows["latent"].values.tolist() == ["log_joint", "h"]


def conditional_prior():
    labels = (torch.arange(600) >= 300).long()  # sorted, as data often is

    def model(v, label):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(label.to(v).unsqueeze(1), 1.0).to_event(1))
            pyro.sample("v", dist.Normal(h, 1.0).to_event(1), obs=v)

    def guide(v, label):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(0.5 * v, 1.0).to_event(1))

    return model, guide, (torch.randn(600, 1), labels)


@pytest.mark.parametrize("program", programs.ALL, ids=lambda f: f.__name__)
def test_programs_of_outsiders(program):
    model, guide, rows = program()
    before = process_state()
    use = latent_use(model, guide, rows, particles=40, mixture_draws=24)
    assert process_state() == before
    assert np.isfinite(use.rows["elbo"]).all()
    if use.rows["site_kl"].notnull().all():
        difference = use.rows["site_kl"].sum("site") - use.rows["rate"]
        assert_within(difference.mean(), 1e-9 + of_mean(use.rows["rate_stderr"]), degrees=39)


def test_a_row_alone_and_in_pieces():
    model, guide, rows = programs.two_latents_in_a_chain()
    whole = latent_use(model, guide, rows, particles=6)
    pieces = latent_use(model, guide, rows, particles=6, chunk_size=5)
    two = latent_use(model, guide, rows[4:6], particles=6)
    for name in ("rate", "distortion", "kl"):
        np.testing.assert_allclose(pieces.rows[name], whole.rows[name], rtol=1e-9)
        np.testing.assert_allclose(two.rows[name], whole.rows[name][4:6], rtol=1e-9)
    np.testing.assert_allclose(pieces.aggregate["mutual_information"], whole.aggregate["mutual_information"], rtol=1e-9)


def test_joint_divergence_of_a_wrong_model():
    model, v = random_linear(1, rows=2000)
    wrong, _ = random_linear(1, rows=1)
    with torch.no_grad():
        wrong.mean += 0.3
    encode = lambda v: tuple(x.detach() for x in wrong.best_factorised(v))  # noqa: E731
    found = joint_kl(wrong.model, gaussian_guide(encode), v, lambda v: model.log_evidence(v).detach())
    ours, theirs = marginal(model), marginal(wrong)
    shift = ours.mean - theirs.mean
    exact = 0.5 * shift @ np.linalg.solve(theirs.cov, shift) + float(wrong.approximation_gap().detach())
    assert_within(found.mean - exact, found.stderr, degrees=len(v) - 1)
    assert found.stderr < 0.1 * exact
    assert "nats per row" in str(found)


def test_joint_divergence_of_the_true_model_is_zero():
    model, v = random_linear(2, rows=50)
    found = joint_kl(model.model, model.exact_guide, v, lambda v: model.log_evidence(v).detach(), particles=3)
    assert abs(found.mean) < 1e-10


def test_figures():
    model, v = random_linear(1, rows=30)
    use = latent_use(model.model, gaussian_guide(bad_encoder(model, 1)), v, particles=4, mixture_draws=0)
    bars = kl_per_dimension(use).patches
    np.testing.assert_allclose([bar.get_height() for bar in bars], np.sort(use.latents["kl"])[::-1])
    points = rate_distortion(use).collections
    np.testing.assert_allclose(points[0].get_offsets(), np.stack([use.rows["rate"], use.rows["distortion"]], 1))
    np.testing.assert_allclose(points[1].get_offsets()[0].sum(), -use.rows["elbo"].mean())
    for pair, total in (((model.model, model.exact_guide, v), "site_kl"), (clusters_left_to_the_model(), "rate")):
        use = latent_use(*pair, particles=4, mixture_draws=0)  # no single latent has a KL
        (bar,) = kl_per_dimension(use).patches
        assert bar.get_height() == pytest.approx(float(use.rows[total].mean()))


def clusters_left_to_the_model():
    def guide(v):
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(v, 1.0))

    return clusters, guide, torch.randn(50)


def test_arguments_are_checked():
    model, v = random_linear(1, rows=5)
    with pytest.raises(ValueError, match="particles"):
        latent_use(model.model, model.guide, v, particles=1)
    with pytest.raises(DataError, match="at least 2"):
        latent_use(model.model, model.guide, v[:1])
    with pytest.raises(ShapeError, match="log_true"):
        joint_kl(model.model, model.guide, v, lambda v: v)
