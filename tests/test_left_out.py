"""Discrete latents that the guide leaves to the model: sums over all states, against enumeration by hand."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch

import pplvae
from pplvae.errors import RowwiseError

WORDS, TOPICS = 3, 2
SHARES = torch.tensor([0.3, 0.7])
MEANS = torch.tensor([-1.0, 2.0])
ROWS = torch.tensor([[0.5, -1.0, 2.0], [1.5, 0.0, -2.0], [0.0, 3.0, 1.0], [2.0, 2.5, -0.5]])
USED = torch.tensor([[1, 1, 1], [1, 1, 0], [1, 0, 0], [1, 1, 1]], dtype=torch.bool)


def guide(v, *_):
    with pyro.plate("rows", len(v), dim=-2):
        pyro.sample("h", dist.Normal(0.2 * v.mean(1, keepdim=True), 0.8))


def words(v, used=None):
    """A shift for a row, and a topic for each word."""
    used = torch.ones_like(v, dtype=torch.bool) if used is None else used
    with pyro.plate("rows", len(v), dim=-2):
        h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 1), 1.0))
        with pyro.plate("words", v.shape[1], dim=-1), pyro.poutine.mask(mask=used):
            topic = pyro.sample("topic", dist.Categorical(SHARES))
            pyro.sample("v", dist.Normal(h + MEANS[topic], 1.0), obs=v)


def classes(v):
    """A class for a row, and a topic for each word that follows from it."""
    table = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
    with pyro.plate("rows", len(v), dim=-2):
        h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 1), 1.0))
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.2, 0.3, 0.5]).expand(len(v), 1, 3)))
        with pyro.plate("words", v.shape[1], dim=-1):
            topic = pyro.sample("topic", dist.Categorical(table[kind]))
            pyro.sample("v", dist.Normal(h + MEANS[topic], 1.0), obs=v)


def mixed(v):
    """All topics of a row together say where the row lies: no sum over words apart."""
    with pyro.plate("rows", len(v), dim=-2):
        h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 1), 1.0))
        with pyro.plate("words", v.shape[1], dim=-1):
            topic = pyro.sample("topic", dist.Categorical(SHARES))
        where = h + MEANS[topic].sum(-1, keepdim=True)
        pyro.sample("v", dist.Normal(where.expand(v.shape).unsqueeze(-2), 1.0).to_event(1), obs=v.unsqueeze(-2))


def slightly_mixed(v):
    """As `words`, but that the number of words of the second topic moves the row a little."""
    with pyro.plate("rows", len(v), dim=-2):
        h = pyro.sample("h", dist.Normal(torch.zeros(len(v), 1), 1.0))
        with pyro.plate("words", v.shape[1], dim=-1):
            topic = pyro.sample("topic", dist.Categorical(SHARES))
            pyro.sample("v", dist.Normal(h + MEANS[topic], 1.0), obs=v)
        count = topic.sum(-1, keepdim=True)
        pyro.sample("w", dist.Normal(0.00005 * count.to(v), 1.0), obs=torch.full_like(v[:, :1], 1.0))


def normal(value, mean):
    return dist.Normal(mean, 1.0).log_prob(value)


def log_joint_of_words(v, h, used):
    each = torch.logsumexp(normal(v.unsqueeze(-1), h[:, None, None] + MEANS) + SHARES.log(), -1)
    return (each * used).sum(-1)


def by_enumeration(v, h, per_state):
    """Log of the sum over all assignments of topics."""
    terms = [per_state(v, h, torch.tensor(topics)) for topics in itertools.product(range(TOPICS), repeat=WORDS)]
    return torch.stack(terms).logsumexp(0)


def exact(kind, v, used):
    """Log p(v, h) - log q(h) at given h."""

    def of(h):
        prior = normal(h, torch.zeros(())) - dist.Normal(0.2 * v.mean(1), 0.8).log_prob(h)
        if kind is words:
            return prior + log_joint_of_words(v, h, used)
        if kind is mixed:
            return prior + by_enumeration(
                v, h, lambda v, h, t: SHARES[t].log().sum() + normal(v, (h + MEANS[t].sum()).unsqueeze(-1)).sum(-1)
            )
        table = torch.tensor([[0.9, 0.1], [0.2, 0.8], [0.5, 0.5]])
        classes_ = [
            by_enumeration(
                v,
                h,
                lambda v, h, t, k=k: table[k][t].log().sum() + normal(v, h.unsqueeze(-1) + MEANS[t]).sum(-1),
            )
            for k in range(3)
        ]
        return prior + (torch.stack(classes_) + torch.tensor([0.2, 0.3, 0.5]).log().unsqueeze(-1)).logsumexp(0)

    return of


@pytest.mark.parametrize(("kind", "masked"), [(words, False), (words, True), (classes, False), (mixed, False)])
def test_log_weights_are_sums_over_all_topics(kind, masked):
    rows = (ROWS, USED) if masked else ROWS
    found = pplvae.log_weights(kind, guide, rows, particles=5, seed=3)
    drawn = []

    class Watch(pyro.poutine.messenger.Messenger):
        def _pyro_post_sample(self, msg):
            if msg["name"] == "h" and not msg["is_observed"]:
                drawn.append(msg["value"])

    watched = Watch()(guide)
    again = pplvae.log_weights(kind, watched, rows, particles=5, seed=3)
    assert torch.equal(found, again)
    h = drawn[-1].reshape(5, len(ROWS))
    used = USED if masked else torch.ones_like(USED)
    of = exact(kind, ROWS, used)
    expected = torch.stack([of(some) for some in h])
    torch.testing.assert_close(found.double(), expected.double(), rtol=1e-5, atol=1e-5)


def test_a_slight_effect_of_all_topics_is_seen():
    """Of 0.0006 nats: twelve words are no sums of their own, and have 4096 states together."""
    with pytest.raises(RowwiseError, match=r"\['topic'\]"):
        pplvae.log_weights(slightly_mixed, guide, ROWS.repeat(1, 4).double())
    assert pplvae.log_weights(words, guide, ROWS.repeat(1, 4).double()).isfinite().all()


def test_thirty_words_are_thirty_sums():
    """2^30 states together, 30 x 2 apart; h alone is left to the guide, so a grid gives the truth."""
    v = ROWS.repeat(1, 10)
    gaps = pplvae.amortisation_gap(words, guide, v, particles=2000, seed=0).rows
    grid = torch.linspace(-6, 6, 4001, dtype=torch.float64)
    for row in range(len(v)):
        value = v[row : row + 1].double()
        q = dist.Normal(0.2 * value.mean(), 0.8)
        terms = torch.cat([log_joint_of_words(value, h.reshape(1), torch.ones_like(value)) for h in grid])
        log_p = terms + normal(grid, torch.zeros((), dtype=torch.float64))
        elbo = torch.trapezoid(q.log_prob(grid).exp() * (log_p - q.log_prob(grid)), grid)
        error = float(gaps["elbo_amortised_stderr"][row])
        assert abs(float(gaps["elbo_amortised"][row]) - float(elbo)) < 5 * error + 1e-3


def test_too_many_topics_that_act_together_are_refused():
    with pytest.raises(RowwiseError, match=r"\['topic'\].*more than 512 states together"):
        pplvae.log_weights(mixed, guide, ROWS.repeat(1, 10))
