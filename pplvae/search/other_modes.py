"""Other modes of a row's posterior than the one that its own guide lies in.

A Gaussian guide sits in one mode, and loses nothing of its ELBO by that. An estimate of log p(v) does: where v = h² was
seen, h may have either sign, and half of p(v) lies where the guide is not. So places are looked for that the guide does
not explain, and climbed from, until many in a row have led to nothing new.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream
from pplvae.programs.shapes import Matrices, PerDraw, PerRow, Vectors
from pplvae.search.gaussian import FullCovariance, Gaussians, inverse_of, root_of, times
from pplvae.search.second_order import ELSEWHERE, SecondOrder

# A row has no further mode once so many tries in a row have found none: were there one more, to which one try in seven
# leads, all of them would miss it in 4 cases of 100.
_IN_VAIN, _IN_VAIN_PER_MODE = 16, 4
# Of five tries at once, one begins at the likeliest of many draws from the prior, which lies in a wide and flat mode
# again and again; two at single draws, which lie anywhere; and two further out.
_MANY, _SINGLE, _WIDE = 64, 2, 2
_TRIES = 1 + _SINGLE + _WIDE
_WIDER = 0.8  # of the difference of two draws: added to a third, it makes draws lie 1.5 times as far apart
_ROUNDS = 50  # at most
_UNEXPLAINED = 4  # nats: by so much a place is likelier than a Gaussian around a known mode has it
_WORTH = 10  # nats of ELBO: a mode that is lower by more has too small a share of p(v)
_FIRST = ELSEWHERE + 3  # names the draws of the first try
_NEAR = 1  # nats
_APART = 4  # nats of Jeffreys' divergence: Gaussians that are nearer belong to one mode


@dataclass
class Modes:
    """Gaussians of the posterior's shape at each row's modes, as far as they are known.

    Attributes:
        gaussians: of all modes. The first are those of the rows' own guides, one for each row.
        places: where among them those of each row stand, its own first, and again after the last one.
        counts: modes of each row.
        ended: which rows were searched until many tries had found nothing more.
    """

    gaussians: Gaussians
    places: Int64[Tensor, "row mode"]
    counts: Int64[Tensor, " row"]
    ended: Bool[Tensor, " row"]

    @classmethod
    def one(cls, own: Gaussians, curvature: Matrices) -> "Modes":
        """That of a guide alone."""
        rows = torch.arange(len(own.mean))
        gaussians = FullCovariance(own.mean, curvature)
        return cls(
            gaussians, rows.unsqueeze(1).repeat(1, 2), torch.ones_like(rows), torch.zeros(len(rows), dtype=torch.bool)
        )

    def alike(self, index: Tensor) -> Iterator[Tensor]:
        """Positions of rows in groups that have one mode, two, up to four, up to eight: fewer cost less."""
        doublings = self.counts[index].log2().ceil()
        for some in doublings.unique():
            yield index[doublings == some]

    def has_several(self, index: Tensor) -> bool:
        """Whether all of some rows have several modes."""
        return bool((self.counts[index] > 1).all())

    def take(self, index: Tensor) -> list[Gaussians]:
        """The Gaussians of some rows, as many for each of them: its own guide's stands again where a row has fewer.

        Their number is a power of two, so that a row of one of the groups above has as many in any company.
        """
        most = 2 ** int(self.counts[index].log2().ceil().max())
        return [self.gaussians.take(self.places[index, min(k, self.places.shape[1] - 1)]) for k in range(most)]

    def incomplete(self, most: int = _ROUNDS * _TRIES + 1) -> Bool[Tensor, " row"]:
        """Which rows may have further modes than so many of those that are known."""
        return ~self.ended | (self.counts > most)

    def lack(self, index: Tensor, other: Gaussians, gain: PerRow) -> Bool[Tensor, " row"]:
        """Which of some rows have another mode, whose ELBO is so much higher, which is none of those that are known."""
        apart = torch.stack([one.divergence(other) > _APART for one in self.take(index)]).all(0)
        return apart & (gain > -_WORTH) & other.is_proper()

    def add(self, index: Tensor, other: Gaussians) -> None:
        """Note one more mode of some rows."""
        if len(index) == 0:
            return
        if int(self.counts[index].max()) + 1 == self.places.shape[1]:
            self.places = torch.cat([self.places, self.places[:, :1]], 1)
        begin = len(self.gaussians.mean)
        self.places[index, self.counts[index]] = torch.arange(begin, begin + len(index))
        self.counts[index] += 1
        known = self.gaussians
        self.gaussians = FullCovariance(
            torch.cat([known.mean, other.mean]), torch.cat([known.precision, other.precision_matrices()])
        )


def modes_of(search: SecondOrder, own: Gaussians, curvature: Matrices, batch: Batch) -> Modes:
    """Look for the modes of every row.

    Args:
        search: of the pair.
        own: each row's own guide.
        curvature: the mean of minus the second derivative of log p(v_i, u) under them, positive definite.
        batch: the rows.
    """
    modes, in_vain = Modes.one(own, curvature), torch.zeros(len(batch), dtype=torch.int64)
    under_way, last = torch.zeros(_TRIES, len(batch), dtype=torch.bool), own.mean.repeat(_TRIES, 1, 1)
    for k in range(_ROUNDS):
        rows = torch.nonzero(~modes.ended).flatten()
        if len(rows) == 0:
            break
        place, is_there = _unexplained(search, modes.take(rows), batch.take(rows), k)
        going_on = under_way[:, rows]
        last[:, rows] = torch.where(going_on.to(place.device).unsqueeze(-1), last[:, rows], place)
        tries, at = torch.nonzero(is_there.cpu() | going_on, as_tuple=True)
        some, before = rows[at], modes.counts.clone()
        if len(some):
            here = batch.take(some)
            ended, known, gain, stderr, _ = search.gain_elsewhere(own.take(some), last[tries, some], here, _FIRST + k)
            shape = FullCovariance(ended.mean, known)
            for which in tries.unique():  # one after the other, since two may have found the same mode
                ours = torch.nonzero(tries == which).flatten()
                new = modes.lack(some[ours], shape.take(ours), gain[ours]) & (stderr[ours] < _WORTH)
                modes.add(some[ours][new.cpu()], shape.take(ours[new.cpu()]))
            # A climb that has not arrived says nothing: the next try goes on from there.
            under_way[tries, some] = ((gain < -_WORTH) & ~_has_arrived(search, shape, here)).cpu()
            last[tries, some] = ended.mean
        in_vain[rows] += _TRIES - under_way[:, rows].sum(0)
        in_vain[modes.counts > before] = 0
        modes.ended = in_vain >= _IN_VAIN + _IN_VAIN_PER_MODE * modes.counts
    return modes


def modes_near(search: SecondOrder, around: Gaussians, batch: Batch) -> Modes:
    """The same for guides that are not Gaussian, of which only Gaussians like them are known."""
    ended, known, gain, stderr, _ = search.gain_elsewhere(around, around.mean, batch, ELSEWHERE + 2)
    own, curvature = around.copy(), around.precision_matrices().clone()
    better = torch.nonzero((gain >= -3 * stderr) & FullCovariance(ended.mean, known).is_proper()).flatten()
    own.put(better, ended.take(better))
    curvature[better] = known[better]
    return modes_of(search, own, curvature, batch)


def lying_elsewhere(
    search: SecondOrder, own: Gaussians, latents: Float[Tensor, "row element"], batch: Batch, modes: Modes
) -> tuple[PerRow, PerRow, Bool[Tensor, " row"]]:
    """What a search that begins at known latents wins over each row's own guide, and whether it finds another mode.

    Args:
        search: of the pair.
        own: each row's own guide.
        latents: of every row.
        batch: the rows.
        modes: those that are known.

    Returns:
        The gain of ELBO in nats, its standard error, and which rows end in a mode that is not known.
    """
    ended, known, gain, stderr, _ = search.gain_elsewhere(own, latents, batch, -1)
    everyone, there = torch.arange(len(batch)), FullCovariance(ended.mean, known)
    return gain, stderr, modes.lack(everyone, there, gain)


def _has_arrived(search: SecondOrder, gaussians: Gaussians, batch: Batch) -> Bool[Tensor, " row"]:
    """Whether the means are so near to a mode of log p(v_i, u) that a Newton step would win next to nothing."""
    slope = search.density.slope(gaussians.mean.unsqueeze(0), batch)
    step = times(inverse_of(root_of(gaussians.precision_matrices())), slope)
    return 0.5 * (step * slope).sum(-1)[0] < _NEAR  # NaN is not


def _unexplained(
    search: SecondOrder, known: Sequence[Gaussians], batch: Batch, k: int
) -> tuple[Vectors, Bool[Tensor, "particle row"]]:
    """Where tries begin, drawn from the prior, and whether it is a place that no known mode explains."""
    density = search.density
    draws = density.draw_prior(batch, _MANY + _SINGLE + 3 * _WIDE, (search.seed, Stream.STEP, _FIRST + k))
    near, wide = draws[: _MANY + _SINGLE], draws[_MANY + _SINGLE :].unflatten(0, (3, _WIDE))
    draws = torch.cat([near, wide[0] + _WIDER * (wide[1] - wide[2])])
    value = density.value(draws, batch).nan_to_num(-torch.inf, -torch.inf, -torch.inf)
    tops = density.value(torch.stack([mode.mean for mode in known]), batch)
    explained = torch.stack([top - _distance(mode, draws) for mode, top in zip(known, tops, strict=True)]).amax(0)
    value = torch.where(value > explained + _UNEXPLAINED, value, -torch.inf)
    likeliest = value[:_MANY].argmax(0, keepdim=True)
    at = torch.cat(
        [likeliest, torch.arange(_MANY, len(draws), device=value.device).unsqueeze(1).expand(-1, len(batch))]
    )
    places = draws.gather(0, at.unsqueeze(-1).expand(-1, -1, draws.shape[-1]))
    return places, value.gather(0, at).isfinite()


def _distance(mode: Gaussians, u: Vectors) -> PerDraw:
    """By how many nats a Gaussian's density is lower than at its mean."""
    away = u - mode.mean
    return 0.5 * (times(mode.precision_matrices(), away) * away).sum(-1)
