"""Models with latent structure: linear-Gaussian closed forms, sums over states, and imputation."""

from itertools import product
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceEnum_ELBO
from scipy import stats
from statistics_ import assert_frequency, assert_within, standard_errors
from workflow import check_command, check_pair

import pplvae
from pplvae.data import with_mask
from pplvae.errors import DataError, ProgramError, ShapeError, UnknownNameError
from pplvae.likelihoods import Bernoulli, Gaussian
from pplvae.models import VAE, ConditionalVAE, DiscreteVAE, HierarchicalVAE, IncompleteVAE, one_hot
from pplvae.models.incomplete import masked

DATA = Path(pplvae.__file__).parents[2] / "shared" / "data"
SCALE = 0.3  # of `Gaussian()`, at a free scale of 0: the geometric mean of its bounds


class Joint:
    """A Gaussian vector that grows by linear-Gaussian parts, and its regressions."""

    def __init__(self, size):
        self.mean, self.cov = torch.zeros(size), torch.eye(size)

    def append(self, head, of, scale):
        """Append head(x[of]) + scale * noise; the positions of the new entries."""
        weight = torch.zeros(head.out_features, len(self.mean))
        weight[:, of] = head.weight.detach()
        noise = torch.eye(head.out_features) * scale**2
        cross = weight @ self.cov
        self.mean = torch.cat([self.mean, weight @ self.mean + head.bias.detach()])
        self.cov = torch.cat([torch.cat([self.cov, cross.T], 1), torch.cat([cross, cross @ weight.T + noise], 1)])
        return list(range(len(self.mean) - head.out_features, len(self.mean)))

    def regress(self, target, given):
        """Weight, bias and covariance of x[target] given x[given]."""
        cross = self.cov[target][:, given]
        weight = torch.linalg.solve(self.cov[given][:, given], cross.T).T
        return weight, self.mean[target] - weight @ self.mean[given], self.cov[target][:, target] - weight @ cross.T

    def log_prob(self, target, values, given=(), known=None):
        """Log density of some entries given others, by SciPy."""
        given = list(given)
        weight, bias, cov = self.regress(target, given)
        means = bias if known is None else bias + known @ weight.T
        return stats.multivariate_normal(np.zeros(len(target)), cov).logpdf(values - means)


def constant(head):
    torch.nn.init.zeros_(head.weight)
    torch.nn.init.zeros_(head.bias)


def constant_scales(*networks):
    """Make linear networks' second heads constant, so that everything is linear-Gaussian."""
    for network in networks:
        constant(network.heads[1])


@torch.no_grad()
def set_gaussian(family, weight, bias, cov, columns=slice(None)):
    """Make a linear guide a regression on some of its columns."""
    mean, log_scale = family.encoder.heads
    mean.weight.zero_()[:, columns] = weight
    mean.bias.copy_(bias)
    log_scale.weight.zero_()
    log_scale.bias.copy_(0.5 * cov.diagonal().log())


def binary(rows, columns):
    return (torch.rand(rows, columns) < 0.5).double()


PAIRS = {
    "hierarchical": (lambda: HierarchicalVAE(6, [3, 2, 1], [8]), lambda: binary(24, 6), {}),
    "hierarchical, bottom-up": (
        lambda: HierarchicalVAE(6, 2, [8], likelihood="gaussian", top_down=False),
        lambda: torch.randn(24, 6),
        {"objective": "Trace_ELBO"},
    ),
    "hierarchical, counts": (
        lambda: HierarchicalVAE(6, 2, [8], likelihood="negative-binomial"),
        lambda: torch.poisson(torch.full((24, 6), 3.0)),
        {},
    ),
    "conditional": (
        lambda: ConditionalVAE(6, 3, 2, [8], likelihood=Bernoulli()),
        lambda: (binary(24, 6), one_hot(torch.arange(24) % 3)),
        {},
    ),
    "conditional prior": (
        lambda: ConditionalVAE(6, 3, 2, [8], likelihood="gaussian", conditional_prior=True),
        lambda: (torch.randn(24, 6), one_hot(torch.arange(24) % 3)),
        {},
    ),
    "discrete, summed": (lambda: DiscreteVAE(6, 2, 3, [8]), lambda: binary(24, 6), {"objective": "TraceEnum_ELBO"}),
    "discrete, drawn": (lambda: DiscreteVAE(6, 4, 5, [8]), lambda: binary(24, 6), {"objective": "ScoreFunction"}),
    "incomplete": (
        lambda: IncompleteVAE(6, 2, [8]),
        lambda: with_mask(torch.randn(24, 6).masked_fill(torch.rand(24, 6) < 0.3, torch.nan)),
        {},
    ),
    "incomplete, beta": (
        lambda: IncompleteVAE(6, 2, [8], likelihood="beta"),
        lambda: with_mask(torch.rand(24, 6).masked_fill(torch.rand(24, 6) < 0.3, torch.nan)),
        {},
    ),
}


@pytest.mark.parametrize("name", PAIRS)
def test_workflow(name, tmp_path):
    make, rows, options = PAIRS[name]
    rows = rows()
    program, _ = check_pair(make, rows, tmp_path / "run", **options)
    evidence = pplvae.log_evidence(program.model, program.guide, rows, particles=10, max_steps=3)
    assert np.isfinite(evidence.rows["log_evidence"]).all()
    first = rows[0] if isinstance(rows, tuple) else rows
    counted = name.endswith("counts")
    asked = rows[1] if name.startswith("conditional") else 24
    drawn = program.generate(asked, *([first.sum(1, keepdim=True)] if counted else []))
    assert drawn.shape == first.shape
    assert drawn.dtype == first.dtype


@pytest.mark.parametrize("name", ["hierarchical-vae", "discrete-vae", "incomplete-vae"])
def test_on_the_command_line(name, tmp_path):
    np.save(tmp_path / "rows.npy", binary(30, 5).numpy())
    options = {"objective": "ScoreFunction"} if name == "discrete-vae" else {}
    check_command(tmp_path / "rows.npy", tmp_path, model=name, likelihood="bernoulli", **options)


@pytest.mark.parametrize("name", PAIRS)
def test_single_precision(name, single_precision):
    make, rows, _ = PAIRS[name]
    rows = tuple(part.float() for part in (rows() if isinstance(rows(), tuple) else (rows(),)))
    program = make()
    weights = pplvae.log_weights(program.model, program.guide, rows, particles=2)
    assert weights.dtype == torch.float32
    assert weights.isfinite().all()


# Layers


def linear_hierarchy(top_down):
    """Three scalar layers, everything linear; the guide is the posterior. With its joint: [h_3, h_2, h_1, v]."""
    vae = HierarchicalVAE(4, [1, 1, 1], [], likelihood="gaussian", top_down=top_down)
    constant_scales(vae.decoder.network, *(each.encoder for each in vae.conditionals))
    joint = Joint(1)
    joint.append(vae.conditionals[1].encoder.heads[0], [0], 1.0)
    joint.append(vae.conditionals[0].encoder.heads[0], [1], 1.0)
    v = joint.append(vae.decoder.network.heads[0], [2], SCALE)
    if top_down:
        regressions = ((0, v), (1, [0, *v]), (2, [1, *v]))
    else:
        regressions = ((2, v), (1, [2]), (0, [1]))
    for position, given in regressions:
        set_gaussian(vae.encoders[2 - position], *joint.regress([position], given))
    return vae, joint, v


@pytest.mark.parametrize("top_down", [False, True])
def test_layers_exactly(top_down):
    """With the posterior as guide every log weight is log p(v), whatever is drawn."""
    vae, joint, columns = linear_hierarchy(top_down)
    v = torch.randn(7, 4)
    weights = pplvae.log_weights(vae.model, vae.guide, v, particles=3)
    np.testing.assert_allclose(weights, np.tile(joint.log_prob(columns, v), (3, 1)), atol=1e-9)


@pytest.mark.statistical
def test_layers_are_generated_from_the_top():
    vae, joint, columns = linear_hierarchy(top_down=False)
    drawn = vae.generate(20_000).detach()
    assert_within(drawn.mean(0) - joint.mean[columns], drawn.std(0) / 20_000**0.5)
    products = torch.einsum("ni,nj->nij", *[drawn - joint.mean[columns]] * 2)
    assert_within(products.mean(0) - joint.cov[columns][:, columns], products.std(0) / 20_000**0.5)


def test_layers_from_one_number():
    assert HierarchicalVAE(6, 8).latents == [8, 4]
    assert HierarchicalVAE(6, 1).latents == [1, 1]
    for latent in ([3], [3, 0]):
        with pytest.raises(ValueError, match="two layers"):
            HierarchicalVAE(6, latent)
    with pytest.raises(UnknownNameError, match="gaussian"):
        HierarchicalVAE(6, 2, likelihood="gausian")


# Context


@pytest.mark.parametrize("conditional_prior", [False, True])
def test_context_exactly(conditional_prior):
    vae = ConditionalVAE(4, 2, 1, [], likelihood="gaussian", conditional_prior=conditional_prior)
    constant_scales(vae.decoder.network)
    joint = Joint(2)  # of c, which is given: its own distribution plays no role
    head = torch.nn.Linear(2, 1)
    if conditional_prior:
        constant_scales(vae.conditional_prior.encoder)
        head = vae.conditional_prior.encoder.heads[0]
    else:
        constant(head)
    (h,) = joint.append(head, [0, 1], 1.0)
    columns = joint.append(vae.decoder.network.heads[0], [h, 0, 1], SCALE)
    set_gaussian(vae.family, *joint.regress([h], [*columns, 0, 1]))
    v, c = torch.randn(7, 4), torch.randn(7, 2)
    weights = pplvae.log_weights(vae.model, vae.guide, (v, c), particles=3)
    exact = joint.log_prob(columns, v, [0, 1], c)
    np.testing.assert_allclose(weights, np.tile(exact, (3, 1)), atol=1e-9)

    drawn = vae.generate(c[:1].expand(10_000, -1)).detach()
    weight, bias, cov = joint.regress(columns, [0, 1])
    assert_within(drawn.mean(0) - (weight @ c[0] + bias), (cov.diagonal() / 10_000).sqrt())


def test_labels_as_context():
    assert one_hot(["b", "a", "b"]).tolist() == [[0, 1], [1, 0], [0, 1]]
    assert one_hot(torch.tensor([2, 0]), classes=[0, 1, 2]).tolist() == [[0, 0, 1], [1, 0, 0]]
    with pytest.raises(DataError, match=r"\['c'\].*\['a', 'b'\]"):
        one_hot(["a", "c"], classes=["a", "b"])
    with pytest.raises(ShapeError, match=r"\(2, 1\)"):
        one_hot([["a"], ["b"]])


def test_context_of_integers_and_of_the_wrong_shape():
    vae, v = ConditionalVAE(6, 3, 2, [8], conditional_prior=True), binary(5, 6)
    c = torch.nn.functional.one_hot(torch.arange(5) % 3)
    assert pplvae.log_weights(vae.model, vae.guide, (v, c)).isfinite().all()
    for kind in (c, c.double()):
        torch.manual_seed(1)
        drawn = vae.generate(kind)
        torch.manual_seed(1)
        assert torch.equal(drawn, vae.generate(c))
    with pytest.raises(ShapeError, match=r"\(row, 3\).*\(5, 2\)"):
        vae.model(v, c[:, :2])
    with pytest.raises(ShapeError, match=r"one_hot"):
        vae.generate(torch.arange(5))


# Categories


def all_states(vae, v):
    """Log joint of every state, log prior and log q: sums by hand; each (state, row)."""
    states = torch.tensor([*product(range(vae.classes), repeat=vae.latent)])
    prior = vae.prior.logits.log_softmax(-1)
    (logits,) = vae.encoder(v)
    q = logits.reshape(len(v), vae.latent, vae.classes).log_softmax(-1)
    pick = torch.arange(vae.latent)
    log_prior = torch.stack([prior[pick, state].sum() for state in states])
    log_q = torch.stack([q[:, pick, state].sum(1) for state in states])
    h = torch.nn.functional.one_hot(states, vae.classes).double().flatten(1)
    log_likelihood = torch.stack([
        vae.decoder.likelihood(*vae.decoder.network(one.expand(len(v), -1))).log_prob(v) for one in h
    ])  # fmt: skip
    return log_prior.unsqueeze(1) + log_likelihood, log_q, log_prior, h


def small_discrete(likelihood):
    vae = DiscreteVAE(4, 2, 3, [8], likelihood=likelihood)
    torch.nn.init.normal_(vae.prior.logits)
    return vae, binary(6, 4)


@pytest.mark.parametrize("likelihood", ["bernoulli", Gaussian()])
def test_categories_summed_exactly(likelihood):
    vae, v = small_discrete(likelihood)
    joint, log_q, *_ = all_states(vae, v)
    elbo = (log_q.exp() * (joint - log_q)).sum(0)
    rows = pplvae.compare(vae.model, vae.guide, v, max_steps=0, simulated=0).rows
    np.testing.assert_allclose(rows["elbo_amortised"], elbo.detach(), atol=1e-9)
    np.testing.assert_allclose(rows["log_evidence"], joint.logsumexp(0).detach(), atol=1e-9)

    parameters = list(vae.parameters())
    exact = torch.autograd.grad(elbo.sum(), parameters)
    loss = TraceEnum_ELBO(max_plate_nesting=1).differentiable_loss(vae.model, vae.guide, v)
    torch.testing.assert_close(-loss, elbo.sum())
    for ours, right in zip(torch.autograd.grad(-loss, parameters), exact, strict=True):
        torch.testing.assert_close(ours, right)


def test_no_guide_of_categories_beats_the_evidence():
    """The guide's categories do not depend on each other, and a row's own guide must not make them."""
    vae, v = DiscreteVAE(6, 2, 3, [16]), binary(10, 6)
    rows = pplvae.compare(vae.model, vae.guide, v, max_steps=50, simulated=0).rows
    assert (rows["elbo_local"] <= rows["log_evidence"] + 1e-9).all()
    assert (rows["elbo_amortised"] <= rows["elbo_local"] + 1e-9).all()


@pytest.mark.statistical
def test_categories_are_generated():
    vae, v = small_discrete("bernoulli")
    torch.nn.init.normal_(vae.decoder.network.heads[0].weight, std=3.0)  # so that the states differ
    *_, log_prior, h = all_states(vae, v)
    mean = (log_prior.exp().unsqueeze(1) * vae.decoder(h).mean).sum(0).detach()
    assert_frequency(vae.generate(20_000).sum(0), 20_000, mean)


def test_categories_refused():
    for latent, classes in ((0, 3), (2, 1)):
        with pytest.raises(ValueError, match="two classes"):
            DiscreteVAE(6, latent, classes)
    vae = DiscreteVAE(6, 4, 5, [8])
    with pytest.raises(ProgramError, match="not reparameterised"):
        pplvae.fit(vae.model, vae.guide, binary(8, 6), epochs=1)


# Missing entries


def linear_incomplete():
    """One latent, four columns, everything linear-Gaussian; its joint is [h, v]."""
    vae = IncompleteVAE(4, 1, [])
    constant_scales(vae.decoder.network)
    with torch.no_grad():
        vae.decoder.network.heads[0].weight.copy_(torch.tensor([[0.5], [-0.4], [0.3], [0.2]]))
    joint = Joint(1)
    joint.append(vae.decoder.network.heads[0], [0], SCALE)
    return vae, joint


def one_pattern(pattern, rows):
    """A model, its joint, rows of one pattern of missing entries, and the positions of the observed ones in v."""
    vae, joint = linear_incomplete()
    there = [k for k, seen in enumerate(pattern) if seen]
    v = vae.generate(rows).detach()
    observed = torch.tensor(pattern).double().expand(rows, -1)
    set_gaussian(vae.family, *joint.regress([0], [1 + k for k in there]), there)
    return vae, joint, v, observed, there


@pytest.mark.parametrize("pattern", [(1, 1, 1, 1), (0, 1, 0, 1), (1, 0, 0, 0)])
def test_evidence_of_observed_entries_exactly(pattern):
    vae, joint, v, observed, there = one_pattern(pattern, 7)
    weights = pplvae.log_weights(vae.model, vae.guide, (v * observed, observed), particles=3)
    exact = joint.log_prob([1 + k for k in there], v[:, there])
    np.testing.assert_allclose(weights, np.tile(exact, (3, 1)), atol=1e-9)


def test_nothing_observed_is_nothing_learnt():
    vae, _ = linear_incomplete()
    with torch.no_grad():
        for part in vae.family.parameters():
            part.zero_()  # q = p(h)
    observed = torch.zeros(5, 4)
    weights = pplvae.log_weights(vae.model, vae.guide, (torch.randn(5, 4), observed), particles=3)
    torch.testing.assert_close(weights, torch.zeros(3, 5))


def test_everything_observed_is_the_plain_vae():
    vae, v = IncompleteVAE(4, 2, [8]), torch.randn(6, 4)

    def family(v):
        return vae.family(torch.cat([v, torch.ones_like(v)], 1))

    plain = VAE(4, vae.prior, vae.decoder.network, vae.decoder.likelihood, family)
    expected = pplvae.log_weights(plain.model, plain.guide, v, particles=3)
    assert torch.equal(pplvae.log_weights(vae.model, vae.guide, v, particles=3), expected)
    observed = torch.ones_like(v)
    found = vae.family(torch.cat([v, observed], 1)).log_prob(torch.zeros(6, 2))
    torch.testing.assert_close(found, family(v).log_prob(torch.zeros(6, 2)))
    h = torch.randn(6, 2)
    torch.testing.assert_close(masked(vae.decoder(h), observed.bool()).log_prob(v), vae.decoder(h).log_prob(v))


class LogNormal(torch.nn.Module):
    """Positive columns: 0, which stands for what is missing, is no possible value."""

    takes_total = False

    def heads(self, visible):
        return [visible]

    def features(self, v):
        return v.log1p()

    def forward(self, mean):
        return dist.LogNormal(mean, 1.0).to_event(1)


@pytest.mark.parametrize("likelihood", ["gaussian", "beta", "categorical", "bernoulli", LogNormal()], ids=str)
def test_missing_values_have_no_effect(likelihood):
    vae = IncompleteVAE(4, 2, [8], likelihood=likelihood)
    v = binary(9, 4) if likelihood in ("bernoulli", "categorical") else torch.rand(9, 4)
    observed = binary(9, 4)
    found = []
    for filler in (0.0, 1e6, torch.nan):
        filled = torch.where(observed.bool(), v, filler)
        torch.manual_seed(0)
        loss = pplvae.objectives.named_objective("Trace_ELBO").differentiable_loss(
            vae.model, vae.guide, filled, observed
        )
        slopes = torch.autograd.grad(loss, list(vae.parameters()))
        imputed = vae.impute(filled, observed, imputations=3, particles=5)
        assert torch.equal(imputed[:, observed.bool()], v[observed.bool()].expand(3, -1))
        found.append([loss, imputed, *slopes])
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))
        assert all(part.isfinite().all() for part in other)


@pytest.mark.statistical
def test_imputations_follow_the_conditional():
    vae, joint, v, observed, there = one_pattern((0, 1, 0, 1), 5)
    missing = [0, 2]
    weight, bias, cov = joint.regress([1 + k for k in missing], [1 + k for k in there])
    mean = v[:, there] @ weight.T + bias
    drawn = vae.impute(v, observed, imputations=10_000)[..., missing]
    assert_within(drawn.mean(0) - mean, (cov.diagonal() / 10_000).sqrt())
    products = torch.einsum("nri,nrj->nrij", drawn - mean, drawn - mean)
    assert_within(products.mean(0) - cov, products.std(0) / 100)
    of_h = cov - SCALE**2 * torch.eye(len(missing))  # the noise of v is not drawn
    assert_within(vae.imputed_mean(v, observed, 10_000)[:, missing] - mean, (of_h.diagonal() / 10_000).sqrt())


@pytest.mark.statistical
def test_importance_weights_correct_a_bad_guide():
    vae, joint, v, observed, there = one_pattern((0, 1, 0, 1), 5)
    missing = [0, 2]
    weight, bias, cov = joint.regress([1 + k for k in missing], [1 + k for k in there])
    mean = v[:, there] @ weight.T + bias
    with torch.no_grad():
        for part in vae.family.parameters():
            part.zero_()  # the prior: too wide, and centred elsewhere
    plain = vae.imputed_mean(v, observed, 40_000)
    assert (plain[:, missing] - mean).abs().max() > 0.1
    many = torch.stack([vae.imputed_mean(v, observed, 4000, weighted=True)[:, missing] for _ in range(50)])
    assert_within(many.mean(0) - mean, many.std(0) / 50**0.5, degrees=49)
    # Draws that share 4000 particles have their error in common.
    drawn = torch.stack([vae.impute(v, observed, imputations=1000, particles=4000)[..., missing] for _ in range(50)])
    assert_within(drawn.mean((0, 1)) - mean, drawn.mean(1).std(0) / 50**0.5, degrees=49)
    squares = (drawn - mean).square().mean(1)
    assert_within(squares.mean(0) - cov.diagonal(), squares.std(0) / 50**0.5, degrees=49)


def test_what_missing_entries_refuse():
    for likelihood in ("multinomial", "negative-binomial"):
        with pytest.raises(ProgramError, match="total"):
            IncompleteVAE(4, 2, likelihood=likelihood)
    with pytest.raises(ProgramError, match=r"independent given h.*Dirichlet"):
        masked(dist.Dirichlet(torch.ones(2, 3)), torch.ones(2, 3, dtype=torch.bool))
    vae = IncompleteVAE(4, 2)
    with pytest.raises(ShapeError, match=r"\(5, 4\).*\(5, 3\)"):
        vae.model(torch.zeros(5, 4), torch.ones(5, 3))
    vae = IncompleteVAE(4, 2, likelihood="categorical")
    with pytest.raises(ProgramError, match=r"no finite mean.*impute"):
        vae.imputed_mean(torch.zeros(5, 4), torch.ones(5, 4))


def hide(v, share):
    """Hide some of the entries that are there: rows, what is still observed, what was hidden, the truth."""
    values, there = with_mask(v)
    hidden = (torch.rand_like(values) < share) & there.bool()
    return values * ~hidden, there * ~hidden, hidden, values


def standardised(v, observed):
    """Columns with mean 0 and standard deviation 1 among what is observed."""
    mean = (v * observed).sum(0) / observed.sum(0)
    scale = ((v - mean).square() * observed).sum(0).div(observed.sum(0)).sqrt()
    return mean, scale


def better_by(worse, better, hidden):
    """Squared error per hidden entry that one imputation saves on another, in standard errors over rows."""
    saved = ((worse - better) * hidden).sum(1).numpy()
    return saved.mean() / (saved.std(ddof=1) / len(saved) ** 0.5)


@pytest.mark.statistical
def test_imputation_approaches_the_exact_conditional_mean():
    weight, noise = torch.randn(8, 2), 0.5
    v = torch.randn(3000, 2) @ weight.T + noise * torch.randn(3000, 8)
    rows, observed, hidden, truth = hide(v, 0.3)
    train, test = slice(0, 1000), slice(1000, None)
    vae = IncompleteVAE(8, 2, [32], likelihood="gaussian-shared")
    pplvae.fit(vae.model, vae.guide, (rows[train], observed[train]), epochs=40, batch_size=100, lr=0.01)
    covariance = weight @ weight.T + noise**2 * torch.eye(8)
    exact = rows[test].clone()
    for row, seen in zip(exact, observed[test].bool(), strict=True):
        row[~seen] = covariance[~seen][:, seen] @ torch.linalg.solve(covariance[seen][:, seen], row[seen])
    imputed = {
        "exact": exact,
        "weighted": vae.imputed_mean(rows[test], observed[test], 500, weighted=True),
        "guide": vae.imputed_mean(rows[test], observed[test], 500),
        "column means": standardised(rows[train], observed[train])[0].expand_as(exact),
    }
    error = {name: (some - truth[test]).square() for name, some in imputed.items()}
    assert better_by(error["column means"], error["guide"], hidden[test]) > standard_errors(1999)
    assert better_by(error["guide"], error["weighted"], hidden[test]) > standard_errors(1999)
    rmse = {name: float(some[hidden[test]].mean().sqrt()) for name, some in error.items()}
    assert rmse["guide"] < 0.6 * rmse["column means"]
    assert rmse["weighted"] < 1.08 * rmse["exact"]


@pytest.mark.statistical
@pytest.mark.parametrize(("name", "rows", "latent"), [("air_quality_uci", 1000, 4), ("penguins", 344, 2)])
def test_imputation_of_real_rows(name, rows, latent):
    path = DATA / name / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"{path} is not there")
    x = torch.as_tensor(np.load(path)["x"]).double()
    x = x[torch.randperm(len(x))[:rows]]
    v, observed, hidden, truth = hide(x, 0.2)
    mean, scale = standardised(v, observed)
    v, truth = (v - mean) / scale, (truth - mean) / scale
    vae = IncompleteVAE(v.shape[1], latent, [64])
    pplvae.fit(vae.model, vae.guide, (v * observed, observed), epochs=40, batch_size=100, lr=0.01)
    ours, naive = (vae.imputed_mean(v, observed) - truth).square(), truth.square()  # column means are 0 here
    assert better_by(naive, ours, hidden) > standard_errors(len(v) - 1)


def test_classes_that_occur_twice_are_refused():
    with pytest.raises(DataError, match="twice"):
        one_hot(["a"], classes=["a", "a", "b"])
