"""Autoencoders of diffusers as Pyro pairs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pplvae.adapters.from_torch import from_torch
from pplvae.adapters.pair import TorchPair
from pplvae.errors import ProgramError


def from_diffusers(
    vae: Any,
    *,
    likelihood: Any,
    scale: Any = None,
    decoder_output: Any = None,
    rows: Any = None,
    loss: Callable[..., Any] | None = None,
) -> TorchPair:
    """Make a Pyro pair of an `AutoencoderKL` of diffusers, or another of its autoencoders with a Gaussian encoder.

    These are mostly trained by perceptual and adversarial losses, and a tiny weight of the KL term. A likelihood must
    be declared; the ELBO under it, and the gap, are those of your declaration and not of that training. Latents are
    those before the pipelines' `scaling_factor`.

    Args:
        vae: the autoencoder.
        likelihood: p(v | h), as in `from_torch`: "gaussian" with `scale` for pictures in [-1, 1], say.
        scale: of that likelihood.
        decoder_output: what the decoder gives, as in `from_torch`.
        rows: pictures on which the pair is tried at once, and the loss compared.
        loss: your own loss, as in `from_torch`.

    Raises:
        ProgramError: an autoencoder whose encoder gives no distribution; no likelihood.
    """
    return from_torch(
        vae.encode,
        vae.decode,
        likelihood=likelihood,
        scale=scale,
        encoder_output=moments,
        decoder_output=decoder_output,
        rows=rows,
        loss=loss,
    )


def moments(output: Any) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of an encoder's output of diffusers.

    Raises:
        ProgramError: it is no distribution.
    """
    found = getattr(output, "latent_dist", None)
    if found is None or not hasattr(found, "std"):
        raise ProgramError(
            f"The encoder gives {type(output).__name__} without `latent_dist`: it is deterministic or has a codebook, "
            "so that there is no density q(h | v), no ELBO and no gap."
        )
    return found.mean, found.std
