"""How noisy is the gradient of each objective? All of them on one model, at the same number of draws.

A VAE of the binary digits is fitted for a while, and the gradient for one batch computed many times over with fresh
draws, at the start and after the fit. Printed is the noise: the variance of a gradient, summed over the parameters of
the encoder, or of the decoder, per squared length of the mean gradient of the ELBO after the fit. Objectives with
another target (IWAE, Rényi, InfoVAE, free bits) have another gradient, too; their noise is in the same units.

Run it: `python examples/12_gradient_noise.py --figure noise.png`.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from matplotlib.figure import Figure

import pplvae
from pplvae import plots
from pplvae.isolate import isolated
from pplvae.models import BernoulliVAE
from pplvae.objectives import OBJECTIVES, Objective, named_objective
from pplvae.programs.batch import Batch
from pplvae.programs.inspection import inspect_pair

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--particles", type=int, default=4, help="draws per row and gradient")
parser.add_argument("--repeats", type=int, default=100, help="gradients of each objective")
parser.add_argument("--figure", type=Path, default=None, help="draw them here")
arguments = parser.parse_args()


def gradients(objective, vae, v, repeats):
    """Gradients of one batch, one line each, for the encoder and for the decoder."""
    parts = {"encoder": list(vae.family.parameters()), "decoder": list(vae.decoder.parameters())}
    everything = [p for part in parts.values() for p in part]
    layout, batch = inspect_pair(vae.model, vae.guide, (v,)), Batch.of((v,))
    given = vae.model, vae.guide, layout, batch
    by_pyro = objective.reason_for_pyro(*given)
    found = {name: [] for name in parts}
    for _ in range(repeats):
        if by_pyro:
            objective.backward(*given, everything, 1 / len(v), 1.0)
        else:
            vae.zero_grad()
            objective.loss(*given, 1 / len(v), 1.0).backward()
        for name, part in parts.items():
            found[name].append(torch.cat([p.grad.flatten() for p in part]).double())
    return {name: torch.stack(lines) for name, lines in found.items()}


def noise(lines):
    """Variance summed over parameters, and its standard error over repeats."""
    squares = (lines - lines.mean(0)).square().sum(1) * len(lines) / (len(lines) - 1)
    return squares.mean(), squares.std() / len(squares) ** 0.5


torch.manual_seed(0)
data = pplvae.load_data("digits", seed=0)
vae, v = BernoulliVAE(64, 8), data.train.values[:100]
measured = {}
for stage in ("at the start", "fitted"):
    if stage == "fitted":
        pplvae.fit(vae.model, vae.guide, data, epochs=arguments.epochs, seed=0)
    for name in OBJECTIVES:
        if name == "TraceEnum_ELBO":  # the same as TraceGraph_ELBO where nothing is enumerated
            continue
        with isolated(1):
            found = gradients(Objective(named_objective(name, arguments.particles)), vae, v, arguments.repeats)
        measured[name, stage] = {part: noise(lines) for part, lines in found.items()}
        if (name, stage) == ("TraceMeanField_ELBO", "fitted"):
            unit = {part: lines.mean(0).square().sum() for part, lines in found.items()}

print(
    f"Noise of one gradient, {arguments.particles} draws per row (units: squared length of the fitted ELBO's gradient)"
)
stages = ("at the start", "fitted")
print(f"{'':<22}" + "".join(f"{f'{part}, {stage}':>24}" for part in unit for stage in stages))
names = list(dict.fromkeys(name for name, _ in measured))
for name in names:
    values = [[x / unit[part] for x in measured[name, stage][part]] for part in unit for stage in stages]
    print(f"{name:<22}" + "".join(f"{f'{float(mean):.3g} ± {float(error):.1g}':>24}" for mean, error in values))

if arguments.figure:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for panel, part in zip(figure.subplots(1, 2, sharey=True), unit, strict=True):
        both = np.array([[measured[name, stage][part] for stage in stages] for name in names]) / float(unit[part])
        columns = {key: (("objective", "stage"), both[..., k]) for k, key in enumerate(("mean", "stderr"))}
        about = {"unit": f"{part}'s squared mean gradient"}
        plots.gradient_noise(xr.Dataset(columns, {"objective": names, "stage": list(stages)}, about), ax=panel)
    figure.savefig(arguments.figure, dpi=150)
    print("Figure:", arguments.figure)
