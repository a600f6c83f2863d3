"""The door: what cannot be compared is refused in words that say what to do."""

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from conftest import process_state
from pyro.distributions import transforms as flows
from torch import nn

import pplvae
from pplvae.errors import DataError, ProgramError, RowwiseError, ShapeError

ROWS = torch.randn(6, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def model(v, plate=True, family=None, name="h", observe=None):
    prior = family or dist.Normal(torch.zeros(2), 1.0).to_event(1)
    with pyro.plate("data", len(v)):
        h = pyro.sample(name, prior)
        pyro.sample(
            "v",
            observe(h) if observe else dist.Normal(h.sum(-1, keepdim=True), 1.0).expand([len(v), 3]).to_event(1),
            obs=v,
        )


def guide(v, columns=2):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal(v[:, :columns], 1.0).to_event(1))


def no_plate(v):
    h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 2), 1.0).to_event(1))
    pyro.sample("v", dist.Normal(h.sum(-1, keepdim=True), 1.0).expand([len(v), 3]).to_event(1), obs=v)


def no_plate_guide(v):
    pyro.sample("h", dist.Normal(v[:, :2], 1.0).to_event(1))


def fixed_plate(v):
    with pyro.plate("data", 6):
        h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h.sum(-1, keepdim=True), 1.0).expand([len(v), 3]).to_event(1), obs=v)


def unrelated_plate(v):
    with pyro.plate("columns", 2):
        pyro.sample("h", dist.Normal(0.0, 1.0))


def global_observation(v):
    model(v)
    pyro.sample("total", dist.Normal(0.0, 1.0), obs=v.sum())


def only_global(v):
    weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(v)):
        pyro.sample("v", dist.Normal(weight, 1.0).expand([len(v), 3]).to_event(1), obs=v)


def only_global_guide(v):
    pyro.sample("weight", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(v)):
        pyro.factor("idle", torch.zeros(len(v)), has_rsample=False)


def counts(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Poisson(2.0))
        pyro.sample("v", dist.Normal(h.unsqueeze(-1), 1.0).expand([len(v), 3]).to_event(1), obs=v)


def counts_guide(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Poisson(v[:, 0].exp()))


def many_states(v):
    with pyro.plate("data", len(v)):
        pyro.sample("z", dist.Bernoulli(torch.full((10,), 0.5)).to_event(1))
    model(v)


def von_mises(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.VonMises(v[:, 0], 1.0))


def extra_site(v):
    guide(v)
    with pyro.plate("data", len(v)):
        pyro.sample("h2", dist.Normal(0.0, 1.0))


def missing_site(v):
    with pyro.plate("data", len(v)):
        pyro.sample("other", dist.Normal(v[:, :2], 1.0).to_event(1))


def unfree(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Uniform(v[:, :2] - 1, v[:, :2] + 1).to_event(1))


def wrong_events(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(len(v)), 1.0))
        pyro.sample("v", dist.Normal(h.reshape(len(v), -1)[:, :1], 1.0).expand([len(v), 3]).to_event(1), obs=v)


def meeting_rows(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h.mean(0).sum(), 1.0).expand([len(v), 3]).to_event(1), obs=v)


def stubborn_dropout(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        mean = nn.functional.dropout(h, 0.5).sum(-1, keepdim=True)
        pyro.sample("v", dist.Normal(mean, 1.0).expand([len(v), 3]).to_event(1), obs=v)


def own_subsample(v):
    with pyro.plate("data", len(v), subsample_size=4) as index:
        h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample("v", dist.Normal(h.sum(-1, keepdim=True), 1.0).expand([4, 3]).to_event(1), obs=v[index])


def own_subsample_guide(v):
    with pyro.plate("data", len(v), subsample_size=4) as index:
        pyro.sample("h", dist.Normal(v[index, :2], 1.0).to_event(1))


def flow_guide(v):
    flow = flows.conditional_spline(2, context_dim=3).double()
    with pyro.plate("data", len(v)):
        base = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        pyro.sample("h", dist.TransformedDistribution(base, [flow.condition(v)]))


def loop_plate(v):
    for i in pyro.plate("data", len(v)):
        h = pyro.sample(f"h{i}", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        pyro.sample(f"v{i}", dist.Normal(h.sum(), 1.0).expand([3]).to_event(1), obs=v[i])


def causal_rows(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal(v[:, :2].cumsum(0), 1.0).to_event(1))


def auxiliary_alone(v):
    guide(v)
    with pyro.plate("data", len(v)):
        pyro.sample("unused", dist.Normal(v[:, 0], 1.0), infer={"is_auxiliary": True})


def hidden_argument(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", Opaque(v[:, :2]).to_event(1))


class Opaque(dist.Normal):
    """A distribution that keeps another value of a parameter than its constructor takes."""

    def __init__(self, loc, scale=1.0, validate_args=None):
        super().__init__(loc, torch.as_tensor(scale) * 2, validate_args=validate_args)

    def expand(self, batch_shape, _instance=None):
        return Opaque(self.loc.expand(batch_shape), self.scale.expand(batch_shape) / 2)


def sites_by_row(v):
    with pyro.plate("data", len(v)):
        h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        for k in range(1 + int((v > 5).any())):
            pyro.sample(f"v{k}", dist.Normal(h.sum(-1), 1.0), obs=v[:, 0])


CASES = [
    (no_plate, no_plate_guide, RowwiseError, r'has no plate.*pyro\.plate\("data", len\(v\)\)'),
    (fixed_plate, guide, ProgramError, r"plate's size must be the number of rows"),
    (
        unrelated_plate,
        unrelated_plate,
        ProgramError,
        r"No plate of the guide has the number of rows.*'columns' \(size 2\)",
    ),
    (global_observation, guide, RowwiseError, r"observed site 'total' of the model lies outside the data plate"),
    (only_global, only_global_guide, RowwiseError, r"\['weight'\] of the guide lie outside the data plate"),
    (counts, counts_guide, RowwiseError, r"'h' is discrete and has no end of states \(Poisson\)"),
    (
        many_states,
        guide,
        RowwiseError,
        r"\['z'\] of the model are not in the guide, and cannot be summed out: they have more than 512",
    ),
    (model, von_mises, ProgramError, r"shape|reparameterised"),
    (model, extra_site, ProgramError, r"has \['h2'\], which the model does not sample"),
    (model, missing_site, ProgramError, r"misses \['h'\]"),
    (model, unfree, RowwiseError, r"h is Uniform.*pplvae\.local"),
    (model, lambda v: guide(v, 1), ProgramError, r"shape \(3, 1\) in the guide and \(3, 2\) in the model"),
    (wrong_events, lambda v: guide(v, 1), ProgramError, r"'h' has (shape|1 event dimension)"),
    (meeting_rows, guide, ProgramError, r"changed when other rows were added"),
    (stubborn_dropout, guide, ProgramError, r"dropout that ignores"),
    (own_subsample, own_subsample_guide, ProgramError, r"takes 4 of the \d+ rows|Minibatches"),
    (model, flow_guide, RowwiseError, r"is a flow \(ConditionedSpline\).*pplvae\.local"),
    (model, causal_rows, ProgramError, r"changed when other rows were added"),
    (model, auxiliary_alone, RowwiseError, r"auxiliary latent 'unused' enters log q and nothing enters log p"),
    (model, hidden_argument, RowwiseError, r"cannot be taken apart and rebuilt.*pplvae\.local"),
    (loop_plate, loop_plate, ProgramError, r"Python loop|No plate|misses|influence|has \["),
]


@pytest.mark.parametrize(
    ("model", "guide", "error", "text"), CASES, ids=[f"{m.__name__}-{g.__name__}" for m, g, *_ in CASES]
)
def test_refused(model, guide, error, text):
    before = process_state()
    with pytest.raises(error, match=text):
        pplvae.amortisation_gap(model, guide, ROWS, particles=20, max_steps=25)
    assert process_state() == before


def test_sites_that_only_some_rows_have():
    rows = torch.cat([ROWS.repeat(20, 1) + 0.01 * torch.randn(120, 3), torch.full((1, 3), 6.0)])
    with pytest.raises(ProgramError, match=r"sites \['v1'\] exist for some rows.*pad sequences"):
        pplvae.amortisation_gap(sites_by_row, guide, rows, particles=20, max_steps=25)


def test_a_likelihood_need_not_say_its_support():
    class Silent(dist.Normal):
        support = property(lambda self: (_ for _ in ()).throw(NotImplementedError))

    def silent(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            pyro.sample("v", Silent(h.sum(-1), 1.0), obs=v[:, 0])

    with pyro.validation_enabled(False):
        assert pplvae.log_weights(silent, guide, ROWS).isfinite().all()


def test_accepted():
    assert pplvae.amortisation_gap(model, guide, ROWS, particles=20, max_steps=25).rows.sizes["row"] == 6


@pytest.mark.parametrize(
    ("family", "value", "text"),
    [
        (
            lambda h: dist.Bernoulli(logits=h.sum(-1, keepdim=True).expand(-1, 3)),
            0.3,
            r"Rows 4 .*0\.3.*Bernoulli takes 0 or 1.*likelihoods.ContinuousBernoulli",
        ),
        (
            lambda h: dist.Poisson(h.exp().sum(-1, keepdim=True).expand(-1, 3)),
            1.5,
            r"Rows 4 .*1\.5.*Poisson takes counts",
        ),
        (
            lambda h: dist.Beta(h.exp().sum(-1, keepdim=True).expand(-1, 3), 1.0),
            1.5,
            r"Rows 4 .*Beta takes values strictly",
        ),
    ],
    ids=["Bernoulli", "Poisson", "Beta"],
)
@pytest.mark.parametrize("verb", ["fit", "amortisation_gap", "log_weights"])
def test_values_outside_the_support(family, value, text, verb):
    rows = torch.full((6, 3), 0.5) if value == 1.5 and "Beta" in text else torch.ones(6, 3)
    rows[4, 1] = value
    with pytest.raises(DataError, match=text):
        getattr(pplvae, verb)(lambda v: model(v, observe=lambda h: family(h).to_event(1)), guide, rows)


def test_masked_values_may_be_anything():
    rows, seen = torch.ones(6, 3), torch.ones(6, 3, dtype=torch.bool)
    rows[4, 1], seen[4, 1] = 0.3, False

    def masked(v, seen):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = h.sum(-1, keepdim=True).expand(-1, 3)
            pyro.sample("v", dist.Bernoulli(logits=logits).mask(seen).to_event(1), obs=v)

    def masked_guide(v, seen):
        guide(v)

    # Pyro's own check looks at masked values too; ours does not.
    with pyro.validation_enabled(False):
        assert pplvae.log_weights(masked, masked_guide, (rows, seen)).isfinite().all()


@pytest.mark.parametrize("outer", ["row", "all"])
def test_masks_outside_count_with_those_inside(outer):
    rows, seen = torch.ones(6, 3), torch.ones(6, 3, dtype=torch.bool)
    rows[4, 1], rows[2, 0], seen[2, 0] = 0.3, 0.3, False

    def masked(v, seen):
        inside = dist.Bernoulli(logits=torch.zeros(3)).expand([len(v), 3]).mask(seen).to_event(1)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            with pyro.poutine.mask(mask=v[:, 1] != 0.3 if outer == "row" else False):
                pyro.sample("v", inside, obs=v)

    def masked_guide(v, seen):
        guide(v)

    with pyro.validation_enabled(False):
        assert pplvae.log_weights(masked, masked_guide, (rows, seen)).isfinite().all()
        rows[5, 2] = 0.7
        if outer == "row":
            with pytest.raises(DataError, match=r"Rows 5 .*such as 0\.7"):
                pplvae.log_weights(masked, masked_guide, (rows, seen))


def test_wrong_number_of_columns():
    vae = pplvae.models.BernoulliVAE(4, 2).double()
    with pytest.raises(ShapeError, match=r"must have 4 columns.*have 3"):
        pplvae.amortisation_gap(vae.model, vae.guide, torch.ones(6, 3))


def scale_from_a_column(v):
    with pyro.plate("data", len(v)):
        pyro.sample("h", dist.Normal(v[:, :2], v[:, 2:]).to_event(1))


@pytest.mark.parametrize("group", [0, 1])
def test_a_row_that_breaks_a_program_does_not_speak_for_all(group):
    """Programs are tried on three rows, then on the next three: only the row that is broken has no result."""
    rows = torch.cat([ROWS[:, :2], torch.full((6, 1), 0.7)], 1).repeat(2, 1) + torch.arange(12.0).unsqueeze(1) / 100
    broken = rows.clone()
    broken[: 3 * group + 2, 2] = -1.0
    whole = pplvae.amortisation_gap(model, scale_from_a_column, rows, particles=4).rows
    found = pplvae.amortisation_gap(model, scale_from_a_column, broken, particles=4).rows
    bad = (broken[:, 2] < 0).numpy()
    assert (found["status"].values[bad] == "nonfinite").all()
    np.testing.assert_allclose(found["amortisation_gap"].values[~bad], whole["amortisation_gap"].values[~bad])
    broken[:7, 2] = -1.0  # one of each three that are tried
    with pytest.raises(ProgramError, match=r"guide failed. `scale` of Normal must be above 0.*such as -1"):
        pplvae.amortisation_gap(model, scale_from_a_column, broken, particles=4)


def test_a_strangers_own_error_is_shown_with_the_shape():
    layer = nn.Linear(4, 2).double()
    with pytest.raises(
        ProgramError, match=r"guide raised RuntimeError on rows of shape \(3, 3\).*cannot be multiplied"
    ):
        pplvae.amortisation_gap(model, lambda v: guide(layer(v)), ROWS)
