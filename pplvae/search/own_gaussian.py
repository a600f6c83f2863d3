"""Each row's own guide where lambda is that of a Gaussian: from lambda to Gaussians, through the search, and back."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.reading import Layout, Program
from pplvae.programs.shapes import Lambda, Matrices
from pplvae.programs.widening import widened
from pplvae.search.curvature import Curvature
from pplvae.search.density import Density, vectors_of
from pplvae.search.gaussian import Gaussians
from pplvae.search.gaussian_form import GaussianForm
from pplvae.search.judging import Found
from pplvae.search.local_guides import LocalGuides
from pplvae.search.optimum import FIRST_ORDER, SECOND_ORDER, Optimum, Schedule, Status
from pplvae.search.other_modes import Modes, lying_elsewhere, modes_of
from pplvae.search.refinement import per_row
from pplvae.search.second_order import ELSEWHERE, SecondOrder

FirstOrder = Callable[[Batch, Schedule, Lambda], Optimum]  # a search of some rows from offsets


class Missed(NamedTuple):
    """What the search misses of rows whose latents are known.

    Attributes:
        better: rows whose search ends clearly lower than one that begins at the latents.
        unseen: rows whose latents lie in a mode that estimates of log p(v) do not know; None where these look for none.
    """

    better: Bool[Tensor, " row"]
    unseen: Bool[Tensor, " row"] | None = None


@dataclass(frozen=True)
class Encoded:
    """The encoder's guide of every row.

    Attributes:
        lam: lambda.
        gaussians: the same as Gaussians.
        curvature: of -log p(v_i, u) at their means, positive definite.
    """

    lam: Lambda
    gaussians: Gaussians
    curvature: Matrices

    def take(self, rows: Tensor) -> "Encoded":
        """Some of the rows."""
        lam = {key: values[rows] for key, values in self.lam.items()}
        return Encoded(lam, self.gaussians.take(rows), self.curvature[rows])


class OwnGaussians:
    """The search for every row's own Gaussian, for all rows of a pair.

    Args:
        model: p(v, h; theta).
        layout: of the pair.
        form: how lambda is a Gaussian.
        dtype: of lambda.
        schedule: settings.
        seed: names the noise.

    Attributes:
        form: see above.
        density: log p(v_i, u).
        search: over it.
    """

    def __init__(
        self, model: Program, layout: Layout, form: GaussianForm, dtype: torch.dtype, schedule: Schedule, seed: int
    ) -> None:
        self.form, self._dtype, self._schedule = form, dtype, schedule
        self.density, curvature = Density(model, layout, form.parts, dtype), Curvature(model, layout, form.parts)
        self.search = SecondOrder(self.density, curvature, schedule.tolerance, schedule.max_steps, seed)

    def try_on(self, lam: Lambda, batch: Batch) -> None:
        """Run everything that the search will run, on a row.

        Raises:
            Exception: whatever a program raises that torch.func cannot follow.
        """
        mean = self.form.gaussians(lam).mean
        self.search.curvature_at(mean, batch)
        self.density.slope(mean.unsqueeze(0), batch)

    def encoded(self, guides: LocalGuides) -> Encoded:
        """The encoder's guides of a batch."""
        lam = guides.lam()
        gaussians = self.form.gaussians(lam)
        return Encoded(lam, gaussians, self.search.curvature_at(gaussians.mean, guides.batch))

    def __call__(
        self, encoded: Encoded, batch: Batch, first_order: FirstOrder, earlier: Lambda | None = None
    ) -> Optimum:
        """The optimum of every row; `earlier` is lambda of the rows' own guides under earlier weights."""
        offsets = {key: torch.zeros_like(start) for key, start in encoded.lam.items()}
        blank = torch.full_like(encoded.gaussians.mean[:, 0], torch.nan)
        method, steps = [SECOND_ORDER] * len(batch), torch.zeros_like(batch.keys)
        optimum = Optimum(offsets, [Status.NONFINITE] * len(batch), steps, method, blank, blank.clone())
        optimum.gaussians, optimum.curvature = encoded.gaussians.copy(), encoded.curvature.clone()
        # A row whose encoder says no Gaussian fails alone.
        rows = torch.nonzero(encoded.gaussians.is_proper()).flatten()
        if len(rows):
            known = None if earlier is None else self.form.gaussians(earlier).take(rows)
            self._fill(optimum, rows, encoded.take(rows), batch.take(rows), first_order, known)
        return optimum

    def missed(self, encoded: Encoded, latents: Mapping[str, Tensor], batch: Batch, first_order: FirstOrder) -> Missed:
        """What is missed of rows whose latents are known: a search that begins at the latents says.

        Args:
            encoded: the encoder's guides.
            latents: by site.
            batch: the rows.
            first_order: see above.
        """
        optimum = self(encoded, batch, first_order)
        assert optimum.gaussians is not None
        truth = widened(vectors_of(self.form.parts, latents))
        modes = self.modes(optimum, batch)
        gain, stderr, unseen = lying_elsewhere(self.search, optimum.gaussians, truth, batch, modes)
        return Missed(gain > self._schedule.tolerance + 3 * stderr, unseen)

    def modes(self, optimum: Optimum, batch: Batch) -> Modes:
        """Each row's modes, beginning with that of its own guide."""
        assert optimum.gaussians is not None
        assert optimum.curvature is not None
        return modes_of(self.search, optimum.gaussians, optimum.curvature, batch)

    def _fill(
        self,
        optimum: Optimum,
        rows: Tensor,
        start: Encoded,
        batch: Batch,
        first_order: FirstOrder,
        earlier: Gaussians | None,
    ) -> None:
        """Write what is found of some rows into the optimum of all."""
        search = self.search
        found = search(start.gaussians, start.curvature, batch, earlier)
        by_first_order = self._polished(found, start, batch, first_order)
        kept = search.judge.is_settled(found) | (found.gain > 2 * found.stderr)
        # Where it cannot be told, a row goes back to its start, which is tested in its turn.
        back = torch.nonzero(~kept).flatten()
        if len(back):
            some, here = start.take(back), batch.take(back)
            found.put(
                back,
                search.judge.tested(some.gaussians, some.gaussians, some.curvature, here, found.steps[back], ELSEWHERE),
            )
        for key, values in self.form.lam(found.gaussians, self._dtype).items():
            optimum.offsets[key][rows] = per_row(kept, values - start.lam[key], torch.zeros_like(values))
        returned = self.form.gaussians({key: offset[rows] + start.lam[key] for key, offset in optimum.offsets.items()})
        # An offset from an encoder that is very far away is a large number, and rounds as one.
        found.shortfall.nats.add_(torch.where(kept, found.lost_by(returned), 0.0))
        settled = search.judge.is_settled(found)
        assert optimum.gaussians is not None
        assert optimum.curvature is not None
        optimum.gaussians.put(rows, returned)
        optimum.curvature[rows] = found.curvature
        optimum.steps[rows] = found.steps
        optimum.shortfall[rows], optimum.shortfall_stderr[rows] = found.shortfall
        used_up = found.steps + self._schedule.window > self._schedule.max_steps
        finite = found.gain.isfinite() & found.shortfall.nats.isfinite()
        for k, row in enumerate(rows.tolist()):
            ended = Status.NONFINITE if not finite[k] else Status.MAX_STEPS if used_up[k] else Status.SHORT
            optimum.status[row] = Status.CONVERGED if settled[k] else ended
            optimum.method[row] = FIRST_ORDER if by_first_order[k] else SECOND_ORDER

    def _polished(self, found: Found, start: Encoded, batch: Batch, first_order: FirstOrder) -> Tensor:
        """Go on by first order, in place, with rows that are not at their optimum; which rows are better for it."""
        search = self.search
        served = torch.zeros_like(found.gain, dtype=torch.bool)
        left = torch.nonzero(~search.judge.is_settled(found) & found.gain.isfinite()).flatten()
        steps = self._schedule.max_steps - search.steps_of_all  # the same for every row, whatever the others took
        if len(left) == 0 or steps < self._schedule.window:
            return served
        some, here, best = start.take(left), batch.take(left), found.take(left)
        began = {key: values - some.lam[key] for key, values in self.form.lam(best.gaussians, self._dtype).items()}
        theirs = first_order(here, self._schedule.with_steps(steps), began)
        gaussians = self.form.gaussians({key: some.lam[key] + offset for key, offset in theirs.offsets.items()})
        other = search.found_elsewhere(some.gaussians, gaussians, here, theirs.steps)
        better = search.judge.better(other, best, here, 0)
        found.put(left[better], other.take(better))
        found.steps[left] += theirs.steps
        served[left[better]] = True
        return served
