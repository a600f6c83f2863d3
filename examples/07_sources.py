"""Who said what? Four sources in six columns, told apart by noisy independent component analysis.

A sine, a square wave, a sawtooth and a noise with heavy tails are mixed at random, in a little noise. To the model the
rows have no order: it sees shapes of distributions, not waves. Three of the four are flatter than a normal, so that
the prior has to learn their shapes; the fourth is more peaked.

Run it: `python examples/07_sources.py --figure sources.png`.
"""

import argparse
from pathlib import Path

import numpy as np
import pyro
import torch
from sklearn.decomposition import PCA, FastICA

import pplvae
from pplvae.models import ICA, amari_distance

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--rows", type=int, default=1500)
parser.add_argument("--epochs", type=int, default=80, help="of each fit")
parser.add_argument("--fits", type=int, default=3, help="from different turns; the best validation ELBO counts")
parser.add_argument("--figure", type=Path, default=None, help="write the sources, mixed and told apart, here")
arguments = parser.parse_args()

NAMES = ("sine", "square wave", "sawtooth", "heavy tails")
NOISE = 0.1

generator = np.random.default_rng(0)
time = np.arange(arguments.rows)
sine, square = np.sin(2 * np.pi * time / 37.3), np.sign(np.sin(2 * np.pi * time / 53.1))
sources = np.stack([sine, square, 2 * ((time / 29.7) % 1) - 1, generator.laplace(size=len(time))], 1)
sources = (sources - sources.mean(0)) / sources.std(0)
mixing = generator.normal(size=(6, len(NAMES)))
v = torch.from_numpy(sources @ mixing.T + NOISE * generator.normal(size=(len(time), 6)))
held_out = torch.arange(len(v)) % 5 == 0


def fit(seed):
    """One fit, fast and then slowly: the model, and its ELBO on rows that it has not seen, in nats per row."""
    torch.manual_seed(seed)
    ica = ICA.from_rows(v[~held_out], latent=len(NAMES))
    options = {"validation": v[held_out], "batch_size": 100, "objective": "Trace_ELBO", "seed": seed}
    for lr in (0.02, 0.003):
        fitted = pplvae.fit(ica.model, ica.guide, v[~held_out], epochs=arguments.epochs // 2, lr=lr, **options)
    return ica, float(fitted.history["elbo_validation"].sel(epoch=fitted.best_epoch))


fits = [fit(seed) for seed in range(arguments.fits)]
print("Validation ELBO of each fit, nats per row:", ", ".join(f"{elbo:.3f}" for _, elbo in fits))
ica, _ = max(fits, key=lambda pair: pair[1])

fast = FastICA(len(NAMES), random_state=0, whiten="unit-variance", max_iter=1000).fit(v.numpy())
components = PCA(len(NAMES)).fit(v.numpy())
matrices = {"ICA": ica.mixing.detach().numpy(), "FastICA": fast.mixing_, "PCA": components.components_.T}
print("\nAmari distance of the mixing matrix to the true one (0: the same up to order, sign and scale)")
for name, matrix in matrices.items():
    print(f"{name:<8}{float(amari_distance(torch.tensor(matrix), torch.from_numpy(mixing))):.4f}")

print("\nWhat a guide that is Gaussian, and affine in v, costs:")
print(pplvae.compare(ica.model, ica.guide, v[held_out][:100], seed=0))


if arguments.figure:
    from matplotlib.figure import Figure

    from pplvae.plots.style import COLOURS

    with torch.no_grad():
        means = pyro.poutine.trace(ica.guide).get_trace(v).nodes["h"]["fn"].mean.numpy()
    shown = slice(0, 150)
    figure = Figure(figsize=(10, 5.2), layout="constrained")
    panels = figure.subplots(len(NAMES), 3, sharex=True)
    for k, name in enumerate(NAMES):
        panels[k, 0].plot(time[shown], v[shown, k], color="black", linewidth=0.8)
        panels[k, 0].set_ylabel(f"column {k + 1}", fontsize=9)
        for column, found in ((1, means), (2, components.transform(v.numpy()))):
            correlation = [np.corrcoef(each, sources[:, k])[0, 1] for each in found.T]
            nearest = int(np.argmax(np.abs(correlation)))
            estimate = found[:, nearest] / found[:, nearest].std() * np.sign(correlation[nearest])
            axes = panels[k, column]
            axes.set_ylabel(name, fontsize=9)
            axes.plot(time[shown], sources[shown, k], color="lightgrey", linewidth=3)
            axes.plot(time[shown], estimate[shown], color=COLOURS[column - 1], linewidth=0.9)
            axes.set_title(f"correlation {abs(correlation[nearest]):.3f}", fontsize=8, loc="right")
    for axes, title in zip(panels[0], ("mixed", "ICA", "principal components"), strict=True):
        axes.set_title(title, loc="left")
    for axes in panels.flat:
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_yticks([])
    for axes in panels[-1]:
        axes.set_xlabel("row")
    lines = [*panels[0, 1].lines, panels[0, 2].lines[1]]
    labels = ("true source", "nearest latent of ICA", "nearest principal component")
    figure.legend(lines, labels, frameon=False, loc="outside lower center", ncols=3, fontsize=9)
    figure.savefig(arguments.figure, dpi=150)
    print("\nFigure:", arguments.figure)
