"""Pyro's examples of counts, tables and sequences: the program from its source, and the ELBO of its rows by hand."""

import math
from argparse import Namespace
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.contrib.cevae import CEVAE
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from torch import Tensor, nn
from torch.nn.functional import softmax
from torch.nn.utils.rnn import pack_padded_sequence

from benchmarks.pyro_by_hand import Lam, bernoulli, drawn, normal
from benchmarks.pyro_images import Example, encoded, train
from benchmarks.pyro_sources import module, notebook


def lda(root: Path, rows: int) -> Example:
    """`lda.py`: the topics of a document are a point, those of its words are summed out; a draw of the topics' words.

    The words of a document stand in a column there, and their number is an argument.
    """
    source = module(root / "examples", "lda")
    sizes = {"num_topics": 3, "num_words": 20, "num_words_per_doc": 12, "layer_sizes": "16"}
    predictor = source.make_predictor(Namespace(**sizes))

    def model(words: Tensor) -> Any:
        return source.model(words.T, Namespace(**sizes, num_docs=len(words)))

    def guide(words: Tensor) -> Any:
        return source.parametrized_guide(predictor, words.T, Namespace(**sizes, num_docs=len(words)))

    words = source.model(args=Namespace(**sizes, num_docs=200))[2].T
    train(model, guide, (words,), 300, TraceEnum_ELBO(max_plate_nesting=2), lr=0.03)
    words = words[:rows]
    store = pyro.get_param_store()
    weights = torch.distributions.Gamma(store["topic_weights_posterior"].detach(), torch.tensor(1.0))
    topics = torch.distributions.Dirichlet(store["topic_words_posterior"].detach())
    counts = torch.zeros(rows, 20).scatter_add(1, words, torch.ones(words.shape))

    def elbo(lam: Lam, draws: int) -> Tensor:
        theta = _simplex(lam["point"])
        prior = torch.distributions.Dirichlet(weights.sample((draws,))).log_prob(theta[:, None]).T
        each = theta[None] @ topics.sample((draws,))
        return prior + (counts * each.log()).sum(-1)

    return Example((words,), model, guide, {"point": predictor(counts).detach().log()}, elbo)


def _simplex(unconstrained: Tensor) -> Tensor:
    return unconstrained.softmax(-1)


def prod_lda(root: Path, rows: int) -> Example:
    """The tutorial `prodlda`: counts of words, a logistic normal over topics, batch normalisation in both nets."""
    cells = notebook(root / "tutorial/source/prodlda.ipynb", ["Encoder", "Decoder", "ProdLDA"])
    net = cells.ProdLDA(vocab_size=30, num_topics=4, hidden=16, dropout=0.2)
    topics = torch.distributions.Dirichlet(torch.full((30,), 0.2)).sample((4,))
    shares = torch.distributions.Dirichlet(torch.full((4,), 0.5)).sample((300,))
    docs = torch.distributions.Multinomial(40, shares @ topics).sample()
    docs[::2] = (docs[::2] / 2).floor()  # documents of unlike lengths
    train(net.model, net.guide, (docs,), 200)
    net.eval()
    docs = docs[:rows]
    ways = (docs.sum(-1) + 1).lgamma() - (docs + 1).lgamma().sum(-1)

    def elbo(lam: Lam, draws: int) -> Tensor:
        h, log_q = drawn(lam, draws)
        words = net.decoder(softmax(h, -1).flatten(0, 1)).unflatten(0, (draws, rows))
        return ways + (docs * words.log()).sum(-1) + normal(h, 0, 0).sum(-1) - log_q

    return Example((docs,), net.model, net.guide, encoded(*net.encoder(docs)), elbo)


def scanvi(root: Path, rows: int) -> Example:
    """`scanvi/scanvi.py` on cells without labels: lambda of z1 is another for each label, and follows z2."""
    net = module(root / "examples" / "scanvi", "scanvi").SCANVI(15, 4, l_loc=4.0, l_scale=0.3, latent_dim=3)
    shares = torch.distributions.Dirichlet(torch.full((15,), 0.7)).sample((4,))
    kind = torch.randint(4, (300,))
    x = torch.poisson(60 * shares[kind])
    y = torch.nn.functional.one_hot(kind).float()
    train(net.model, net.guide, (x, y), 300)
    loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    train(net.model, config_enumerate(net.guide, "parallel", expand=True), (x,), 100, loss)
    net.eval()
    x, labels = x[:rows], torch.eye(4)
    theta = pyro.get_param_store()["inverse_dispersion"].detach()
    z_loc, z_scale, l_loc, l_scale = net.z2l_encoder(x)
    start = {f"l.{k}": v for k, v in encoded(l_loc, l_scale).items()}
    start |= {f"z2.{k}": v for k, v in encoded(z_loc, z_scale).items()}
    # Offsets to what the nets answer to a draw of z2; for z1 by label.
    start |= {
        "logits": torch.zeros(rows, 4),
        "z1.loc": torch.zeros(rows, 4, 3),
        "z1.log_scale": torch.zeros(rows, 4, 3),
    }

    def elbo(lam: Lam, draws: int) -> Tensor:
        size, log_q_l = drawn(lam, draws, "l.")
        z2, log_q_2 = drawn(lam, draws, "z2.")
        log_y = (net.classifier(z2.flatten(0, 1)).unflatten(0, (draws, rows)) + lam["logits"]).log_softmax(-1)
        spread = z2[:, :, None].expand(-1, -1, 4, -1)
        known = labels.expand(draws, rows, 4, 4)
        loc, scale = net.z1_encoder(spread, known)
        loc, log_scale = loc + lam["z1.loc"], scale.log() + lam["z1.log_scale"]
        z1 = loc + log_scale.exp() * torch.randn_like(loc)
        prior_loc, prior_scale = net.z2_decoder(z1, known)
        each = normal(z1, 0, 0).sum(-1) - normal(z1, loc, log_scale).sum(-1)
        each = each + normal(spread, prior_loc, prior_scale.log()).sum(-1) - math.log(4) - log_y
        gate, share = net.x_decoder(z2.flatten(0, 1))
        gate, share = gate.unflatten(0, (draws, rows)), share.unflatten(0, (draws, rows))
        # The Jacobian of exp is in both log p and log q of the library size.
        rest = normal(size, 4.0, math.log(0.3)).sum(-1) - log_q_l - log_q_2
        logits = (size.exp() * share + net.epsilon).log() - (theta + net.epsilon).log()
        seen = torch.distributions.NegativeBinomial(theta, logits=logits, validate_args=False).log_prob(x)
        seen = torch.where(
            x == 0, torch.logaddexp(gate, seen) - nn.functional.softplus(gate), seen - nn.functional.softplus(gate)
        )
        return (log_y.exp() * each).sum(-1) + rest + seen.sum(-1)

    return Example((x,), net.model, net.guide, start, elbo)


def cevae(_root: Path, rows: int) -> Example:
    """`pyro.contrib.cevae`: a binary treatment chooses between nets; the guide scores treatment and outcome, too."""
    net = CEVAE(feature_dim=5, latent_dim=3, hidden_dim=24, num_layers=2)
    h = torch.randn(300, 1)
    x = h * torch.tensor([1.0, -1.0, 0.5, 2.0, 0.0]) + 0.5 * torch.randn(300, 5)
    t = (torch.rand(300) < torch.sigmoid(h[:, 0])).float()
    y = (torch.rand(300) < torch.sigmoid(t - h[:, 0])).float()
    net.fit(x, t, y, num_epochs=20, batch_size=100, log_every=0)
    x, t, y = (net.whiten(x)[:rows].detach(), t[:rows], y[:rows])
    q = net.guide.z_dist(y, t, x).base_dist

    def elbo(lam: Lam, draws: int) -> Tensor:
        z, log_q = drawn(lam, draws)
        loc, scale = net.model.x_nn(z)
        outcome = torch.where(t.bool(), net.model.y1_nn(z)[0], net.model.y0_nn(z)[0])
        seen = normal(x, loc, scale.log()).sum(-1) + bernoulli(y, outcome.sigmoid())
        return seen + bernoulli(t, net.model.t_nn(z)[0].sigmoid()) + normal(z, 0, 0).sum(-1) - log_q

    return Example((x, t, y), net.model, net.guide, encoded(q.loc, q.scale), elbo)


def flow_guide(root: Path, rows: int) -> Example:
    """The tutorial `svi_flow_guide`: lambda is the context of a neural spline flow, five points of a row."""
    path = root / "tutorial/source/svi_flow_guide.ipynb"
    cells = notebook(path, ["model", "guide"])
    x = cells.likelihood(cells.prior.sample((200,))).sample((5,)).transpose(0, 1)

    def model(x: Tensor) -> Any:
        return cells.model(x.transpose(0, 1))

    def guide(x: Tensor) -> Any:
        return cells.guide(x.transpose(0, 1))

    train(model, guide, (x,), 100, Trace_ELBO(num_particles=4, vectorize_particles=True))
    x = x[:rows]

    def elbo(lam: Lam, draws: int) -> Tensor:
        z, log_q = cells.flow(lam["context"]).rsample_and_log_prob((draws,))
        loc, rho = z[..., :2], 0.99 * z[..., 2].tanh()
        first, second = ((x - loc[:, :, None]) / 0.1).unbind(-1)
        rho = rho[..., None]
        square = (first.square() - 2 * rho * first * second + second.square()) / (1 - rho.square())
        seen = -0.5 * square - 0.5 * (1 - rho.square()).log() - math.log(0.01) - math.log(2 * math.pi)
        return seen.sum(-1) + normal(z, 0, 0).sum(-1) - log_q

    return Example((x,), model, guide, {"context": x.flatten(1)}, elbo, steps=1500)


def easyguide(root: Path, rows: int) -> Example:
    """The tutorial `easyguide`, its last guide: states of a row by one low-rank normal, the drift of all by a point."""
    cells = notebook(root / "tutorial/source/easyguide.ipynb", ["model"])
    size, steps = 120, 5
    data = torch.as_tensor(cells.model([None] * steps, torch.arange(size), size)).T
    source = notebook(root / "tutorial/source/easyguide.ipynb", ["model", "guide"], 2, {"rank": 3})

    def model(v: Tensor) -> Any:
        return source.model(v.T, torch.arange(len(v)), len(v))

    def guide(v: Tensor) -> Any:
        return source.guide(v.T, torch.arange(len(v)), len(v))

    train(model, guide, (data,), 200)
    data = data[:rows]
    store = pyro.get_param_store()
    drift = next(store[name].detach() for name in store.keys() if "drift" in name)
    diagonal, factor = store["state_cov_diag"].detach(), store["state_cov_factor"].detach()
    start = {
        "loc": source.guide.nn(data).detach(),
        "factor": factor.expand(rows, -1, -1),
        "log_diagonal": diagonal.log().expand(rows, -1),
    }

    def elbo(lam: Lam, draws: int) -> Tensor:
        q = torch.distributions.LowRankMultivariateNormal(lam["loc"], lam["factor"], lam["log_diagonal"].exp())
        z = q.rsample((draws,))
        before = torch.cat([torch.zeros_like(z[..., :1]), z[..., :-1]], -1)
        seen = bernoulli(data, z.sigmoid()).sum(-1)
        return seen + normal(z, before, drift.log()).sum(-1) - q.log_prob(z)

    return Example((data,), model, guide, start, elbo)


def dmm(root: Path, rows: int) -> Example:
    """`dmm.py` on sequences of four steps at most: lambda of a step is an offset to what the net answers.

    A batch is there as long as its longest sequence; here all are padded to four steps, whichever rows come together.
    """
    source = module(root / "examples", "dmm")
    net = source.DMM(input_dim=6, z_dim=2, emission_dim=12, transition_dim=12, rnn_dim=12, num_layers=1)
    lengths = torch.randint(2, 5, (200,))
    mask = (torch.arange(4) < lengths[:, None]).float()
    state = torch.randn(200, 4, 1).cumsum(1)
    x = (torch.rand(200, 4, 6) < torch.sigmoid(state * torch.linspace(-2, 2, 6))).float() * mask[:, :, None]

    def packed(x: Tensor, mask: Tensor) -> tuple[Any, ...]:
        lengths = torch.full((len(x),), 4)
        backwards = source.poly.reverse_sequences(x, lengths)
        return x, pack_padded_sequence(backwards, lengths, batch_first=True), mask, lengths

    def model(x: Tensor, mask: Tensor) -> Any:
        return net.model(*packed(x, mask))

    def guide(x: Tensor, mask: Tensor) -> Any:
        return net.guide(*packed(x, mask))

    train(model, guide, (x, mask), 150)
    net.eval()
    x, mask = x[:rows], mask[:rows]
    start = {f"{t}.{number}": torch.zeros(rows, 2) for t in range(4) for number in ("loc", "log_scale")}
    with torch.no_grad():
        _, backwards, _, lengths = packed(x, mask)
        hidden = source.poly.pad_and_reverse(net.rnn(backwards, net.h_0.expand(1, rows, 12).contiguous())[0], lengths)

    def elbo(lam: Lam, draws: int) -> Tensor:
        z = net.z_q_0.expand(draws, rows, -1)
        before = net.z_0.expand(draws, rows, -1)
        total = torch.zeros(draws, rows)
        for t in range(hidden.shape[1]):
            loc, scale = net.combiner(z, hidden[:, t])
            loc, log_scale = loc + lam[f"{t}.loc"], scale.log() + lam[f"{t}.log_scale"]
            z = loc + log_scale.exp() * torch.randn_like(loc)
            prior_loc, prior_scale = net.trans(before)
            terms = normal(z, prior_loc, prior_scale.log()).sum(-1) - normal(z, loc, log_scale).sum(-1)
            total = total + mask[:, t] * (terms + bernoulli(x[:, t], net.emitter(z)).sum(-1))
            before = z
        return total

    return Example((x, mask), model, guide, start, elbo)
