"""What refining lambda wins, and what it costs: iterative and semi-amortised guides of the digits.

A VAE is fitted with a modest encoder, of 16 hidden units, so that there is a gap worth closing. Its decoder is then
held fixed, and three guides go on from its encoder for the same number of epochs: the encoder alone, and two ways of
refining its answer row by row. The gaps are those of held-out rows. What an evaluation costs is set against an encoder
that is as small as they come: beside a large one, the same refinement costs fewer times as much.

With --figure the same is done with two latents, and drawn as in figure 1 of Marino et al. (2018): one row's ELBO over
its two means (at the scales of its own optimum), the way of each guide from the encoder's estimate, and the optimum.

Run it: `python examples/08_iterative.py --figure refinement.png`.
"""

import argparse
import copy
import time
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

import pplvae
from pplvae.guides import FactorisedGaussian, Iterative, SemiAmortised
from pplvae.models import VAE, composed_vae
from pplvae.plots.style import COLOURS, WIDTH

HIDDEN = [16]  # of the encoder
PLAIN = "encoder alone"
RULES = {"iterative": Iterative, "semi-amortised": SemiAmortised}


def guides_of(data, latent, epochs, more_epochs):
    """One decoder with three guides, and the fits of these: by name, a VAE and a `Fit`."""
    torch.manual_seed(0)
    base = composed_vae(64, latent, [128], guide=FactorisedGaussian(64, latent, HIDDEN))
    pplvae.fit(base.model, base.guide, data.train, validation=data.valid, epochs=epochs, lr=2e-3, seed=0)
    parts = base.prior, base.decoder, base.likelihood
    families = {PLAIN: FactorisedGaussian(64, latent, HIDDEN)}
    families |= {name: rule(64, latent, [64], *parts) for name, rule in RULES.items()}
    found = {}
    for name, family in families.items():
        family.encoder = copy.deepcopy(base.family.encoder)
        vae = VAE(64, *parts, family)
        settings = {"train": "guide", "validation": data.valid, "epochs": more_epochs, "seed": 1}
        found[name] = vae, pplvae.fit(vae.model, vae.guide, data.train, **settings)
    return found


def seconds(found, v, repeats=9):
    """Median time of one evaluation of each guide on 1000 rows, in turn so that other load meets all alike."""
    v = v[torch.arange(1000) % len(v)]
    times = {name: [] for name in found}
    with torch.no_grad():
        for _ in range(repeats):
            for name, (_, fit) in found.items():
                began = time.perf_counter()
                fit.guide(v)
                times[name].append(time.perf_counter() - began)
    return {name: float(np.median(some)) for name, some in times.items()}


def print_table(found, rows, times, particles):
    gaps = {}
    for name, (_, fit) in found.items():
        result = pplvae.amortisation_gap(fit.model, fit.guide, rows, particles=particles, chunk_size=50, seed=0)
        gaps[name] = result.rows["amortisation_gap"].values
    print(f"Amortisation gap of {len(rows)} held-out rows, nats per row (± standard error over rows, paired)")
    print(f"{'':<16} {'gap':>15}   {'less than alone':>15}   {'s / 1000 rows':>13}   {'cost':>6}")
    for name, gap in gaps.items():
        less, cost = gaps[PLAIN] - gap, times[name] / times[PLAIN]
        print(f"{name:<16} {estimate(gap)}   {estimate(less)}   {times[name]:>13.4f}   {cost:>5.0f}×")


def estimate(values):
    return f"{values.mean():>7.3f} ± {values.std(ddof=1) / len(values) ** 0.5:.3f}"


def draw(found, rows, path):
    """The row with the largest gap of the encoder alone, seen by both ways of refining."""
    _, fit = found[PLAIN]
    result = pplvae.amortisation_gap(fit.model, fit.guide, rows, particles=200, seed=0)
    odd = int(result.rows["amortisation_gap"].values.argmax())
    own = result.parameters.isel(row=odd).sel(guide="local")
    optimum, scale = (torch.as_tensor(own[f"h.{name}"].values, dtype=rows.values.dtype) for name in ("loc", "scale"))
    v = rows.values[[odd]]
    paths = {}
    for name in RULES:
        with torch.no_grad():
            paths[name] = torch.cat(found[name][0].family.path(v, v))[:, :2]
    seen = torch.cat([*paths.values(), optimum.unsqueeze(0)])
    centre, reach = (seen.amax(0) + seen.amin(0)) / 2, 0.5 * (seen.amax(0) - seen.amin(0)).max() + 0.4
    axis = torch.linspace(-1, 1, 41) * reach
    grid = centre + torch.cartesian_prod(axis, axis)
    vae = found[PLAIN][0]
    judge = SemiAmortised(64, 2, HIDDEN, vae.prior, vae.decoder, vae.likelihood, particles=100)
    with torch.no_grad():
        lam = torch.cat([grid, scale.log().expand_as(grid)], -1)
        elbo = judge.elbo(lam, v.expand(len(lam), -1)).reshape(41, 41).numpy()
    figure = Figure(figsize=(WIDTH, 3.6), layout="constrained")
    panels = figure.subplots(1, 2, sharex=True, sharey=True)
    x, y = (centre[k] + axis for k in (0, 1))
    for panel, (name, way), colour in zip(panels, paths.items(), COLOURS, strict=False):
        levels = elbo.max() - np.geomspace(0.05, max(1.0, float(np.ptp(elbo))), 14)[::-1]
        panel.contour(x, y, elbo.T, levels=levels, colors="0.7", linewidths=0.8, linestyles="solid")
        panel.plot(*way.T, "o-", color=colour, markersize=4, label="refinement")
        panel.plot(*way[0], "s", color="black", label="encoder's estimate")
        panel.plot(*optimum, "*", color=COLOURS[4], markersize=13, markeredgecolor="black", label="the row's optimum")
        panel.set(title=name, xlabel="μ₁", aspect="equal")
        panel.legend(fontsize=7)
    panels[0].set_ylabel("μ₂")
    figure.savefig(path, dpi=150)
    print("Figure:", path)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=60, help="of the decoder with the plain encoder")
    parser.add_argument("--more-epochs", type=int, default=20, help="of each guide, the decoder held fixed")
    parser.add_argument("--rows", type=int, default=80, help="held-out rows that are compared")
    parser.add_argument("--particles", type=int, default=100, help="draws per row for scoring")
    parser.add_argument("--figure", type=Path, default=None, help="write the paths with two latents here")
    options = parser.parse_args()
    data = pplvae.load_data("digits", seed=0)
    found = guides_of(data, 8, options.epochs, options.more_epochs)
    print_table(found, data.test[: options.rows], seconds(found, data.train.values), options.particles)
    if options.figure:
        draw(
            guides_of(data, 2, options.epochs // 2, options.more_epochs // 2), data.test[: options.rows], options.figure
        )


if __name__ == "__main__":
    main()
