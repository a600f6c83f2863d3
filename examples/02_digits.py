"""A Bernoulli VAE of the digits: what does its encoder cost, on the rows it was trained on and on others?

Run it: `python examples/02_digits.py`. It writes digits.nc and digits.html.
"""

import argparse
from pathlib import Path

import torch

import pplvae

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--epochs", type=int, default=300)
parser.add_argument("--rows", type=int, default=None, help="compare so many rows of each part; all by default")
parser.add_argument("--out", type=Path, default=Path("runs/digits"))
arguments = parser.parse_args()

torch.manual_seed(0)
data = pplvae.load_data("digits", seed=0)
vae = pplvae.models.BernoulliVAE(visible=64, latent=8)
fit = pplvae.fit(
    vae.model, vae.guide, data.train, validation=data.valid, epochs=arguments.epochs, seed=0, progress=True
)
print(fit)

parts = {"train": data.train[: arguments.rows], "test": data.test[: arguments.rows]}
gap = pplvae.compare(fit.model, fit.guide, parts, seed=0, progress=True)
print(gap)
gap.save(arguments.out / "digits.nc")
print("Page:", gap.report(arguments.out / "digits.html", history=fit.history, settings=fit.settings))

held_out = gap.summary().sel(part="test", term="amortisation_gap")
print(f"Held-out amortisation gap: {float(held_out['mean']):.3f} ± {float(held_out['stderr']):.3f} nats per row")
assert float(held_out["mean"]) > 3 * float(held_out["stderr"])
