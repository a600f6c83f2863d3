"""Means over draws, and their Monte Carlo standard errors."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.shapes import PerDraw, PerRow


def mean_and_stderr(draws: PerDraw, *, mirrored: bool = True) -> tuple[PerRow, PerRow]:
    """Mean over draws with its standard error; where the second half mirrors the first, from the pair means."""
    pairs = draws.unflatten(0, (2, -1)).mean(0) if mirrored else draws
    return draws.mean(0), pairs.std(0) / math.sqrt(len(pairs))


def log_mean_exp(log_weights: PerDraw, *, mirrored: bool = True) -> tuple[PerRow, PerRow]:
    """The importance-weighted bound on log p(v_i), with its standard error by the delta method.

    Args:
        log_weights: in nats.
        mirrored: whether the second half of the draws mirrors the first.

    Returns:
        The bound, below log p(v_i) in expectation and tighter with more draws, and its standard error; nats per row.

    References:
        Importance Weighted Autoencoders (Burda et al., 2016), https://arxiv.org/abs/1509.00519
    """
    value = log_weights.logsumexp(0) - math.log(len(log_weights))
    _, stderr = mean_and_stderr((log_weights - value).exp(), mirrored=mirrored)
    return value, stderr


def joined(blocks: Sequence[Float[Tensor, "_ row *kind"]]) -> Float[Tensor, "particle row *kind"]:
    """Draws of the same rows one block after the other, the mirrored ones of all blocks last."""
    return torch.cat([block.unflatten(0, (2, -1)) for block in blocks], 1).flatten(0, 1)


_ROUNDINGS = 64  # of sums of log-probabilities, each of a unit in the last place


def with_rounding(stderr: PerRow, log_weights: PerDraw) -> PerRow:
    """A standard error, raised to the size of rounding where it is smaller: draws that hardly differ do not show it.

    Args:
        stderr: by the spread of draws.
        log_weights: that a program has computed in the default dtype.
    """
    rounding = _ROUNDINGS * torch.finfo(torch.get_default_dtype()).eps * log_weights.abs().mean(0)
    return torch.hypot(stderr, rounding)
