"""Each row's own guide, by the method that fits the pair: second order where lambda is Gaussian, else first order."""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property, partial

import torch
from torch import Tensor

from pplvae.errors import PplvaeWarning
from pplvae.programs.batch import Batch
from pplvae.programs.chunking import rows_at_once
from pplvae.programs.estimates import mean_and_stderr
from pplvae.programs.noise import Stream
from pplvae.programs.progress import Progress
from pplvae.programs.reading import Layout, Program
from pplvae.programs.shapes import Lambda
from pplvae.search.first_order import optimise
from pplvae.search.further import prove, untested
from pplvae.search.known_latents import offsets_at
from pplvae.search.local_guides import LocalGuides
from pplvae.search.optimum import Optimum, Schedule, Status, joined
from pplvae.search.other_modes import Modes
from pplvae.search.own_gaussian import Encoded, Missed, OwnGaussians
from pplvae.search.posterior import Posterior
from pplvae.search.refinement import per_row
from pplvae.search.second_order import SecondOrder

_DRAWS = 512  # by which two ends of a search are compared
_LOOKS = 4  # draws, at which float32 is held against float64
_CLEARLY = 5  # times the tolerance: two ends in the same mode are not so far apart


class OwnGuides:
    """The search for every row's own guide, for all rows of a pair.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        schedule: settings.
        seed: names the noise.
        progress: shows how far a search by first order is; None shows nothing.

    Attributes:
        reason: why the second-order method does not apply, in a clause; empty where it does.
        gaussian: the second-order method; None until it is known whether it applies, and where it does not.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        layout: Layout,
        schedule: Schedule,
        seed: int,
        *,
        progress: Progress | None = None,
    ) -> None:
        self.model, self.guide, self.layout = model, guide, layout
        self.schedule, self.seed, self.progress = schedule, seed, progress or Progress()
        self.reason = "" if schedule.second_order else "it was not asked for"
        self.gaussian: OwnGaussians | None = None
        self._posterior: Posterior | None = None

    @property
    def is_decided(self) -> bool:
        """Whether it is known if the second-order method applies."""
        return self.gaussian is not None or bool(self.reason)

    def guides(self, batch: Batch, index: Tensor | slice, particles: int) -> LocalGuides:
        """The guides of some of the rows."""
        return LocalGuides(self.model, self.guide, self.layout, batch.take(index).times(particles))

    def encoded(self, batch: Batch) -> Encoded | None:
        """The encoder's guides as Gaussians; None where they are none, and where the search cannot follow the model."""
        guides = self.guides(batch, slice(None), 1)
        if not self.is_decided:
            self._choose(guides)
        return self.gaussian.encoded(guides) if self.gaussian is not None else None

    @cached_property
    def of_masked(self) -> "OwnGuides":
        """The search for rows with masked latents, for which a method for whole vectors is none."""
        schedule = replace(self.schedule, second_order=False)
        return OwnGuides(self.model, self.guide, self.layout, schedule, self.seed, progress=self.progress)

    def posterior(self, batch: Batch) -> SecondOrder | None:
        """A search over log p(v_i, u), whatever the guide; see `Posterior.search` for where there is none."""
        return self.gaussian.search if self.gaussian is not None else self._posterior_of(batch).search

    def modes(self, batch: Batch, optimum: Optimum) -> Modes | None:
        """Each row's modes, beginning with that of its own guide; None where they cannot be looked for."""
        if self.gaussian is not None and optimum.gaussians is not None:
            return self.gaussian.modes(optimum, batch)
        return self._posterior_of(batch).modes(batch, optimum.offsets)

    def _posterior_of(self, batch: Batch) -> Posterior:
        if self._posterior is None:
            row = batch.take(slice(1))
            self._posterior = Posterior(self.model, self.guide, self.layout, self.schedule, self.seed, row)
        return self._posterior

    def __call__(self, batch: Batch, encoded: Encoded | None, earlier: Lambda | None = None) -> Optimum:
        """The optimum of every row.

        Args:
            batch: the rows.
            encoded: as the method of that name has it.
            earlier: lambda of the rows' own guides under earlier weights, from where the way may be shorter.
        """
        if self.gaussian is None or encoded is None:
            begin = None if earlier is None else self._nearer(batch, earlier)
            found = self._by_first_order(batch, self.schedule, begin, proven=self._is_smooth)
            return self._precise(batch, found if self._is_smooth else untested(found))
        return self._precise(batch, self.gaussian(encoded, batch, self._by_first_order, earlier))

    def _precise(self, batch: Batch, optimum: Optimum) -> Optimum:
        """Mark rows that float32 has wrong, in place, and take back guides that won by rounding alone."""
        address = (self.seed, Stream.SELECT, 5)
        for rows in torch.arange(len(batch)).split(rows_at_once(batch.tensors, _LOOKS, self.layout.observed)):
            offsets = {key: offset[rows] for key, offset in optimum.offsets.items()}
            guides = self.guides(batch, rows, _LOOKS)
            with torch.no_grad():
                narrow, wide = guides.in_both_widths(offsets, address)
                lost = (narrow - wide).nan_to_num(0.0, torch.inf).mean(0).abs() > _CLEARLY * self.schedule.tolerance
                if not bool(lost.any()):
                    continue
                _, encoder = guides.in_both_widths(guides.zeros(), address)
            wins = (wide.mean(0) > encoder.mean(0)).cpu()
            for k, is_lost in enumerate(lost.tolist()):
                if not is_lost:
                    continue
                row = int(rows[k])
                optimum.status[row] = Status.IMPRECISE
                for offset in optimum.offsets.values():
                    offset[row] = offset[row] if wins[k] else 0.0
        return optimum

    def missed(self, batch: Batch, latents: Mapping[str, Tensor]) -> Missed:
        """What is missed of rows whose latents are known.

        Args:
            batch: the rows.
            latents: by site, as the guide would draw them.
        """
        encoded = self.encoded(batch)
        if self.gaussian is not None and encoded is not None:
            return self.gaussian.missed(encoded, latents, batch, self._by_first_order)
        return self._missed_by_first_order(batch, latents)

    def _missed_by_first_order(self, batch: Batch, latents: Mapping[str, Tensor]) -> Missed:
        make = partial(self.guides, batch)
        rows_first = {name: latents[name].movedim(axis, 0) for name, axis in self.layout.axes.items()}
        begin = offsets_at(self.model, self.guide, self.layout, batch, rows_first, self.schedule, self.seed)
        guides = make(torch.arange(len(batch)), _DRAWS)
        if self.layout.states:  # the search itself begins more than once
            ends = [self._by_first_order(batch, self.schedule, start).offsets for start in (None, begin)]
        else:
            both = {key: torch.cat([zeros, begin[key]]) for key, zeros in guides.zeros().items()}
            found = self._by_first_order(batch.take(torch.arange(len(batch)).repeat(2)), self.schedule, both).offsets
            ends = [{key: offset.chunk(2)[k] for key, offset in found.items()} for k in (0, 1)]
        with torch.no_grad():
            ours, theirs = (guides.log_weights(end, (self.seed, Stream.SELECT, 3)) for end in ends)
        gain, stderr = mean_and_stderr(theirs - ours)
        unseen = self._posterior_of(batch).unseen(batch, ends[0], latents)
        return Missed(gain > _CLEARLY * self.schedule.tolerance + 3 * stderr, unseen)

    def _choose(self, guides: LocalGuides) -> None:
        """Find out, on one row, whether the second-order method applies to the pair."""
        form = guides.gaussian_form()
        if form is None:
            self.reason = "lambda is not that of one Gaussian over the latents of a row"
            return
        lam = {key: values[:1] for key, values in guides.lam().items()}
        dtype = next(iter(lam.values())).dtype
        found = OwnGaussians(self.model, self.layout, form, dtype, self.schedule, self.seed)
        try:
            found.try_on(lam, guides.batch.take(slice(1)))
        except Warning:  # an error by the caller's `-W error`: it says nothing about torch.func
            raise
        except Exception as error:  # a program that torch.func cannot follow; what else is wrong will show below
            self.reason = f"{type(error).__name__} under torch.func: {str(error).splitlines()[0]}"
            warnings.warn(
                f"Each row's own guide is sought by first order, which is slower: {self.reason}",
                PplvaeWarning,
                stacklevel=2,
            )
            return
        self.gaussian = found

    def _nearer(self, batch: Batch, earlier: Lambda) -> Lambda | None:
        """Offsets of guides of an earlier search where their ELBO is higher than the encoder's, elsewhere zero."""
        if self.layout.states:  # the search begins more than once, for modes that no one start leads to
            return None
        draws, found = self.schedule.selection_draws, []
        for rows in torch.arange(len(batch)).split(rows_at_once(batch.tensors, draws, self.layout.observed)):
            guides, lam = self.guides(batch, rows, draws), self.guides(batch, rows, 1).lam()
            zeros = guides.zeros()
            moved = {key: (earlier[key][rows] - lam[key]).nan_to_num(0.0, 0.0, 0.0) for key in zeros}
            with torch.no_grad():
                ours, theirs = (guides.log_weights(at, (self.seed, Stream.SELECT, 4)).mean(0) for at in (zeros, moved))
            found.append({key: per_row(theirs > ours, moved[key], zeros[key]) for key in zeros})
        return {key: torch.cat([some[key] for some in found]) for key in found[0]}

    @property
    def _is_smooth(self) -> bool:
        """Whether the ELBO of a sample is a function of the offsets that can be differentiated."""
        return set(self.layout.discrete) <= set(self.layout.states)

    def _by_first_order(
        self, batch: Batch, schedule: Schedule, start: Lambda | None = None, *, proven: bool = False
    ) -> Optimum:
        """A search by first order, of so many rows at a time that what a step makes of them stays in the cache."""
        pieces = torch.arange(len(batch)).split(rows_at_once(batch.tensors, schedule.draws, self.layout.observed))
        found, most = [], len(pieces) * schedule.max_steps
        with self.progress.bar(most, "steps at most", "step", inside=True) as bar:
            for k, rows in enumerate(pieces):
                make = partial(self.guides, batch.take(rows))
                some = None if start is None else {key: offset[rows] for key, offset in start.items()}
                ended = optimise(make, len(rows), schedule, self.seed, some, tell=bar.update)
                found.append(prove(make, ended, schedule, self.seed) if proven else ended)
                bar.update((k + 1) * schedule.max_steps - bar.n)
        return joined(found)
