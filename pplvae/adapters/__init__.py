"""VAEs written in plain torch, and in libraries built on it, as Pyro pairs.

`from_torch` is the statement; the others say to it what a library's models have in common. None of those libraries is
needed, or imported: what they made is passed in.
"""

from pplvae.adapters.diffusers import from_diffusers
from pplvae.adapters.from_torch import from_torch
from pplvae.adapters.lightning import from_lightning
from pplvae.adapters.pair import TorchPair
from pplvae.adapters.pythae import from_pythae
from pplvae.adapters.round_trip import RoundTrip
from pplvae.adapters.scvi import ScviPair, from_scvi

__all__ = [
    "RoundTrip",
    "ScviPair",
    "TorchPair",
    "from_diffusers",
    "from_lightning",
    "from_pythae",
    "from_scvi",
    "from_torch",
]
