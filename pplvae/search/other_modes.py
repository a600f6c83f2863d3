"""Other modes of a row's posterior than the one that its own guide lies in.

A Gaussian guide sits in one mode, and loses nothing of its ELBO by that. An estimate of log p(v) does: where v = h² was
seen, h may have either sign, and half of p(v) lies where the guide is not. So places are looked for that the guide does
not explain, and climbed from.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream
from pplvae.programs.shapes import Matrices, PerDraw, PerRow, Vectors
from pplvae.search.gaussian import FullCovariance, Gaussians, times
from pplvae.search.second_order import ELSEWHERE, SecondOrder

_TRIES = 5  # of which each may find one mode
_DRAWS = 64  # from the prior, of which one is climbed from
_UNEXPLAINED = 4  # nats: by so much a place is likelier than a Gaussian around a known mode has it
_WORTH = 10  # nats of ELBO: a mode that is lower by more has too small a share of p(v)
_APART = 4  # nats of Jeffreys' divergence: Gaussians that are nearer belong to one mode


@dataclass(frozen=True)
class Modes:
    """Gaussians of the posterior's shape at each row's modes, as far as they are known.

    Attributes:
        gaussians: as many for every row. The first is that of its own guide, which also stands where a row has fewer.
        several: which rows have more than that one.
    """

    gaussians: Sequence[Gaussians]
    several: Bool[Tensor, " row"]

    @classmethod
    def one(cls, own: Gaussians, curvature: Matrices) -> "Modes":
        """That of a guide alone."""
        return cls([FullCovariance(own.mean, curvature)], torch.zeros(len(own.mean), dtype=torch.bool))

    def alike(self, index: Tensor) -> Iterator[Tensor]:
        """Positions of rows in two groups: those with one mode, which cost less, and those with several."""
        for some in (index[~self.several[index]], index[self.several[index]]):
            if len(some):
                yield some

    def lack(self, other: Gaussians, gain: PerRow) -> Bool[Tensor, " row"]:
        """Rows that have another mode, whose ELBO is so much higher, which is none of those that are known."""
        apart = torch.stack([one.divergence(other) > _APART for one in self.gaussians]).all(0)
        return apart & (gain > -_WORTH) & other.is_proper()

    def take(self, index: Tensor) -> list[Gaussians]:
        """The Gaussians of rows of one such group."""
        known = self.gaussians if bool(self.several[index].any()) else self.gaussians[:1]
        return [one.take(index) for one in known]


def modes_of(search: SecondOrder, own: Gaussians, curvature: Matrices, batch: Batch) -> Modes:
    """Look for the modes of every row.

    Args:
        search: of the pair.
        own: each row's own guide.
        curvature: the mean of minus the second derivative of log p(v_i, u) under them, positive definite.
        batch: the rows.
    """
    first = FullCovariance(own.mean, curvature)
    found: list[Gaussians] = [first]
    several = torch.zeros(len(batch), dtype=torch.bool)
    for k in range(_TRIES):
        attempt = ELSEWHERE + 3 + k
        place, is_there = _unexplained(search, found, batch, attempt)
        other = first.copy()
        rows = torch.nonzero(is_there).flatten()
        if len(rows):
            here = batch.take(rows)
            ended, known, gain, stderr, _ = search.gain_elsewhere(own.take(rows), place[rows], here, attempt)
            shape = FullCovariance(ended.mean, known)
            so_far = Modes([one.take(rows) for one in found], several[rows.cpu()])
            new = torch.nonzero(so_far.lack(shape, gain) & (stderr < _WORTH)).flatten()
            other.put(rows[new], shape.take(new))
            several[rows[new].cpu()] = True
        found.append(other)
    return Modes(found, several)


def _unexplained(search: SecondOrder, known: Sequence[Gaussians], batch: Batch, attempt: int) -> tuple[Tensor, Tensor]:
    """Of draws from the prior the likeliest that no known mode explains, and whether there is one."""
    density = search.density
    draws = density.draw_prior(batch, _DRAWS, (search.seed, Stream.STEP, attempt))
    value = density.value(draws, batch).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    tops = [density.value(mode.mean.unsqueeze(0), batch)[0] for mode in known]
    explained = torch.stack([top - _distance(mode, draws) for mode, top in zip(known, tops, strict=True)]).amax(0)
    best, at = torch.where(value > explained + _UNEXPLAINED, value, -torch.inf).max(0)
    return draws[at, torch.arange(len(at), device=at.device)], best.isfinite()


def _distance(mode: Gaussians, u: Vectors) -> PerDraw:
    """By how many nats a Gaussian's density is lower than at its mean."""
    away = u - mode.mean
    return 0.5 * (times(mode.precision_matrices(), away) * away).sum(-1)
