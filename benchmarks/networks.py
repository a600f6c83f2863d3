"""Encoders, from rows to (mean, log scale) side by side, and decoders, from latents to what the law of v needs."""

import torch
from torch import Tensor, nn


def dense(widths: list[int], activation: type[nn.Module]) -> nn.Sequential:
    """A multilayer perceptron.

    Args:
        widths: of the input, the hidden layers and the output.
        activation: between layers.
    """
    layers: list[nn.Module] = []
    for i in range(len(widths) - 1):
        layers += [nn.Linear(widths[i], widths[i + 1]), activation()]
    return nn.Sequential(*layers[:-1])


class Log1p(nn.Module):
    """log(1 + v), so that an encoder sees counts of any size."""

    def forward(self, v: Tensor) -> Tensor:
        """The same shape."""
        return torch.log1p(v)


class ImageDecoder(nn.Module):
    """From latents to the 784 logits of a 28 × 28 picture, by transposed convolutions.

    Args:
        latent: numbers in h.
    """

    def __init__(self, latent: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(latent, 32 * 7 * 7),
            nn.ReLU(),
            nn.Unflatten(-1, (32, 7, 7)),
            nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1),
            nn.ReLU(),
            nn.ConvTranspose2d(16, 1, 4, stride=2, padding=1),
            nn.Flatten(),
        )

    def forward(self, h: Tensor) -> Tensor:
        """Axes (..., latent) to (..., 784): convolutions take one leading axis only."""
        return self.layers(h.reshape(-1, h.shape[-1])).reshape(*h.shape[:-1], -1)


def image_encoder(latent: int) -> nn.Sequential:
    """From the 784 columns of a picture to 2 × `latent` numbers."""
    return nn.Sequential(
        nn.Unflatten(-1, (1, 28, 28)),
        nn.Conv2d(1, 16, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Conv2d(16, 32, 4, stride=2, padding=1),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(32 * 7 * 7, 2 * latent),
    )


class CountDecoder(nn.Module):
    """From latents to the log shares of the columns, and a dispersion for each.

    Args:
        widths: see `dense`.
    """

    def __init__(self, widths: list[int]) -> None:
        super().__init__()
        self.layers = dense(widths, nn.ReLU)
        self.log_dispersion = nn.Parameter(torch.zeros(widths[-1]))

    def forward(self, h: Tensor) -> Tensor:
        """Axes (..., latent) to (..., column); the shares of a row sum to one."""
        return self.layers(h).log_softmax(-1)
