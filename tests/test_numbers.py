"""Numbers that go wrong elsewhere: layouts, dtypes, scales, odd rows, poisoned rows. Right, or a sentence."""

import os

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from oracles import bad_encoder, random_linear
from torch import nn

import pplvae
from pplvae.errors import PplvaeError
from pplvae.likelihoods import LIKELIHOODS
from pplvae.models import composed_vae

ROWS, COLUMNS = 5, 4
UNITS, NOISE = (1e-12, 1e-6, 1.0, 1e6, 1e12), (1e-4, 1e-2, 1.0, 1e3, 1e6)
COUNTS = ("poisson", "negative-binomial", "zero-inflated-negative-binomial", "multinomial")
SEARCH = {"max_steps": 30, "particles": 100}


def examples(number):
    """So many, or with `PPLVAE_FUZZ` of more than 60 so many times more."""
    more = int(os.environ.get("PPLVAE_FUZZ", "60")) // 60
    return settings(
        max_examples=number * max(more, 1),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )


def rows_of(likelihood, seed=0, columns=COLUMNS):
    """Rows that a likelihood can produce; those of counts and bits are exact in every dtype."""
    generator = torch.Generator().manual_seed(seed)
    uniform = torch.rand(ROWS, columns, generator=generator)
    if likelihood in ("bernoulli", "categorical"):
        return (uniform < 0.5).to(uniform)
    if likelihood in COUNTS:
        return torch.poisson(4 * uniform, generator=generator)
    return 0.1 + 0.8 * uniform if likelihood in ("beta", "continuous-bernoulli") else 4 * uniform - 2


def vae_of(likelihood, columns=COLUMNS):
    torch.manual_seed(0)
    return composed_vae(columns, 2, (8,), likelihood=likelihood)


def numbers_of(vae, rows):
    """Every column of a gap, and the weights of a short fit: all that the rows decide."""
    found = pplvae.amortisation_gap(vae.model, vae.guide, rows, **SEARCH).rows
    pplvae.fit(vae.model, vae.guide, rows, epochs=1)
    weights = {name: parameter.detach().numpy() for name, parameter in vae.named_parameters()}
    return weights | {name: column.values for name, column in found.data_vars.items()}


LAYOUTS = {
    "by columns": lambda v: v.T.contiguous().T,
    "every other column": lambda v: torch.stack([v, v], -1)[..., 0],
    "a window": lambda v: nn.functional.pad(v, (1, 2, 1, 1))[1:-1, 1:-2],
    "with a gradient": lambda v: v.clone().requires_grad_(),
    "a result": lambda v: 1 * v.clone().requires_grad_(),
    "a parameter": lambda v: nn.Parameter(v.clone()),
    "NumPy, by columns": lambda v: np.asfortranarray(v.numpy()),
    "NumPy, backwards": lambda v: v.numpy()[::-1].copy()[::-1],
    "NumPy, the other byte order": lambda v: v.numpy().astype(">f8"),
}


@examples(2)
@example("by columns", "gaussian", 0)
@given(st.sampled_from([*LAYOUTS]), st.sampled_from([*LIKELIHOODS]), st.integers(0, 9))
def test_how_rows_lie_in_memory_changes_no_bit(single_precision, layout, likelihood, seed):
    v = rows_of(likelihood, seed)
    plain, other = (numbers_of(vae_of(likelihood), rows) for rows in (v, LAYOUTS[layout](v)))
    for name, values in plain.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@examples(5)
@given(
    st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.int32, torch.uint8, torch.bool]),
    st.sampled_from([*LIKELIHOODS]),
)
def test_other_dtypes_give_the_same_numbers_or_a_sentence(dtype, likelihood):
    vae, v = vae_of(likelihood), rows_of(likelihood)
    v = v if dtype.is_floating_point else v.clamp(0, 1) if dtype is torch.bool else v.clamp(min=0)
    rows = v.round().to(dtype) if not dtype.is_floating_point else v.to(dtype)
    try:
        found = pplvae.log_evidence(vae.model, vae.guide, rows, **SEARCH).rows
    except PplvaeError:
        return
    expected = pplvae.log_evidence(vae.model, vae.guide, rows.to(torch.float64), **SEARCH).rows
    stderr = np.hypot(found["log_evidence_stderr"], expected["log_evidence_stderr"])
    assert (abs(found["log_evidence"] - expected["log_evidence"]) <= 6 * stderr + 1e-6).all()


def test_counts_may_be_integers():
    vae, v = vae_of("poisson"), rows_of("poisson")
    whole, floats = (pplvae.log_evidence(vae.model, vae.guide, rows, **SEARCH).rows for rows in (v.long(), v))
    stderr = np.hypot(whole["log_evidence_stderr"], floats["log_evidence_stderr"])
    assert (abs(whole["log_evidence"] - floats["log_evidence"]) <= 6 * stderr).all()


def exact(model, v, loc, scale):
    """Log p(v) and the gap of N(loc, scale²), without small differences of large terms."""
    factors, noise, mean = (p.detach() for p in (model.factors, model.noise, model.mean))
    precision = torch.eye(model.latent) + factors.T @ (factors / noise[:, None])
    away, pull = v - mean, ((v - mean) / noise) @ factors
    centre = torch.linalg.solve(precision, pull.T).T
    inside = torch.log(2 * torch.pi * noise).sum() + torch.logdet(precision)
    evidence = -0.5 * (inside + (away**2 / noise).sum(-1) - (pull * centre).sum(-1))
    error, diagonal = loc - centre, precision.diagonal()
    squares = diagonal * scale**2
    gap = 0.5 * ((squares - 1 - squares.log()).sum(-1) + ((error @ precision) * error).sum(-1))
    return evidence.numpy(), gap.numpy()


@examples(4)
@given(st.integers(0, 20), st.sampled_from(UNITS), st.sampled_from(NOISE))
def test_units_and_noise_of_any_size_against_closed_forms(seed, unit, noise):
    """In other units every gap is the same; with little noise gaps are huge; with much the posterior is the prior."""
    model, v = random_linear(seed, rows=ROWS)
    encode = bad_encoder(model, seed)
    with torch.no_grad():
        model.mean.mul_(unit)
        model.factors.mul_(unit)
        model.log_noise.add_(2 * np.log(unit * noise))

    def guide(rows):
        loc, scale = encode(rows / unit)
        with pyro.plate("data", len(rows)):
            pyro.sample("h", dist.Normal(loc, scale).to_event(1))

    v = v * unit
    evidence, gap = exact(model, v, *encode(v / unit))
    found = pplvae.amortisation_gap(model.model, guide, v).rows
    np.testing.assert_allclose(found["amortisation_gap"], gap, rtol=1e-9, atol=1e-9)
    assert set(found["status"].values) == {"converged"}
    found = pplvae.log_evidence(model.model, guide, v).rows
    assert (abs(found["log_evidence"] - evidence) <= 6 * found["log_evidence_stderr"] + 1e-12 * abs(evidence)).all()


ODD = {
    "all zero": torch.zeros_like,
    "all one": torch.ones_like,
    "a row of zeros": lambda v: torch.cat([torch.zeros_like(v[:1]), v[1:]]),
    "a constant column": lambda v: torch.cat([v[:1, :1].expand(ROWS, 1), v[:, 1:]], 1),
    "one row again and again": lambda v: v[:1].expand(ROWS, -1),
    "one row": lambda v: v[:1],
    "one column": lambda v: v[:, :1],
    "a million times as large": lambda v: 1e6 * v,
    "a millionth as large": lambda v: 1e-6 * v,
    "beyond the square root of the largest": lambda v: v * 1e200,
}


@examples(5)
@given(st.sampled_from([*ODD]), st.sampled_from([*LIKELIHOODS]))
def test_odd_rows_give_numbers_or_a_sentence(odd, likelihood):
    v = ODD[odd](rows_of(likelihood))
    vae = vae_of(likelihood, v.shape[1])
    try:
        gap = pplvae.amortisation_gap(vae.model, vae.guide, v, **SEARCH).rows
        evidence = pplvae.log_evidence(vae.model, vae.guide, v, **SEARCH).rows
    except PplvaeError:
        return
    lost = gap["status"].values == "nonfinite"
    assert np.isfinite(gap["elbo_local"].values[~lost]).all()
    assert not lost.any() or odd == "beyond the square root of the largest"
    kept = np.isfinite(evidence["log_evidence"].values)
    assert kept.tolist() == (~lost).tolist()
    stderr = np.hypot(gap["elbo_amortised_stderr"], evidence["log_evidence_stderr"])
    above = gap["elbo_amortised"] - evidence["log_evidence"]
    assert (above.values <= 6 * stderr.values + 0.05)[kept].all()
    if odd == "one row again and again":
        for name, column in gap.data_vars.items():
            same = column.values[:1].repeat(ROWS)
            if column.dtype.kind == "f":
                np.testing.assert_allclose(column, same, rtol=1e-7, atol=1e-9, err_msg=name)
            else:
                assert (column.values == same).all()


@pytest.mark.parametrize("likelihood", COUNTS[:3])
def test_a_row_without_counts_has_an_evidence_of_0(likelihood):
    """Its total is given: it is a row of zeros with probability 1, and its posterior is the prior."""
    vae, v = vae_of(likelihood), rows_of(likelihood)
    v[0] = 0
    row = pplvae.compare(vae.model, vae.guide, v, **SEARCH, simulated=0).rows.isel(row=0)
    assert abs(float(row["log_evidence"])) <= 6 * float(row["log_evidence_stderr"])
    assert float(row["elbo_local"]) == pytest.approx(0, abs=1e-6)


GUIDES = {
    "Gaussian": lambda loc, scale: dist.Normal(loc, scale, validate_args=False).to_event(1),
    "full covariance": lambda loc, scale: dist.MultivariateNormal(
        loc, scale_tril=torch.diag_embed(scale) + torch.ones(loc.shape[1:] * 2).tril(-1), validate_args=False
    ),
    "Laplace": lambda loc, scale: dist.Laplace(loc, scale, validate_args=False).to_event(1),
}
POISONED = 2


def poisoned_pair(guide, latent, where, value):
    """A pair in which one row, and no other, meets a number."""
    torch.manual_seed(0)
    decode = nn.Sequential(nn.Linear(latent, 8), nn.Tanh(), nn.Linear(8, COLUMNS))
    encode = nn.Linear(COLUMNS, 2 * latent)

    def put(place, numbers, v):
        return torch.where(v[:, :1] == 9.0, value, numbers) if place == where else numbers

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(latent), 1.0).to_event(1))
            scale = put("scale of v", torch.ones_like(v), v)
            pyro.sample("v", dist.Normal(put("mean of v", decode(h), v), scale, validate_args=False).to_event(1), obs=v)

    def q(v):
        loc, log_scale = encode(v).chunk(2, -1)
        scale = put("scale of h", (0.1 * log_scale).exp(), v)
        with pyro.plate("data", len(v)):
            pyro.sample("h", GUIDES[guide](put("mean of h", loc, v), scale))

    return model, q


@examples(3)
@example("full covariance", 3, "scale of h", 0.0)
@example("Gaussian", 1, "scale of h", float("nan"))
@given(
    st.sampled_from([*GUIDES]),
    st.sampled_from([1, 2, 3]),
    st.sampled_from(["scale of v", "mean of v", "scale of h", "mean of h"]),
    st.sampled_from([float("nan"), float("inf"), 0.0, -1.0, 1e-30, 1e30]),
)
def test_a_poisoned_row_leaves_the_others_as_they_are(guide, latent, where, value):
    v = rows_of("gaussian")
    v[POISONED, 0] = 9.0
    options = {"particles": 100, "max_steps": 60 if guide == "Laplace" else 100}
    clean, found = (
        pplvae.compare(*poisoned_pair(guide, latent, place, value), v, **options, simulated=4).rows
        for place in ("", where)
    )
    others = [i for i in range(ROWS) if i != POISONED]
    for name, column in clean.data_vars.items():
        before, after = column.values[others], found[name].values[others]
        if before.dtype.kind == "f":  # kernels of matrix products round by how many rows there are
            np.testing.assert_allclose(after, before, rtol=1e-9, atol=1e-9, err_msg=name)
        else:
            assert before.tolist() == after.tolist(), name
    row = found.isel(row=POISONED)
    assert np.isfinite(float(row["elbo_local"])) or str(row["status"].values) == "nonfinite"
