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
from pplvae.comparison.gaussian import GaussianForm
from pplvae.comparison.localise import LocalGuides, Offsets
from pplvae.comparison.optimise import FIRST_ORDER, SECOND_ORDER, Optimum, Schedule, Status, joined, optimise
from pplvae.comparison.refinement import per_row
from pplvae.comparison.second_order import SecondOrder
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
        if not self.reason:
            try:
                return self._by_second_order(batch)
            except _NotGaussian:
                self.reason = "lambda is not that of one Gaussian over the latents of a row"
            except Warning:  # an error by the caller's `-W error`: it says nothing about torch.func
                raise
            except Exception as error:  # a program that torch.func cannot follow; what else is wrong will show below
                self.reason = f"{type(error).__name__} under torch.func: {str(error).splitlines()[0]}"
                warnings.warn(
                    f"Each row's own guide is sought by first order, which is slower: {self.reason}",
                    PplvaeWarning,
                    stacklevel=2,
                )
        return self._by_first_order(batch, self.schedule)

    def _by_first_order(self, batch: Batch, schedule: Schedule, start: Offsets | None = None) -> Optimum:
        """Some rows after the other: so few that what a step makes of them stays in the cache."""
        found = []
        for rows in torch.arange(len(batch)).split(rows_at_once(batch.tensors, schedule.draws)):
            make = partial(self.guides, batch.take(rows))
            some = None if start is None else {key: offset[rows] for key, offset in start.items()}
            found.append(optimise(make, len(rows), schedule, self.seed, some))
        return joined(found)

    def _by_second_order(self, batch: Batch) -> Optimum:
        guides = self.guides(batch, slice(None), 1)
        lam = guides.lam()
        form, search = self._second or self._made(guides)
        found = search(form.gaussians(lam), batch)
        moved = form.lam(found.gaussians)
        judged = found.settled & (found.stderr < self.schedule.tolerance)
        # Where it cannot be told, a row goes back to its start, and on by first order.
        kept = found.gain > torch.where(judged, -1, 2) * found.stderr
        offsets = {key: per_row(kept, moved[key] - start, torch.zeros_like(start)) for key, start in lam.items()}
        settled = found.settled & kept
        status = [Status.CONVERGED if row else Status.MAX_STEPS for row in settled.tolist()]
        optimum = Optimum(offsets, status, found.steps, [SECOND_ORDER] * len(batch))
        self._polish(optimum, torch.nonzero(~settled).flatten(), search.most_steps, batch)
        return optimum

    def _made(self, guides: LocalGuides) -> tuple[GaussianForm, SecondOrder]:
        form = guides.gaussian_form()
        if form is None:
            raise _NotGaussian
        given = self.model, self.layout, form.parts
        schedule = self.schedule
        self._second = (
            form,
            SecondOrder(Density(*given), Curvature(*given), schedule.tolerance, schedule.max_steps, self.seed),
        )
        return self._second

    def _polish(self, optimum: Optimum, rows: Tensor, taken: int, batch: Batch) -> None:
        """Go on by first order with the rows that have not settled."""
        steps = self.schedule.max_steps - taken  # the same for every row, whatever the others took
        if len(rows) == 0 or steps < self.schedule.window:
            return
        start = {key: offset[rows] for key, offset in optimum.offsets.items()}
        theirs = self._by_first_order(batch.take(rows), replace(self.schedule, max_steps=steps), start)
        for key, offset in optimum.offsets.items():
            offset[rows] = theirs.offsets[key]
        optimum.steps[rows] += theirs.steps
        for row, status in zip(rows.tolist(), theirs.status, strict=True):
            optimum.status[row], optimum.method[row] = status, FIRST_ORDER


class _NotGaussian(Exception):
    """The pair's lambda is not that of a Gaussian."""
