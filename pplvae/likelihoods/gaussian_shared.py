"""Real columns with one variance each, the same in every row."""

import torch
from torch import nn
from torch.distributions import Distribution

from pplvae.likelihoods.base import Head, Visible, check_columns
from pplvae.likelihoods.gaussian import Gaussian


class GaussianShared(nn.Module):
    """Real columns with the mean from the decoder and one learned, bounded standard deviation per column.

    Factor analysis has this noise, with a linear decoder. All rows inform a variance, so that it is far steadier than
    one that the decoder gives to each row.

    Args:
        visible: columns of v.
        smallest: least standard deviation of a column, in its units.
        largest: greatest.

    Raises:
        ValueError: not 0 < smallest < largest.
    """

    takes_total = False

    def __init__(self, visible: int, smallest: float = 0.03, largest: float = 3.0) -> None:
        super().__init__()
        self._gaussian = Gaussian(smallest, largest)
        self.free_scale = nn.Parameter(torch.zeros(visible))

    def heads(self, visible: int) -> list[int]:
        """A mean per column."""
        check_columns(self, len(self.free_scale), visible)
        return [visible]

    def features(self, v: Visible) -> Visible:
        """The row as it is."""
        return v

    def forward(self, mean: Head) -> Distribution:
        """Independent normal columns."""
        return self._gaussian(mean, self.free_scale.expand_as(mean))
