"""How noisy is the gradient of each objective? All of them on one model, at the same number of draws.

A VAE of the binary digits is fitted for a while, and the gradient for one batch computed many times over with fresh
draws, at the start and after the fit. Printed is the noise: the variance of a gradient, summed over the parameters of
the encoder, or of the decoder, per squared length of the mean gradient of the ELBO after the fit. Objectives with
another target (IWAE, Rényi, InfoVAE, free bits) have another gradient, too; their noise is in the same units.

Run it: `python examples/12_gradient_noise.py --figure noise.png`.
"""

import argparse
from pathlib import Path

import torch
import xarray as xr
from matplotlib.figure import Figure

import pplvae
from pplvae import plots
from pplvae.models import BernoulliVAE
from pplvae.objectives import OBJECTIVES

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--epochs", type=int, default=100)
parser.add_argument("--particles", type=int, default=4, help="draws per row and gradient")
parser.add_argument("--repeats", type=int, default=100, help="gradients of each objective")
parser.add_argument("--figure", type=Path, default=None, help="draw them here")
arguments = parser.parse_args()

torch.manual_seed(0)
data = pplvae.load_data("digits", seed=0)
vae, v = BernoulliVAE(64, 8), data.train.values[:100]
names = [name for name in OBJECTIVES if name != "TraceEnum_ELBO"]  # TraceGraph_ELBO, where nothing is enumerated
asked = {"objectives": names, "particles": arguments.particles, "repeats": arguments.repeats, "seed": 1}
at_the_start = pplvae.gradient_noise(vae.model, vae.guide, v, **asked)
pplvae.fit(vae.model, vae.guide, data, epochs=arguments.epochs, seed=0)
fitted = pplvae.gradient_noise(vae.model, vae.guide, v, **asked)
unit = fitted["squared_mean"].sel(objective="TraceMeanField_ELBO", drop=True)
stages = xr.concat([at_the_start, fitted], xr.DataArray(["at the start", "fitted"], dims="stage", name="stage"))
noise = stages[["variance", "variance_stderr"]] / unit

print(
    f"Noise of one gradient, {arguments.particles} draws per row (units: squared length of the fitted ELBO's gradient)"
)
columns = [noise.sel(side=side, stage=stage) for side in noise["side"].values for stage in noise["stage"].values]
print(f"{'':<22}" + "".join(f"{f'{column.side.item()}, {column.stage.item()}':>24}" for column in columns))
for name in names:
    values = [[float(x) for x in column.sel(objective=name).data_vars.values()] for column in columns]
    print(f"{name:<22}" + "".join(f"{f'{variance:.3g} ± {stderr:.1g}':>24}" for variance, stderr in values))

if arguments.figure:
    figure = Figure(figsize=(10, 4.5), layout="constrained")
    for panel, side in zip(figure.subplots(1, 2, sharey=True), noise["side"].values, strict=True):
        plots.gradient_noise(noise.sel(side=side).assign_attrs(unit=f"{side}'s squared mean gradient"), ax=panel)
    figure.savefig(arguments.figure, dpi=150)
    print("Figure:", arguments.figure)
