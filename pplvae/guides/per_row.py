"""A guide without an encoder: lambda_i of every row it was made with, in a table (eq. 28 of the lecture)."""

import pyro.distributions as dist
import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn
from torch.distributions import Distribution

from pplvae.errors import DataError, ShapeError
from pplvae.programs.keys import row_keys

Visible = Float[Tensor, "row column"]


class PerRow(nn.Module):
    r"""q(h; λ_i) = N(μ_i, diag(σ_i²)) with parameters of its own for each row: nothing is amortised.

    A row is found again by its content, so minibatches, order and repeated rows do not matter, and equal rows share
    their λ. It knows no other rows: there is no answer for held-out ones.

    Content is the row's numbers in single precision, whatever the dtype of the rows, as a 64-bit hash. That no two
    different rows given here share one is checked; the chance that an unseen row is taken for one of n is n / 2^64. The
    rows themselves are not kept, so saved weights do not hold the data.

    Args:
        rows: what the guide is called with, as one table: for a `VAE`, `likelihood.features(v)` of the training rows.
        latent: dimension of h.

    Raises:
        ShapeError: rows that are no matrix.
        DataError: rows that are not finite; different rows with the same hash.

    References:
        Lecture, eq. 28; Stochastic variational inference (Hoffman et al., 2013), arXiv 1206.7051.
    """

    keys: Tensor

    def __init__(self, rows: Tensor, latent: int) -> None:
        super().__init__()
        if rows.ndim != 2:
            raise ShapeError(f"The rows must have shape (row, column), got {tuple(rows.shape)}: `rows.flatten(1)`.")
        if not torch.isfinite(rows).all():
            raise DataError("Rows with NaN or infinity cannot be found again by their content: fill them in first.")
        keys, group = torch.unique(_keys(rows), return_inverse=True)  # sorted
        _check_told_apart(rows, group, len(keys))
        self.register_buffer("keys", keys)
        self.mean = nn.Parameter(torch.zeros(len(keys), latent))
        self.log_scale = nn.Parameter(torch.zeros(len(keys), latent))

    def forward(self, v: Visible) -> Distribution:
        """q(h | v) with batch shape (row,) and event shape (latent,).

        Raises:
            DataError: rows that the guide was not made with.
        """
        place = self._find(v)
        return dist.Normal(self.mean[place], self.log_scale[place].exp()).to_event(1)

    def _find(self, v: Visible) -> Int64[Tensor, " row"]:
        keys = _keys(v)
        place = torch.searchsorted(self.keys, keys).clamp(max=len(self.keys) - 1)
        unseen = torch.nonzero(self.keys[place] != keys).flatten()
        if len(unseen):
            raise DataError(
                f"{len(unseen)} of {len(v)} rows (the first at position {int(unseen[0])}) are not among the "
                f"{len(self.keys)} different rows that this guide was made with. It has no encoder, only parameters "
                "of those rows: make it with these rows too, or use a guide with an encoder."
            )
        return place


def _keys(rows: Tensor) -> Int64[Tensor, " row"]:
    return row_keys([rows.float() + 0.0])  # -0.0 becomes 0.0, which has other bytes


def _check_told_apart(rows: Tensor, group: Int64[Tensor, " row"], groups: int) -> None:
    member = group.new_zeros(groups).scatter_(0, group, torch.arange(len(group), device=group.device))
    if not torch.equal(rows[member[group]].float(), rows.float()):
        raise DataError("Two different rows have the same hash; change any column by a constant and try again.")
