"""Cremer, Li and Duvenaud (2018), scaled down: what encoders, decoders and families cost on binarised MNIST.

Four VAEs are fitted: the usual one, one with a larger encoder, one with a deeper decoder, one with a flow for a guide.
Each is compared on training and held-out rows; the flow's decoder with a factorised guide, trained to it afterwards.
Without --data the digits that come with scikit-learn stand in, at a size that takes a minute.
"""

import argparse
from pathlib import Path

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions.transforms import affine_autoregressive
from torch import nn

import pplvae
from pplvae.guides import FactorisedGaussian
from pplvae.likelihoods import Bernoulli
from pplvae.models.vae import VAE
from pplvae.nets import MLP
from pplvae.priors import StandardNormal

KINDS = ("base", "larger_encoder", "deeper_decoder", "flow")


class Flow(nn.Module):
    """A Gaussian bent by two inverse autoregressive steps; the Gaussian's parameters are lambda."""

    def __init__(self, visible, latent, hidden):
        super().__init__()
        self.encoder = MLP(visible, hidden, [latent, latent])
        self.steps = nn.ModuleList(affine_autoregressive(latent, hidden_dims=[200], stable=True) for _ in range(2))

    def forward(self, v):
        """q(h; lambda(v))."""
        loc, log_scale = self.encoder(v)
        loc, log_scale = pplvae.local("loc", loc), pplvae.local("log_scale", log_scale)
        return dist.TransformedDistribution(dist.Normal(loc, log_scale.exp()).to_event(1), [*self.steps])


def vae_of(kind, visible, latent):
    encoder = [500, 500] if kind == "larger_encoder" else [200, 200]
    decoder = MLP(latent, [200] * (4 if kind == "deeper_decoder" else 2), [visible])
    family = Flow if kind == "flow" else FactorisedGaussian
    return VAE(visible, StandardNormal(latent), decoder, Bernoulli(), family(visible, latent, encoder))


def rows_of(path):
    if path is None:
        data = pplvae.load_data("digits", seed=0)
        return {"train": data.train.values, "valid": data.valid.values, "held-out": data.test.values}, 8
    packed = np.load(path)
    names = {"train": "x_train", "valid": "x_valid", "held-out": "x_test"}
    return {n: torch.from_numpy(np.unpackbits(packed[key], axis=1)).float() for n, key in names.items()}, 50


def measured(kind, parts, latent, options):
    """The comparison of one VAE, as a summary."""
    torch.manual_seed(0)
    vae = vae_of(kind, parts["train"].shape[1], latent)
    objective = "Trace_ELBO" if kind == "flow" else "TraceMeanField_ELBO"
    run = None if options.runs is None else options.runs / kind
    fitted = pplvae.fit(
        vae.model, vae.guide, parts["train"], validation=parts["valid"][:1000], objective=objective,
        epochs=options.epochs, batch_size=200, run=run, existing="resume",
    )  # fmt: skip
    print(f"{kind}: validation ELBO {float(fitted.history['elbo_validation'].max()):.2f} nats per row", flush=True)
    guide = fitted.guide
    if kind == "flow":
        after = VAE(vae.visible, vae.prior, vae.decoder, vae.likelihood, vae_of("base", vae.visible, latent).family)
        settings = {"train": "guide", "epochs": max(1, options.epochs // 3), "batch_size": 200}
        guide = pplvae.fit(after.model, after.guide, parts["train"], **settings).guide
    some = {name: parts[name][: options.rows] for name in ("train", "held-out")}
    annealing = pplvae.Annealing(particles=16, temperatures=options.temperatures)
    result = pplvae.compare(fitted.model, guide, some, evidence="ais", annealing=annealing, particles=500)
    print(result, flush=True)
    return result


def main():
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument(
        "--data", type=Path, help="mnist_static_binarized.npz: bits packed, x_train, x_valid, x_test"
    )
    arguments.add_argument("--epochs", type=int, default=60)
    arguments.add_argument("--rows", type=int, default=100, help="of each part that are compared")
    arguments.add_argument("--temperatures", type=int, default=100)
    arguments.add_argument("--runs", type=Path, help="folder for the fits, taken up again where it has them")
    options = arguments.parse_args()
    parts, latent = rows_of(options.data)
    found = {kind: measured(kind, parts, latent, options) for kind in KINDS}

    def gap(kind, part, term):
        line = found[kind].summary().sel(part=part, term=term)
        return float(line["mean"]), float(line["stderr"])

    def paired(kind, other, part, term):
        difference = found[kind].part(part)[term].values - found[other].part(part)[term].values
        return difference.mean(), difference.std(ddof=1) / np.sqrt(len(difference))

    train, held_out = (gap("base", part, "amortisation_gap") for part in ("train", "held-out"))
    lines = {
        "amortisation gap, held-out": held_out,
        "held-out minus train": (held_out[0] - train[0], np.hypot(held_out[1], train[1])),
        "train gap, larger encoder minus base": paired("larger_encoder", "base", "train", "amortisation_gap"),
        "approximation gap, deeper decoder minus base": paired("deeper_decoder", "base", "train", "approximation_gap"),
        "approximation gap, flow's decoder minus base": paired("flow", "base", "train", "approximation_gap"),
    }
    for name, (nats, stderr) in lines.items():
        print(f"{name:<46} {nats:>7.2f} ± {stderr:.2f} nats per row")


if __name__ == "__main__":
    main()
