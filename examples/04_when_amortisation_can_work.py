"""When can one encoder serve all rows? Margossian and Blei (UAI 2024, arXiv 2307.11018), sections 4.2 and 4.3.

Where rows share nothing but θ, the best q(h) of a row depends on its own v alone: a rich enough inference function of v
closes the amortisation gap. θ is fixed at the truth: one model, one optimum for all inference functions. What came out
is in docs/when_amortisation_can_work.md. Run it: `python examples/04_when_amortisation_can_work.py`.
"""

import argparse

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from matplotlib.figure import Figure
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pplvae

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rows", type=int, default=1000, help="training rows; half as many are held out")
parser.add_argument("--seeds", type=int, default=5, help="of the encoder's first weights and of the fit; data stay")
parser.add_argument("--epochs", type=int, default=300, help="passes over the rows at each of three learning rates")
parser.add_argument("--degrees", type=int, nargs="+", default=[0, 1, 2], help="of the polynomials")
parser.add_argument("--widths", type=int, nargs="+", default=[1, 2, 4, 8, 16], help="of the networks")
parser.add_argument("--figure", help="where to write the figure")
arguments = parser.parse_args()

torch.set_default_dtype(torch.float64)
THETA, TAU, SIGMA = 0.5, 1.155, 2.43  # τ and σ as in the paper's code
TOLERANCE = 0.01  # nats per row: a mean gap below it is called closed
ELBO = TraceMeanField_ELBO(num_particles=10, vectorize_particles=True, max_plate_nesting=1)
FIT = {"objective": ELBO, "epochs": arguments.epochs, "batch_size": 250}


def linear(h):
    return THETA + TAU * h, torch.full_like(h, SIGMA)


def nonlinear(h):
    # The scale is that of the paper's code. With the paper's formula, variance cos² h, no Gaussian q has a finite ELBO.
    return THETA + h * (1 + torch.sin(h)), torch.exp(torch.cos(h))


def polynomial(degree):
    return lambda v: (v.unsqueeze(-1) / 3) ** torch.arange(degree + 1), nn.Linear(degree + 1, 1, bias=False)


def network(width):
    layers = [nn.Linear(1, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, 1)]
    return lambda v: v.unsqueeze(-1), nn.Sequential(*layers)


def make_pair(likelihood, inference, size):
    """A model p(v, h), a guide q(h; λ(v)) with one net for the mean and one for the log scale, and λ itself."""
    (features, net), (_, other) = inference(size), inference(size)
    nets = nn.ModuleList([net, other])

    def encode(v):
        loc, log_scale = (each(features(v)).squeeze(-1) for each in nets)
        return loc, log_scale.exp()

    def model(v):
        with pyro.plate("data", len(v)):
            h = pyro.sample("h", dist.Normal(torch.zeros_like(v), 1.0))
            pyro.sample("v", dist.Normal(*likelihood(h)), obs=v)

    def guide(v):
        pyro.module("nets", nets)
        with pyro.plate("data", len(v)):
            pyro.sample("h", dist.Normal(*encode(v)))  # a constant at degree 0, on purpose; pplvae: ignore[PV270]

    return model, guide, encode


def exact_elbo(likelihood, v, loc, scale):
    """ELBO of N(loc, scale²) per row by quadrature, which one latent number allows; log p(v | h) is quadratic in v."""
    nodes = torch.linspace(-7, 7, 201)
    weights = torch.softmax(-(nodes**2) / 2, 0)
    mean, noise = likelihood(loc.unsqueeze(-1) + scale.unsqueeze(-1) * nodes)
    square, cross, rest = ((term / noise**2) @ weights for term in (torch.ones_like(mean), mean, mean**2))
    fit = -0.5 * (square * v**2 - 2 * cross * v + rest + np.log(2 * np.pi)) - noise.log() @ weights
    return fit - 0.5 * (loc**2 + scale**2 - 1) + scale.log()


def best_elbo(likelihood, v):
    """Every row's highest ELBO, and the highest mean ELBO of one q(h) for all: in closed form, or on a fine grid."""
    if likelihood is linear:
        oracle, v = pplvae.models.FactorAnalysis(visible=1, latent=1), v.unsqueeze(-1)
        for parameter, value in ((oracle.factors, TAU), (oracle.mean, THETA), (oracle.log_noise, np.log(SIGMA**2))):
            nn.init.constant_(parameter, value)
        loc, scale = oracle.best_factorised(v)
        return oracle.elbo(v, loc, scale).detach(), oracle.elbo(v, loc.mean(0).expand_as(loc), scale).mean()
    loc, best, shared = torch.linspace(-4, 4, 801), torch.full_like(v, -np.inf), torch.tensor(-np.inf)
    for scale in torch.linspace(np.log(0.1), np.log(1.5), 136).exp():
        elbo = exact_elbo(likelihood, v.unsqueeze(-1), loc, scale.expand_as(loc))
        best, shared = best.maximum(elbo.amax(-1)), shared.maximum(elbo.mean(0).max())
    return best, shared


def gaps_of(likelihood, inference, size, seed, parts, best):
    """By part: the gap of every row as measured, and the exact mean gap after each of the learning rates."""
    torch.manual_seed(seed)
    model, guide, encode = make_pair(likelihood, inference, size)
    exact = {part: [] for part in parts}
    for stage, lr in enumerate((1e-2, 3e-3, 1e-3)):
        fit = pplvae.fit(model, guide, parts["train"], lr=lr, seed=3 * seed + stage, **FIT)
        model, guide = fit.model, fit.guide
        for part, v in parts.items():
            exact[part].append((best[part][0] - exact_elbo(likelihood, v, *encode(v))).mean().item())
    comparison = pplvae.amortisation_gap(model, guide, parts)
    return {part: (comparison.part(part)["amortisation_gap"].values, exact[part]) for part in parts}


def draw(axes, place, part, measured, exact, stderr):
    colour, place = ("#0072B2", place - 0.18) if part == "train" else ("#D55E00", place + 0.18)
    axes.errorbar(place - 0.07, measured.mean(), 2 * stderr, fmt="D", color=colour, label=f"{part}: mean ± 2 s.e.")
    axes.plot(np.full(len(measured), place), measured, ".", color=colour, alpha=0.6, label=f"{part}: each seed")
    axes.plot(np.full(len(exact), place + 0.07), exact, "_", color="black", label="exact: each seed")


figure = Figure(figsize=(9, 4.2), layout="constrained")
left, right = figure.subplots(1, 2, sharey=True)
for axes, likelihood, inference, sizes, label in (
    (left, linear, polynomial, arguments.degrees, "linear model: degree of the polynomial"),
    (right, nonlinear, network, arguments.widths, "nonlinear model: width of the networks"),
):
    torch.manual_seed(0)
    counts = {"train": arguments.rows, "test": arguments.rows // 2}
    parts = {part: torch.normal(*likelihood(torch.randn(count))) for part, count in counts.items()}
    best = {part: best_elbo(likelihood, v) for part, v in parts.items()}
    constant = ", ".join(f"{part} {highest.mean() - shared:.4f}" for part, (highest, shared) in best.items())
    print(f"\n{label}; nats per row, closed below {TOLERANCE}; exact gap of the best constant: {constant}")
    print(f"{'gap ± standard error':>30}{'seeds':>15}{'closed':>12}   exact, after each learning rate  closed")
    for place, size in enumerate(sizes):
        runs = [gaps_of(likelihood, inference, size, seed, parts, best) for seed in range(arguments.seeds)]
        for part in parts:
            gaps, exact = (np.array([run[part][i] for run in runs]) for i in (0, 1))
            stderr = gaps.mean(0).std(ddof=1) / gaps.shape[1] ** 0.5  # of the mean over rows, seeds averaged
            means, final, after = gaps.mean(1), exact[:, -1], "".join(f"{gap:>10.4f}" for gap in exact.mean(0))
            line = f"{size:>4} {part:<8}{gaps.mean():>8.4f} ± {stderr:.4f}{means.min():>10.4f} … {means.max():.4f}"
            print(f"{line}{(means < TOLERANCE).sum():>7}/{len(runs)}{after}{(final < TOLERANCE).sum():>8}/{len(runs)}")
            draw(axes, place, part, means, final, stderr)
    axes.axhspan(-TOLERANCE, TOLERANCE, color="black", alpha=0.08, linewidth=0, label="called closed")
    axes.set(xlabel=label, ylabel="gap (nats per row)", xticks=range(len(sizes)), xticklabels=sizes)
    axes.set_yscale("symlog", linthresh=TOLERANCE / 10, linscale=0.3)
if arguments.figure:
    handles = dict(zip(*left.get_legend_handles_labels()[::-1], strict=True))
    figure.legend(handles.values(), handles, loc="outside upper center", ncols=3, frameon=False)
    figure.savefig(arguments.figure, dpi=150)
