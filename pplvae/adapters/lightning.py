"""Modules of Lightning as Pyro pairs."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from pplvae.adapters.from_torch import from_torch
from pplvae.adapters.networks import both_methods
from pplvae.adapters.pair import TorchPair
from pplvae.isolate import unwarned


def from_lightning(
    module: Any,
    encoder: Any = None,
    decoder: Any = None,
    *,
    rows: Any,
    batch: Callable[..., Any] | None = None,
    **said: Any,
) -> TorchPair:
    """Make a Pyro pair of a `LightningModule`, and compare its `training_step` with the ELBO.

    Args:
        module: the module; it needs no trainer.
        encoder: its network or method; by default its methods `encode` and `decode` are taken.
        decoder: the same.
        rows: rows on which the pair is tried, and the training step compared.
        batch: from the tensors of the rows to what the step is called with. By default one tensor is a batch as it is,
            and several are a tuple.
        said: what `from_torch` is told: `likelihood`, `encoder_output` and so on.

    Raises:
        ProgramError: see `from_torch`; a step that needs a trainer is compared there by `loss=`.
    """
    encoder, decoder = (encoder, decoder) if decoder is not None else both_methods(module)

    def loss(*tensors: Tensor) -> Any:
        given = batch(*tensors) if batch is not None else _batch(*tensors)
        with unwarned():  # that what is logged goes nowhere without a trainer
            return module.training_step(given, 0)

    return from_torch(encoder, decoder, rows=rows, loss=loss, **said)


def _batch(*tensors: Tensor) -> Any:
    return tensors if len(tensors) > 1 else next(iter(tensors))
