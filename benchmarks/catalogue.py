"""The workloads by name, briefly fitted, so that their encoders and decoders are like those that users have."""

from collections.abc import Callable

import torch
from safetensors.torch import load_model, save_model
from torch import nn

from benchmarks import data
from benchmarks.laws import Bernoulli, Gaussian, NegativeBinomial
from benchmarks.measure import Settings
from benchmarks.networks import CountDecoder, ImageDecoder, Log1p, dense, image_encoder
from benchmarks.training_peers import hand
from benchmarks.workloads import BATCH, Workload


def small(latent: int = 10) -> Workload:
    """64-128-10, Gaussian law of fixed scale, on the bundled digits: always at hand."""
    rows = data.digits()
    encoder, decoder = dense([64, 128, 2 * latent], nn.Tanh), dense([latent, 128, 64], nn.Tanh)
    title = f"64-128-{latent} Gaussian, digits"
    return Workload("small", title, encoder, decoder, Gaussian(0.2), latent, rows, rows[:1000], steps=100)


def large() -> Workload:
    """784-400-400-50 Bernoulli, for training."""
    return _pictures("large", 400)


def large_gap() -> Workload:
    """784-200-200-50 Bernoulli: the networks of Cremer et al. (2018)."""
    return _pictures("large-gap", 200)


def convolutional() -> Workload:
    """A convolutional Bernoulli decoder of 28 × 28 pictures, 16 latents; 200 rows to be given guides."""
    rows, title = data.mnist("test")[:200], "convolutions-16 Bernoulli, MNIST"
    networks = image_encoder(16), ImageDecoder(16)
    return Workload("convolutional", title, *networks, Bernoulli(), 16, data.mnist("train"), rows, steps=15)


def counts() -> Workload:
    """2000-128-10 negative binomial, shares by softmax, dispersion by gene; 200 rows to be given guides."""
    rows = data.blood_cells()
    encoder = nn.Sequential(Log1p(), *dense([2000, 128, 20], nn.ReLU))
    networks, title = (encoder, CountDecoder([10, 128, 2000])), "2000-128-10 negative binomial, blood cells"
    return Workload("counts", title, *networks, NegativeBinomial(), 10, rows, rows[:200], steps=15)


def _pictures(name: str, width: int) -> Workload:
    networks = dense([784, width, width, 100], nn.Tanh), dense([50, width, width, 784], nn.Tanh)
    title = f"784-{width}-{width}-50 Bernoulli, MNIST"
    rows = data.mnist("test")[:1000]
    return Workload(name, title, *networks, Bernoulli(), 50, data.mnist("train"), rows, steps=20)


WORKLOADS: dict[str, Callable[[], Workload]] = {
    "small": small,
    "large": large,
    "large-gap": large_gap,
    "convolutional": convolutional,
    "counts": counts,
}
_FITTING = {"small": 1500, "large": 400, "large-gap": 1200, "convolutional": 400, "counts": 400}  # training steps


def ready(make: Callable[[], Workload], settings: Settings) -> Workload:
    """A workload on its device, fitted by the hand-written loop; its weights are kept in the cache.

    Raises:
        Missing: its rows are not at hand.
    """
    with torch.random.fork_rng():
        torch.manual_seed(0)
        work = make()
        networks = nn.ModuleDict({"encoder": work.encoder, "decoder": work.decoder})
        # In the name: whatever the weights depend on.
        steps = _FITTING[work.name]
        path = settings.cache / f"{work.title.replace(' ', '_').replace(',', '')}_{steps}.safetensors"
        if path.exists():
            load_model(networks, path)
        else:
            block = hand(work, lr=2e-3)
            for _ in range(-(-steps // work.steps)):
                block()
            for parameter in networks.parameters():
                parameter.grad = None
            path.parent.mkdir(parents=True, exist_ok=True)
            save_model(networks, str(path))
    networks.to(settings.device)
    work.train, work.rows = work.train.to(settings.device), work.rows.to(settings.device)
    return work


def scaled(work: Workload, sizes: dict[str, int]) -> Workload:
    """The workload with as many rows as a section's quick run takes."""
    return work.take(sizes.get(work.name, len(work.rows)))


__all__ = ["BATCH", "WORKLOADS", "ready", "scaled", "small"]
