"""Each row's own guide, by the method that fits the pair: second order where lambda is Gaussian, else first order."""

import warnings
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from pplvae.batch import Batch
from pplvae.chunking import rows_at_once
from pplvae.comparison.curvature import Curvature
from pplvae.comparison.density import Density
from pplvae.comparison.gaussian import GaussianForm, Gaussians
from pplvae.comparison.localise import LocalGuides, Offsets
from pplvae.comparison.optimise import FIRST_ORDER, SECOND_ORDER, Optimum, Schedule, Status, joined, optimise
from pplvae.comparison.refinement import per_row
from pplvae.comparison.second_order import Found, SecondOrder
from pplvae.errors import PplvaeWarning
from pplvae.rows import Layout, Program


class OwnGuides:
    """The search for every row's own guide, for all rows of a pair.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        schedule: settings.
        seed: names the noise.

    Attributes:
        reason: why the second-order method does not apply, in a clause; empty where it does.
    """

    def __init__(self, model: Program, guide: Program, layout: Layout, schedule: Schedule, seed: int) -> None:
        self.model, self.guide, self.layout = model, guide, layout
        self.schedule, self.seed = schedule, seed
        self.reason = "" if schedule.second_order else "it was not asked for"
        self._second: tuple[GaussianForm, SecondOrder] | None = None

    def guides(self, batch: Batch, index: Tensor | slice, particles: int) -> LocalGuides:
        """The guides of some of the rows."""
        return LocalGuides(self.model, self.guide, self.layout, batch.take(index).times(particles))

    def __call__(self, batch: Batch) -> Optimum:
        """The optimum of every row."""
        guides = self.guides(batch, slice(None), 1)
        if self._second is None and not self.reason:
            self._prepare(guides)
        if self._second is None:
            return self._by_first_order(batch, self.schedule)
        return self._by_second_order(guides, batch, *self._second)

    def _prepare(self, guides: LocalGuides) -> None:
        """Find out, on one row, whether the second-order method applies to the pair."""
        form, lam = guides.gaussian_form(), guides.lam()
        if form is None:
            self.reason = "lambda is not that of one Gaussian over the latents of a row"
            return
        given, schedule = (self.model, self.layout, form.parts), self.schedule
        dtype = next(iter(lam.values())).dtype
        density, curvature = Density(*given, dtype), Curvature(*given)
        try:
            u, row = form.gaussians(lam).mean[:1], guides.batch.take(slice(1))
            curvature.at(u.to(dtype), row)
            density.slope(u.unsqueeze(0), row)
        except Exception as error:  # a program that torch.func cannot follow; what else is wrong will show below
            self.reason = f"{type(error).__name__} under torch.func: {str(error).splitlines()[0]}"
            warnings.warn(
                f"Each row's own guide is sought by first order, which is slower: {self.reason}",
                PplvaeWarning,
                stacklevel=2,
            )
            return
        self._second = form, SecondOrder(density, curvature, schedule.tolerance, schedule.max_steps, self.seed)

    def _by_first_order(self, batch: Batch, schedule: Schedule, start: Offsets | None = None) -> Optimum:
        """Some rows after the other: so few that what a step makes of them stays in the cache."""
        found = []
        for rows in torch.arange(len(batch)).split(rows_at_once(batch.tensors, schedule.draws)):
            make = partial(self.guides, batch.take(rows))
            some = None if start is None else {key: offset[rows] for key, offset in start.items()}
            found.append(optimise(make, len(rows), schedule, self.seed, some))
        return joined(found)

    def _by_second_order(self, guides: LocalGuides, batch: Batch, form: GaussianForm, search: SecondOrder) -> Optimum:
        lam = guides.lam()
        dtype = next(iter(lam.values())).dtype
        everyone = form.gaussians(lam)
        blank = torch.full_like(everyone.mean[:, 0], torch.nan)
        offsets = {key: torch.zeros_like(start) for key, start in lam.items()}
        steps = torch.zeros_like(batch.keys)
        optimum = Optimum(
            offsets, [Status.NONFINITE] * len(batch), steps, [SECOND_ORDER] * len(batch), blank, blank.clone()
        )
        rows = torch.nonzero(everyone.is_proper()).flatten()
        if len(rows) == 0:
            return optimum
        start, here = everyone.take(rows), batch.take(rows)
        found = search(start, here)
        self._polish(found, search, form, start, here, {key: some[rows] for key, some in lam.items()}, optimum, rows)
        moved = form.lam(found.gaussians, dtype)
        settled = search.is_settled(found)
        kept = settled | (found.gain > 2 * found.stderr)
        for key, values in moved.items():
            offsets[key][rows] = per_row(kept, values - lam[key][rows], torch.zeros_like(values))
        steps[rows] = found.steps
        optimum.shortfall[rows], optimum.shortfall_stderr[rows] = found.shortfall
        used = found.steps + self.schedule.window > self.schedule.max_steps
        finite = found.gain.isfinite()
        for row, ok, full, well in zip(rows.tolist(), settled.tolist(), used.tolist(), finite.tolist(), strict=True):
            ended = Status.MAX_STEPS if full else Status.SHORT if well else Status.NONFINITE
            optimum.status[row] = Status.CONVERGED if ok else ended
        return optimum

    def _polish(
        self,
        found: Found,
        search: SecondOrder,
        form: GaussianForm,
        start: Gaussians,
        batch: Batch,
        lam: Offsets,
        optimum: Optimum,
        rows: Tensor,
    ) -> None:
        """Go on by first order with the rows that are not at their optimum yet, in place."""
        left = torch.nonzero(~search.is_settled(found) & found.gain.isfinite()).flatten()
        steps = self.schedule.max_steps - search.steps_of_all  # the same for every row, whatever the others took
        if len(left) == 0 or steps < self.schedule.window:
            return
        dtype = next(iter(lam.values())).dtype
        best = found.take(left)
        some = {key: values[left] for key, values in lam.items()}
        began = {key: values - some[key] for key, values in form.lam(best.gaussians, dtype).items()}
        theirs = self._by_first_order(batch.take(left), replace(self.schedule, max_steps=steps), began)
        gaussians = form.gaussians({key: some[key] + offset for key, offset in theirs.offsets.items()})
        curvature = search.curvature_under(gaussians, batch.take(left))
        other = Found(
            gaussians, curvature, *search.test(start.take(left), gaussians, curvature, batch.take(left), -1), theirs.steps
        )
        better = search.better(other, best)
        found.put(left[better], other.take(better))
        found.steps[left] += theirs.steps
        for row in rows[left[better]].tolist():
            optimum.method[row] = FIRST_ORDER
