"""VAEs written in plain torch, and in libraries built on it, as Pyro pairs."""

from pplvae.adapters.from_torch import from_torch
from pplvae.adapters.pair import TorchPair
from pplvae.adapters.round_trip import RoundTrip

__all__ = ["RoundTrip", "TorchPair", "from_torch"]
