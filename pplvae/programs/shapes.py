"""Shapes that many files speak of; axes are checked at run time in tests."""

from jaxtyping import Float
from torch import Tensor

PerRow = Float[Tensor, " row"]
PerDraw = Float[Tensor, "particle row"]
Vectors = Float[Tensor, "particle row element"]  # latents of a row side by side, as real numbers
Matrices = Float[Tensor, "row element element"]
Lambda = dict[str, Tensor]  # by parameter, unconstrained, rows first: lambda itself, or offsets from it
