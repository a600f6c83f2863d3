"""Pyro's examples of pictures: the program from its source, and the ELBO of its rows in plain torch."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyro
import torch
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO, config_enumerate
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional

from benchmarks.pyro_by_hand import Elbo, Lam, bernoulli, drawn, normal
from benchmarks.pyro_sources import module, notebook

Program = Callable[..., Any]


@dataclass(frozen=True)
class Example:
    """One example on a few rows.

    Attributes:
        rows: as both programs take them.
        model: of the example.
        guide: of the example.
        start: the encoder's lambda of these rows.
        elbo: draws of their ELBO.
        steps: of the optimiser by hand.
        step: its first step size.
    """

    rows: tuple[Tensor, ...]
    model: Program
    guide: Program
    start: Lam
    elbo: Elbo
    steps: int = 3000
    step: float = 0.05


def train(
    model: Program, guide: Program, rows: tuple[Tensor, ...], steps: int, loss: Any = None, lr: float = 3e-3
) -> None:
    """Fit a pair by Pyro's own SVI, for a few steps on all rows: the encoder need not be good."""
    svi = SVI(model, guide, pyro.optim.Adam({"lr": lr}), loss or Trace_ELBO())  # pyright: ignore
    for _ in range(steps):
        svi.step(*rows)


def digits(size: int, count: int, *, grey: bool) -> Tensor:
    """The first pictures of scikit-learn's digits, axes (picture, row, column), in 0 to 1."""
    pictures = torch.tensor(_digits().images[:count], dtype=torch.float32)[:, None] / 16
    pictures = functional.interpolate(pictures, (size, size), mode="bilinear")[:, 0]
    return pictures if grey else pictures.round()


def _digits() -> Any:
    return load_digits()


def encoded(loc: Tensor, scale: Tensor) -> dict[str, Tensor]:
    """Lambda of factorised normals."""
    return {"loc": loc.detach(), "log_scale": scale.detach().log()}


def vae(root: Path, rows: int) -> Example:
    """`vae/vae.py`, on grey pictures."""
    net = module(root / "examples" / "vae", "vae").VAE(z_dim=5, hidden_dim=64)
    x = digits(28, 300, grey=True).flatten(1)
    train(net.model, net.guide, (x,), 150)
    x = x[:rows]

    def elbo(lam: Lam, draws: int) -> Tensor:
        z, log_q = drawn(lam, draws)
        return bernoulli(x, net.decoder(z)).sum(-1) + normal(z, 0, 0).sum(-1) - log_q

    return Example((x,), net.model, net.guide, encoded(*net.encoder(x)), elbo)


def cvae(root: Path, rows: int) -> Example:
    """`cvae/cvae.py`: three quarters of a picture, given the fourth; the prior looks at that."""
    baseline = module(root / "examples" / "cvae", "baseline").BaselineNet(32, 32)
    net = module(root / "examples" / "cvae", "cvae").CVAE(5, 64, 64, baseline)
    y = digits(28, 300, grey=False)
    x = y.clone()
    x[:, :14] = -1
    x[:, :, 14:] = -1
    train(net.model, net.guide, (x, y), 150)
    x, y = x[:rows], y[:rows]
    hidden = (x[0] == -1).flatten()
    with torch.no_grad():
        prior_loc, prior_scale = net.prior_net(x, baseline(x).view(x.shape))

    def elbo(lam: Lam, draws: int) -> Tensor:
        z, log_q = drawn(lam, draws)
        seen = bernoulli(y.flatten(1)[:, hidden], net.generation_net(z)[..., hidden]).sum(-1)
        return seen + normal(z, prior_loc, prior_scale.log()).sum(-1) - log_q

    return Example((x, y), net.model, net.guide, encoded(*net.recognition_net(x, y)), elbo)


def _half_labelled(root: Path) -> tuple[Any, Tensor, Tensor]:
    net = module(root / "examples" / "vae", "ss_vae_M2").SSVAE(z_dim=4, hidden_layers=[48])
    x = digits(28, 300, grey=False).flatten(1)
    y = functional.one_hot(torch.tensor(_digits().target[:300])).float()
    train(net.model, net.guide, (x, y), 100)
    loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    train(net.model, config_enumerate(net.guide, "sequential", expand=True), (x,), 20, loss)
    return net, x, y


def m2_labelled(root: Path, rows: int) -> Example:
    """`vae/ss_vae_M2.py` on pictures with their labels."""
    net, x, y = _half_labelled(root)
    x, y = x[:rows], y[:rows]

    def elbo(lam: Lam, draws: int) -> Tensor:
        z, log_q = drawn(lam, draws)
        probs = net.decoder([z, y.expand(draws, *y.shape)])
        return bernoulli(x, probs).sum(-1) + normal(z, 0, 0).sum(-1) - torch.tensor(10.0).log() - log_q

    return Example((x, y), net.model, net.guide, encoded(*net.encoder_z([x, y])), elbo)


def m2_unlabelled(root: Path, rows: int) -> Example:
    """`vae/ss_vae_M2.py` on pictures alone: lambda of h is another for each label."""
    net, x, _ = _half_labelled(root)
    x, labels = x[:rows], torch.eye(10)
    # Axes (row, label, ...).
    start = encoded(*net.encoder_z([x[:, None].expand(-1, 10, -1), labels.expand(rows, 10, 10)]))
    # The example's softmax is over axis 1, as of a matrix: so of the labels.
    start["logits"] = net.encoder_y(x).detach().log()

    def elbo(lam: Lam, draws: int) -> Tensor:
        z, log_q = drawn(lam, draws)
        probs = net.decoder([z, labels.expand(draws, rows, 10, 10)])
        each = bernoulli(x[:, None], probs).sum(-1) + normal(z, 0, 0).sum(-1) - log_q
        log_y = lam["logits"].log_softmax(-1)
        return (log_y.exp() * (each - torch.tensor(10.0).log() - log_y)).sum(-1)

    return Example((x,), net.model, net.guide, start, elbo)


def flow_prior(root: Path, rows: int) -> Example:
    """The tutorial `vae_flow_prior`: a masked autoregressive flow as the prior."""
    cells = notebook(root / "tutorial/source/vae_flow_prior.ipynb", ["GaussianEncoder", "BernoulliDecoder", "VAE"])
    net = cells.VAE(64, 4)
    x = digits(8, 300, grey=False).flatten(1)
    train(net.model, net.guide, (x,), 60)
    x = x[:rows]
    q = net.encoder(x).base_dist
    prior = net.prior()

    def elbo(lam: Lam, draws: int) -> Tensor:
        z, log_q = drawn(lam, draws)
        return bernoulli(x, net.decoder(z).base_dist.probs).sum(-1) + prior.log_prob(z) - log_q

    return Example((x,), net.model, net.guide, encoded(q.loc, q.scale), elbo, steps=600)


AIR_SIZES = {"num_steps": 2, "x_size": 16, "window_size": 8, "z_what_size": 3, "rnn_hidden_size": 24}


def air(root: Path, rows: int) -> Example:
    """`air/air.py`: up to two objects in a picture; lambda of the second is another where there was no first."""
    source = module(root / "examples" / "air", "air")
    net = source.AIR(**AIR_SIZES, use_baselines=False, encoder_net=[24], decoder_net=[24], decoder_output_bias=-2.0)
    x = digits(16, 200, grey=True)

    def guide(x: Tensor) -> Any:
        return net.guide(x, len(x))

    def model(x: Tensor) -> Any:
        return net.model(x, len(x))

    train(model, guide, (x,), 600)
    x = x[:rows]
    start = {"pres_0": torch.zeros(rows, 1), "pres_1": torch.zeros(rows, 2, 1)}
    for part, size in (("where", 3), ("what", 3)):
        for number in ("loc", "log_scale"):
            start |= {f"{part}_0.{number}": torch.zeros(rows, size), f"{part}_1.{number}": torch.zeros(rows, 2, size)}
    # `what_0` and `where_0` follow the presence of their own step in the order of the programs, not in their lambda.
    return Example((x,), model, guide, start, _elbo_of_air(source, net, x), steps=1500, step=0.03)


def _elbo_of_air(source: Any, net: Any, x: Tensor) -> Elbo:
    """Sum over presence of both steps; offsets to the encoder's answer, by the presence of the step before."""
    count, pixels = len(x), x.flatten(1)
    window, size = AIR_SIZES["window_size"], AIR_SIZES["x_size"]
    sd = torch.as_tensor(net.likelihood_sd)

    def run(lam: Lam, states: tuple[int, int], draws: int) -> tuple[Tensor, Tensor]:
        many = draws * count
        raw = x.expand(draws, *x.shape).flatten(0, 1)
        h, c = net.h_init.expand(many, -1), net.c_init.expand(many, -1)
        where, what = net.z_where_init.expand(many, -1), net.z_what_init.expand(many, -1)
        before, log_q, log_w = torch.ones(many, 1), torch.zeros(many), torch.zeros(many)
        canvas = torch.zeros(many, size, size)
        for t, state in enumerate(states):

            def moved(name: str, value: Tensor, t: int = t) -> Tensor:
                offset = lam[f"{name}"] if t == 0 else lam[f"{name}"][:, states[0]]
                return value + offset.expand(draws, *offset.shape).flatten(0, 1)

            pres = torch.full((many, 1), float(state))
            h, c = net.rnn(torch.cat([raw.flatten(1), where, what, before], 1), (h, c))
            p, loc, scale = net.predict(h)
            eps = torch.finfo(p.dtype).eps
            p = torch.sigmoid(moved(f"pres_{t}", torch.logit((p * before).clamp(eps, 1 - eps))))
            log_state = bernoulli(pres, p).sum(-1)
            log_q, log_w = log_q + log_state, log_w + bernoulli(pres, 0.5 * before).sum(-1) - log_state
            where_loc = moved(f"where_{t}.loc", loc + net.z_where_loc_prior)
            where_log = moved(f"where_{t}.log_scale", (scale * net.z_where_scale_prior).log())
            where = where_loc + where_log.exp() * torch.randn_like(where_loc)
            what_loc, what_scale = net.encode(source.image_to_window(where, window, size, raw))
            what_loc, what_log = moved(f"what_{t}.loc", what_loc), moved(f"what_{t}.log_scale", what_scale.log())
            what = what_loc + what_log.exp() * torch.randn_like(what_loc)
            priors = normal(where, net.z_where_loc_prior, net.z_where_scale_prior.log()).sum(-1)
            priors = priors + normal(what, 0, 0).sum(-1)
            log_w = log_w + state * (priors - normal(where, where_loc, where_log).sum(-1))
            log_w = log_w - state * normal(what, what_loc, what_log).sum(-1)
            canvas = canvas + source.window_to_image(where, window, size, net.decode(what)) * pres[:, :, None]
            before = pres
        log_w = log_w + normal(pixels.expand(draws, -1, -1).flatten(0, 1), canvas.flatten(1), sd.log()).sum(-1)
        return log_q.unflatten(0, (draws, count)), log_w.unflatten(0, (draws, count))

    def elbo(lam: Lam, draws: int) -> Tensor:
        terms = [run(lam, (a, b), draws) for a in (0, 1) for b in (0, 1)]
        return torch.stack([log_q.exp() * log_w for log_q, log_w in terms]).sum(0)

    return elbo
