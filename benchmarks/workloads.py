"""What is measured: rows, a Pyro pair and its parameters, the same for every competitor."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

import pplvae

MNIST = Path(__file__).parents[2] / "shared" / "data" / "mnist_static_binarized" / "mnist_static_binarized.npz"


@dataclass
class Workload:
    """A fitted pair and rows to compare it on."""

    name: str
    vae: pplvae.models.VAE
    train: torch.Tensor
    rows: torch.Tensor


def digits(epochs: int = 150) -> Workload:
    """64-128-8 Bernoulli VAE of the bundled digits."""
    data = pplvae.load_data("digits", seed=0)
    torch.manual_seed(0)
    vae = pplvae.models.BernoulliVAE(64, 8, hidden=[128])
    pplvae.fit(vae.model, vae.guide, data.train, epochs=epochs, seed=0)
    return Workload("digits 64-128-8", vae, data.train.values, data.test.values[:200])


def mnist(epochs: int = 3) -> Workload | None:
    """784-200-200-50 Bernoulli VAE of static binarised MNIST; None where the data are not at hand."""
    if not MNIST.exists():
        return None
    archive = np.load(MNIST)
    order = np.random.default_rng(0).permutation(10_000)[:100]  # its test rows are sorted by digit
    train, test = (np.unpackbits(archive[name], axis=1) for name in ("x_train", "x_test"))
    rows = torch.as_tensor(test[order], dtype=torch.float32)
    torch.manual_seed(0)
    vae = pplvae.models.BernoulliVAE(784, 50, hidden=[200, 200])
    v = torch.as_tensor(train[:20_000], dtype=torch.float32)
    pplvae.fit(vae.model, vae.guide, v, epochs=epochs, seed=0)
    return Workload("mnist 784-200-200-50", vae, v, rows)
