"""Generated programs: each correct one is read as Pyro's own traces say, row by row; each planted mistake is named."""

import os
import re
from dataclasses import dataclass, replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st
from pyro.poutine.messenger import Messenger

import pplvae
from pplvae.errors import PplvaeError

ROWS, COLUMNS, MEMBERS = 6, 3, 2
V = torch.randn(ROWS, COLUMNS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
EXAMPLES = int(os.environ.get("PPLVAE_FUZZ", "60"))


@dataclass(frozen=True)
class Latent:
    """One latent: its family, how many event axes of size 2 it has, what is around it, and what its means follow."""

    family: str
    axes: int
    inner: bool
    masked: bool
    parents: tuple[int, ...]
    guide_parents: tuple[int, ...]


@dataclass(frozen=True)
class Spec:
    """A pair of programs, right but for `mistake`; the data plate may stand left or right of the one inside it."""

    plate: str
    data_left: bool
    latents: tuple[Latent, ...]
    order: tuple[int, ...]
    columns_in_plate: bool
    mistake: str = ""


DISCRETE = ("bernoulli", "categorical", "onehot")
SCALAR = ("normal", "lognormal", "gamma", "beta", "student", "laplace", "bernoulli", "categorical")
VECTOR = ("mvn", "dirichlet", "onehot")
POSITIVE = ("lognormal", "gamma", "beta")
PLATES = ("sized", "unsized", "subsampled", "indexed")
MISTAKES = {
    "likelihood without to_event": r"'v'.*to_event",
    "guide without to_event": r"'h\d'.*(to_event|event dimension)",
    "another name": r"misses \['h\d'\].*\['other'\], which the model does not sample",
    "latent missing": r"misses \['h\d'\]",
    "latent too many": r"\['extra'\], which the model does not sample",
    "size written down": r"plate's size must be the number of rows|size that is written down",
    "no plate in the guide": r"guide has no plate|outside the data plate|Either none is over the rows",
    "observed outside": r"'v' of the model lies outside the data plate",
    "mask in the model alone": r"'h\d' is masked in one program and not in the other",
    "rows meet": r"'v' of the model, a row's log-probability changed when other rows were added",
    "noise outside": r"'v' of the model.*draws random numbers outside `pyro.sample`",
    "another support": r"'h\d' outside the support",
    "fewer numbers": r"'v'.*a row has 3 numbers, and the model gives it 2",
}


@st.composite
def latents(draw, count):
    found = []
    for k in range(count):
        vector = draw(st.integers(0, 3)) == 0
        family = draw(st.sampled_from(VECTOR if vector else SCALAR))
        axes = 0 if vector else draw(st.integers(0, 2))
        earlier = st.lists(st.integers(0, k - 1), unique=True, max_size=2) if k else st.just([])
        inner, masked = draw(st.integers(0, 3)) == 0, draw(st.integers(0, 3)) == 0
        found.append(Latent(family, axes, inner, masked, tuple(draw(earlier)), tuple(draw(earlier))))
    return tuple(found)


@st.composite
def specs(draw):
    some = draw(latents(draw(st.integers(1, 4))))
    order = draw(st.permutations(range(len(some))))
    return Spec(draw(st.sampled_from(PLATES)), draw(st.booleans()), some, tuple(order), draw(st.booleans()))


@st.composite
def broken(draw):
    spec, mistake = draw(specs()), draw(st.sampled_from([*MISTAKES]))
    last = spec.latents[spec.order[-1]]  # in which the guide goes wrong
    first = {
        "guide without to_event": {"axes": max(1, last.axes), "family": last.family if last.axes else "normal"},
        "latent missing": {"family": "normal" if last.family in DISCRETE else last.family},
        "another name": {"family": "normal" if last.family in DISCRETE else last.family},
        "another support": {"family": "gamma", "masked": False},
        "mask in the model alone": {"masked": True},
        "rows meet": {"family": "normal"},  # whose sum differs by row
    }
    changed = replace(last, **first.get(mistake, {}))
    if changed.family in VECTOR:
        changed = replace(changed, axes=0)
    some = tuple(changed if k == spec.order[-1] else latent for k, latent in enumerate(spec.latents))
    columns = spec.columns_in_plate and mistake not in (
        "likelihood without to_event",
        "fewer numbers",
        "observed outside",
    )
    return replace(spec, latents=some, columns_in_plate=columns, mistake=mistake)


def distribution(latent, mean):
    """Of a family, with parameters that follow from one number for each entry of a batch."""
    numbers = mean.reshape(*mean.shape, *(1,) * latent.axes).expand(*mean.shape, *(2,) * latent.axes)
    pair = torch.stack([numbers, -numbers], -1)
    kinds = {
        "normal": lambda: dist.Normal(numbers, 0.7),
        "student": lambda: dist.StudentT(5.0, numbers, 0.7),
        "laplace": lambda: dist.Laplace(numbers, 0.7),
        "lognormal": lambda: dist.LogNormal(0.3 * numbers, 0.5),
        "gamma": lambda: dist.Gamma(2 + numbers.tanh(), 1.5),
        "beta": lambda: dist.Beta(2 + numbers.tanh(), 1.5),
        "bernoulli": lambda: dist.Bernoulli(logits=numbers),
        "categorical": lambda: dist.Categorical(logits=pair),
        "mvn": lambda: dist.MultivariateNormal(pair, scale_tril=torch.tensor([[0.8, 0.0], [0.3, 0.6]])),
        "dirichlet": lambda: dist.Dirichlet(1.5 + pair.sigmoid()),
        "onehot": lambda: dist.OneHotCategorical(logits=pair),
    }
    return kinds[latent.family]().to_event(latent.axes)


class Programs:
    """The model and the guide of a spec."""

    def __init__(self, spec):
        self.spec = spec
        self.nested = spec.columns_in_plate or any(latent.inner for latent in spec.latents)
        self.dim = -2 if self.nested and spec.data_left else -1
        self.inner_dim = -3 - self.dim

    def place(self, numbers, *, inner):
        """Numbers by row (and member) with their axes where the plates are."""
        if inner:
            return numbers if self.dim == -2 else numbers.transpose(0, 1)
        return numbers.unsqueeze(1) if self.dim == -2 else numbers

    def by_row(self, value, latent):
        """One number for each row out of a value of a site."""
        axis = 1 if latent.inner and self.dim == -1 else 0
        return value.to(torch.float64).movedim(axis, 0).reshape(value.shape[axis], -1).sum(1).tanh()

    def data(self, v):
        if self.spec.mistake == "size written down":
            return pyro.plate("data", ROWS, dim=self.dim)
        kinds = {
            "sized": lambda: pyro.plate("data", len(v), dim=self.dim),
            "unsized": lambda: pyro.plate("data", dim=self.dim),
            "subsampled": lambda: pyro.plate("data", 100, subsample_size=len(v), dim=self.dim),
            "indexed": lambda: pyro.plate("data", 100, subsample=torch.arange(len(v)), dim=self.dim),
        }
        return kinds[self.spec.plate]()

    def mean(self, v, parents, *, inner):
        total = 0.3 * v.sum(-1) + sum(0.4 * parent for parent in parents)
        total = total.unsqueeze(1) + torch.tensor([0.1, -0.2]) if inner else total
        return self.place(total, inner=inner)

    def latents(self, v, which, *, guide):
        """The value of each latent by row."""
        spec, values = self.spec, {}
        for k in which:
            latent, name = spec.latents[k], f"h{k}"
            parents = [values[p] for p in (latent.guide_parents if guide else latent.parents) if p in values]
            mean = self.mean(v, parents, inner=latent.inner)
            fn, masked = distribution(latent, mean), latent.masked
            if guide and k == spec.order[-1]:
                name = "other" if spec.mistake == "another name" else name
                fn = fn.base_dist if spec.mistake == "guide without to_event" else fn
                masked = masked and spec.mistake != "mask in the model alone"
                if spec.mistake == "another support":
                    fn = distribution(replace(latent, family="normal"), mean - 9)
                if spec.mistake == "latent missing":
                    continue
            seen = v[:, 0] > -0.3
            seen = self.place(seen.unsqueeze(1).expand(-1, MEMBERS) if latent.inner else seen, inner=latent.inner)
            mask = seen if masked else torch.ones_like(seen)
            values[k] = self.by_row(self.sample(name, fn, mask, inner=latent.inner), latent)
        return values

    def sample(self, name, fn, mask, *, inner):
        with pyro.poutine.mask(mask=mask):
            if not inner:
                return pyro.sample(name, fn)
            with pyro.plate(f"inside {name}", MEMBERS, dim=self.inner_dim):
                return pyro.sample(name, fn)

    def model(self, v):
        spec = self.spec
        with self.data(v):
            values = self.latents(v, range(len(spec.latents)), guide=False)
            mean = sum(0.5 * value for value in values.values()).unsqueeze(-1) * torch.tensor([1.0, -1.0, 0.5])
            mean = mean - mean.mean(0) if spec.mistake == "rows meet" else mean
            mean = mean + torch.randn(1) if spec.mistake == "noise outside" else mean
            mean = mean[:, :2] if spec.mistake == "fewer numbers" else mean
            if spec.mistake != "observed outside":
                self.observe(v, mean)
        if spec.mistake == "observed outside":
            pyro.sample("v", dist.Normal(mean, 1.0).to_event(2), obs=v)

    def observe(self, v, mean):
        if self.spec.columns_in_plate:
            with pyro.plate("columns", COLUMNS, dim=self.inner_dim):
                pyro.sample("v", dist.Normal(self.place(mean, inner=True), 1.0), obs=self.place(v, inner=True))
            return
        event = 0 if self.spec.mistake == "likelihood without to_event" else 1
        mean, v = (self.place(some, inner=False) for some in (mean, v))
        pyro.sample("v", dist.Normal(mean, 1.0).to_event(event), obs=v)

    def guide(self, v):
        if self.spec.mistake == "no plate in the guide":
            self.latents(v, self.spec.order, guide=True)
            return
        with self.data(v):
            self.latents(v, self.spec.order, guide=True)
            if self.spec.mistake == "latent too many":
                pyro.sample("extra", dist.Normal(self.place(torch.zeros(len(v)), inner=False), 1.0))


class Watch(Messenger):
    """The latents that a guide drew when it was last run."""

    def __enter__(self):
        self.values = {}
        return super().__enter__()

    def _pyro_post_sample(self, msg):
        if not msg["is_observed"] and msg["name"] != "data":
            self.values[msg["name"]] = msg["value"]


def by_pyro(programs, values, rows):
    """Log p - log q of tiled rows from Pyro's traces at given latents."""
    total = torch.zeros(len(rows))
    for program, sign in ((programs.model, 1), (programs.guide, -1)):
        trace = pyro.poutine.trace(pyro.poutine.condition(program, data=values)).get_trace(rows)
        trace.compute_log_prob()
        for site in trace.nodes.values():
            if site["type"] == "sample" and type(site["fn"]).__name__ != "_Subsample":
                log_prob = site["log_prob"] / site["scale"]
                total = total + sign * log_prob.movedim(programs.dim, 0).reshape(len(rows), -1).sum(1)
    return total


FUZZ = settings(
    max_examples=EXAMPLES, derandomize=True, deadline=None, database=None, suppress_health_check=[*HealthCheck]
)


@FUZZ
@given(specs())
def test_every_correct_program_is_read_as_pyro_traces_it(spec):
    note(spec)
    pyro.clear_param_store()
    programs, watch = Programs(spec), Watch()
    found = pplvae.log_weights(programs.model, watch(programs.guide), V, particles=2, seed=5)
    expected = by_pyro(programs, watch.values, V.repeat(2, 1)).reshape(2, ROWS)
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)
    alone = pplvae.log_weights(programs.model, programs.guide, V[2:3], particles=2, seed=5)
    torch.testing.assert_close(alone, found[:, 2:3], rtol=1e-9, atol=1e-9)


@FUZZ
@given(broken())
def test_every_planted_mistake_is_named(spec):
    note(spec)
    pyro.clear_param_store()
    programs = Programs(spec)
    with pytest.raises(PplvaeError) as told:
        pplvae.log_weights(programs.model, programs.guide, V)
    assert re.search(MISTAKES[spec.mistake], str(told.value)), str(told.value)
