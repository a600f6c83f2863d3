"""The round trip: whether a user's own loss is minus the ELBO of the pair, and what it is where it is not."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from pplvae.adapters.loss_terms import Terms, terms_of

_SAME = 1e-3  # of the spread of a loss between batches: so much may be left
_ROUNDING = 20 * torch.finfo(torch.float32).eps  # of the loss itself
_FACTOR = 2e-3  # by which a factor may differ from 1
_ERRORS = 4.0  # standard errors
_NOISE = 1.5  # times what the draws leave
_RANK = 1e-6  # below which terms are multiples of each other
_UNSURE = 0.05  # of the first factor: what both must be known to

Reduction = Literal["mean", "sum"]


@dataclass(frozen=True)
class RoundTrip:
    """A loss as a sum of the terms of a pair's ELBO: what was seen on batches of rows, and no more than that.

    Attributes:
        reconstruction: factor of -log p(v | h), per row.
        kl: factor of KL(q(h | v) || p(h)), per row.
        constant: what is added per row, in nats.
        stderr: standard errors of these three.
        reductions: whether the two terms are means or sums over the rows of a batch.
        left: what these do not explain of the loss, as a share of its spread between batches.
        explained: whether that is no more than rounding and noise.
        told_apart: whether the two terms differ enough between batches for their factors to be told.
        batches: on which this was seen.
        draws: of each batch; 1 where loss and pair have the same noise.
        columns: of a row.
        without_factorials: the loss leaves out log v! of counts, which depends on no parameter.
        normaliser: of a Gaussian with a fixed scale, in nats per row; else None.
        scale: that scale.
    """

    reconstruction: float
    kl: float
    constant: float
    stderr: tuple[float, float, float]
    reductions: tuple[Reduction, Reduction]
    left: float
    explained: bool
    told_apart: bool
    batches: int
    draws: int
    columns: int
    without_factorials: bool = False
    normaliser: float | None = None
    scale: float | None = None

    @property
    def weight(self) -> float:
        """Of the KL term, where that of the reconstruction is 1."""
        return self.kl / self.reconstruction if self.reconstruction else math.nan

    @property
    def is_elbo(self) -> bool:
        """Whether the loss is minus the ELBO, but for its unit and what depends on no parameter."""
        same = self.reductions[0] == self.reductions[1]
        return self.explained and self.told_apart and same and _is(self.weight, 1.0, self._error_of_weight())

    def __str__(self) -> str:
        noise = "with the same noise" if self.draws == 1 else f"with {self.draws} draws each"
        return f"Own loss on {self.batches} batches, {noise}: {' '.join([self._formula(), *self._sentences()])}"

    def _formula(self) -> str:
        if not self.explained:
            return f"no sum of -log p(v | h) and KL explains it, {self.left:.1%} of its spread between batches is left."
        if not self.told_apart:
            return f"-log p(v | h) and KL vary too little between these for their factors to be told{self._so_far()}."
        constant = f" {self.constant:+.4g}" if self._has_constant() else ""
        terms = f"{self.reconstruction:.4g} (-log p(v | h)) + {self.kl:.4g} KL{constant}"
        if self.reductions[0] == self.reductions[1]:
            return f"{self.reductions[0]} over rows of [{terms}]."
        return f"{terms}, the first a {self.reductions[0]} over rows, the KL a {self.reductions[1]}."

    def _so_far(self) -> str:
        if not all(map(math.isfinite, self.stderr)):
            return ""
        (a, b), (of_a, of_b) = (self.reconstruction, self.kl), self.stderr[:2]
        return f": {a:.3g} ± {of_a:.2g} and {b:.3g} ± {of_b:.2g}, {self.reductions[0]} over rows"

    def _sentences(self) -> Iterator[str]:
        if not self.explained or not self.told_apart:
            return
        if self.is_elbo:
            yield f"It is minus the ELBO{', '.join([self._unit(), *self._left_out()])}."
            return
        if self.reductions[0] != self.reductions[1]:
            yield "One term is a mean over rows and the other a sum, so that their weights hang on the batch size."
            return
        yield f"The weight of its KL term is {self.weight:.4g}; pplvae measures the ELBO, whose weight is 1."
        if self._is_mean_over_columns() and _is(self.kl, 1.0, self.stderr[1]):
            yield f"The reconstruction is a mean over the {self.columns} columns, and the KL term is a sum."
        if self.scale is not None and self.weight > 0:
            yield f"With `scale={self.scale * math.sqrt(self.weight):.4g}` it would be that of this loss."

    def _unit(self) -> str:
        if _is(self.reconstruction, 1.0, self.stderr[0]):
            return ""
        if self._is_mean_over_columns():
            return f" divided by the {self.columns} columns"
        return f" times {self.reconstruction:.4g}"

    def _is_mean_over_columns(self) -> bool:
        return _is(self.reconstruction * self.columns, 1.0, self.stderr[0] * self.columns)

    def _left_out(self) -> Iterator[str]:
        if self.without_factorials:
            yield "without log v! of the counts"
        if not self._has_constant():
            return
        if self.normaliser is not None and _is(self.constant, -self.reconstruction * self.normaliser, self.stderr[2]):
            yield f"without the Gaussian's normaliser, {self.normaliser:.4g} nats per row"
        else:
            yield f"and a constant of {self.constant:.4g} per row"

    def _has_constant(self) -> bool:
        return abs(self.constant) > _ERRORS * self.stderr[2] + _FACTOR * abs(self.reconstruction)

    def _error_of_weight(self) -> float:
        return abs(self.stderr[1] / self.reconstruction) + abs(self.stderr[0] * self.kl / self.reconstruction**2)


def round_trip(pair: Any, loss: Callable[..., Any], tensors: Sequence[Tensor], draws: int = 1) -> RoundTrip:
    """Find a loss as a sum of a pair's reconstruction and KL terms, by regression over batches of two sizes.

    Args:
        pair: from `from_torch`.
        loss: called as `loss(*rows)`.
        tensors: the rows.
        draws: of each batch. One is enough where the loss draws as the pair does, and then explains it to rounding.

    Returns:
        The sum that explains most of the loss, of those that losses are: means or sums, the KL drawn or in closed form.

    Raises:
        DataError: too few rows.
        ProgramError: the loss fails, or is no number.
    """
    terms, given = terms_of(pair.model, pair.guide, loss, tensors, draws), pair.model.given
    kinds: list[tuple[Reduction, Reduction]] = [("mean", "mean"), ("sum", "sum"), ("mean", "sum"), ("sum", "mean")]
    shown = [(terms.reconstruction, False)]
    if given.likelihood == "poisson":
        shown.append((terms.reconstruction - terms.log_factorials, True))
    options = itertools.product(kinds, (terms.kl, terms.drawn_kl), shown)
    columns = tensors[0][0].numel()
    scale = given.scale.single() if given.scale is not None and given.likelihood == "gaussian" else None
    normaliser = None if scale is None else columns * (math.log(scale) + 0.5 * math.log(2 * math.pi))
    fits = [
        RoundTrip(
            **_regressed(terms, kl, reconstruction, reductions),
            batches=len(terms.sizes),
            draws=draws,
            columns=columns,
            without_factorials=without_factorials,
            normaliser=normaliser,
            scale=scale,
        )
        for reductions, kl, (reconstruction, without_factorials) in options
    ]
    return min(fits, key=lambda fit: fit.left)


def _regressed(
    terms: Terms, kl: Tensor, reconstruction: Tensor, reductions: tuple[Reduction, Reduction]
) -> dict[str, Any]:
    """Least squares, and how far to trust it."""
    of_term = [terms.sizes if each == "sum" else torch.ones_like(terms.sizes) for each in reductions]
    own = terms.loss / of_term[0]  # of a row, so that what batches differ in is not their size
    each = torch.stack([reconstruction, of_term[1] / of_term[0] * kl, torch.ones_like(own)], -1)
    design, loss = each.mean(0), own.mean(0)
    units = design.abs().mean(0).clamp(min=1e-300)  # the terms may be of any size
    inverse = torch.linalg.pinv(design / units, rtol=_RANK)
    known = bool(torch.linalg.matrix_rank(design / units, rtol=_RANK) == len(units))
    factors = (inverse @ loss) / units
    rest = own - each @ factors
    left, spread = _size(rest.mean(0)), loss.std()
    noise = _size(rest.std(0)) / len(rest) ** 0.5 if len(rest) > 1 else torch.zeros(())
    stderr = tuple((left * inverse.norm(dim=1) / units).tolist()) if known else (math.inf,) * 3
    return {
        **dict(zip(("reconstruction", "kl", "constant"), factors.tolist(), strict=True)),
        "stderr": stderr,
        "reductions": reductions,
        "left": float(left / spread),
        "explained": bool(left <= _SAME * spread + _ROUNDING * loss.abs().mean() + _NOISE * noise),
        "told_apart": max(stderr[:2]) <= _UNSURE * abs(float(factors[0])),
    }


def _size(numbers: Tensor) -> Tensor:
    return numbers.square().mean().sqrt()


def _is(value: float, wanted: float, error: float) -> bool:
    return abs(value - wanted) <= _ERRORS * error + _FACTOR * abs(wanted)
