"""`compare` and `amortisation_gap`: where the nats of each row go."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pplvae.comparison.columns import (
    encoder_columns,
    evidence_gaps,
    parameter_columns,
    parted,
    skipped_columns,
    worth_refining,
)
from pplvae.comparison.ladder import Rung, families_of, in_words
from pplvae.comparison.reconstruction import with_reconstructions
from pplvae.data import as_parts
from pplvae.evidence.annealing import Annealing
from pplvae.evidence.log_evidence import (
    annealed_evidence,
    around_encoder,
    check_density,
    check_local,
    check_method,
    importance_evidence,
)
from pplvae.programs.estimates import log_mean_exp
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Program
from pplvae.results.arviz import pareto_k
from pplvae.results.comparison import Comparison, shown_of
from pplvae.scoring.chunks import Chunk, over_chunks
from pplvae.scoring.gaps import GUIDES, drawn, ending_columns, gap_columns
from pplvae.scoring.precision import FEWEST_DRAWS, FEWEST_PLAIN_DRAWS, FEWEST_WEIGHTS, Precision
from pplvae.scoring.tables import Columns, merged
from pplvae.search.optimum import Schedule
from pplvae.search.richer_families import RicherFamily

_SCREEN = 0.1  # nats


def amortisation_gap(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    particles: int | None = None,
    stderr: float = 0.1,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    seed: int = 0,
    chunk_size: int = 1000,
    memory: int | str | None = None,
    store: str | Path | None = None,
    progress: bool = False,
) -> Comparison:
    """What one shared encoder costs: a guide of its own is optimised for every row, the decoder held fixed.

    The gap of row i is the highest ELBO of the guide's own family at that row, minus the ELBO of the amortised guide.
    Both are estimated from the same fresh draws, independent of those that the local guide was optimised with. The
    programs run in eval mode, without the scales of the data plate and of `poutine.scale`, and log q is that of the
    latents alone; parameters come from the programs and the param store as they are.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. It needs a data plate: the README says what a
            pair needs.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Several sets, which are all of a mapping or the train and test rows of a whole `Data`, are measured side by
            side.
        particles: Monte Carlo draws per row. An even number; by default as many as `stderr` needs.
        stderr: the largest Monte Carlo standard error of a row that is asked for, in nats. A row takes 100 draws, or
            that doubled so often that by a pilot sample none of its errors will be larger, 6400 at most. The pilot's
            draws are not used for anything else, so that nothing is biased. Without effect where `particles` is given.
        tolerance: nats per row; a row has converged if the upper 95 % end of its `shortfall` is below that.
        max_steps: steps of the search for each row's own guide, at most.
        seed: names all noise: the same seed gives the same bits. A row's answer does not depend on the other rows.
        chunk_size: rows at once, at most. Memory and speed depend on it, numbers do not.
        memory: what the process may take beside the rows: a number of bytes, or text such as "2GiB". Rows at once are
            fewer where they would need more. By default half of what there is, 8 GiB at most.
        store: a folder that rows are written to as they are measured, chunk by chunk; what is there from an interrupted
            call is not computed again.
        progress: show a progress bar, on a terminal.

    Returns:
        A `Comparison`. Its `rows` hold `elbo_amortised`, `elbo_local`, `amortisation_gap`, in nats per row, each with
        `<name>_stderr` (Monte Carlo), the number of `draws` that they took, and how each row's optimisation ended:
        `shortfall`, nats that a further step would win at the returned guide by draws that the search has not seen,
        with `shortfall_stderr`; `status`, "converged" if the upper 95 % end of that is below the tolerance, else
        "short", "untested" (discrete latents are drawn), "max_steps", "imprecise" or "nonfinite" (see `Status`);
        `steps` and `method`, "second_order" for Gaussian guides, "first_order" (Adam) for all others and for rows that
        the former did not settle.

    Raises:
        DataError: rows that cannot be used; ShapeError if their numbers differ.
        ProgramError: a pair that cannot be compared row by row; the message says what to change.

    References:
        Inference suboptimality in variational autoencoders (Cremer, Li and Duvenaud, 2018), arXiv 1801.03558.
    """
    precision = Precision.of(particles, stderr, FEWEST_DRAWS)
    asked = _Asked(precision, Schedule(tolerance=tolerance, max_steps=max_steps))
    walk = {"chunk_size": chunk_size, "memory": memory, "store": store, "progress": progress}
    return _compare(model, guide, rows, asked, seed=seed, **walk)


def compare(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    families: Sequence[Any] = (),
    evidence: str | None = "importance",
    annealing: Annealing | None = None,
    screen: bool | float = False,
    simulated: int = 40,
    particles: int | None = None,
    stderr: float = 0.1,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    seed: int = 0,
    chunk_size: int = 1000,
    memory: int | str | None = None,
    store: str | Path | None = None,
    progress: bool = False,
) -> Comparison:
    """The amortisation gap, and what is lost beyond it: an estimate of log p(v) for every row.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. It needs a data plate: the README says what a
            pair needs.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Several sets, which are all of a mapping or the train and test rows of a whole `Data`, are measured side by
            side.
        families: richer families in which each row's optimum is sought as well, started from the row's own guide:
            "full_covariance", "flow", "mixture", or yours (see `Transport`).
        evidence: how log p(v) is estimated, on draws of its own: "importance" or "ais", see `log_evidence` (lower
            bounds in expectation, so that the approximation gap is under-estimated); None leaves it out.
        annealing: settings of annealed importance sampling. For "ais".
        screen: optimise only the rows whose gap may exceed so many nats (True: 0.1). Importance weights of the
            encoder's guide bound a row's gap from above where their k-hat is below 0.7; a row whose bound is lower is
            skipped: its `status` is "skipped", its gaps are NaN, and `amortisation_gap_bound` says what it may lose at
            most.
        simulated: rows to simulate from the model. They are searched from the encoder and from the latents that they
            were made from, to say how often the search misses a better optimum. Where the guide is no Gaussian, a
            quarter as many as there are rows at most. 0 leaves that out.
        particles: Monte Carlo draws per row. An even number, of importance weights as well; by default as many as
            `stderr` needs.
        stderr: the largest Monte Carlo standard error of a row that is asked for, in nats. Importance evidence counts.
            A row takes 100 draws (1000 with any evidence and with a screen, for k-hat), or that doubled so often that
            by a pilot sample none of its errors will be larger, 6400 at most. The pilot's draws are not used for
            anything else, so that nothing is biased. A family is scored with as many draws as the row's own guide,
            whatever its own errors. Without effect where `particles` is given.
        tolerance: nats per row; a row has converged if the upper 95 % end of its `shortfall` is below that.
        max_steps: steps of the search for each row's own guide, at most.
        seed: names all noise: the same seed gives the same bits. A row's answer does not depend on the other rows.
        chunk_size: rows at once, at most. Memory and speed depend on it, numbers do not.
        memory: what the process may take beside the rows: a number of bytes, or text such as "2GiB". Rows at once are
            fewer where they would need more. By default half of what there is, 8 GiB at most.
        store: a folder that rows are written to as they are measured, chunk by chunk; what is there from an interrupted
            call is not computed again.
        progress: show a progress bar, on a terminal.

    Returns:
        A `Comparison` whose `rows` also hold `log_evidence`, `approximation_gap` = log_evidence - elbo_local and
        `inference_gap` = log_evidence - elbo_amortised, each with `<name>_stderr`; what `log_evidence` says of its
        weights, as `pareto_k_importance` or `pareto_k_ais` and so on; and the same of the two guides as proposals,
        `pareto_k_amortised` and `pareto_k_local` (below 0.5 good, above 0.7 the weights cannot be trusted). For each
        family, whose members include the row's own guide, `elbo_local_<family>` and `family_gap_<family>` =
        elbo_local_<family> - elbo_local, what the guide's own family costs against it: where that is below zero by more
        than 3 standard errors and the tolerance, the search has failed. The attributes `simulated` and `missed` say on
        how many simulated rows better optima were looked for, and in how many the search had missed one; `unseen`, in
        how many estimates of log p(v) would have missed the mode that the row came from.

    Raises:
        UnknownNameError: an unknown `evidence` or family.
        ValueError: numbers out of range.
        DataError: rows that cannot be used; ShapeError if their numbers differ.
        ProgramError: a pair that cannot be compared row by row; the message says what to change.
    """
    if evidence is not None:
        check_method(evidence)
    if simulated < 0:
        raise ValueError(f"`simulated` is a number of rows, 0 or more; got {simulated}.")
    if screen is True:
        screen = _SCREEN
    with_weights = evidence is not None or screen is not False
    asked = _Asked(
        Precision.of(particles, stderr, FEWEST_WEIGHTS if with_weights else FEWEST_DRAWS),
        Schedule(tolerance=tolerance, max_steps=max_steps),
        evidence=evidence,
        annealing=annealing or Annealing(),
        ladder=families_of(families),
        screen=None if screen is False else screen,
        simulated=simulated,
        reconstruct=True,
    )
    walk = {"chunk_size": chunk_size, "memory": memory, "store": store, "progress": progress}
    return _compare(model, guide, rows, asked, seed=seed, **walk)


@dataclass(frozen=True)
class _Asked:
    """What a comparison was asked for."""

    precision: Precision
    schedule: Schedule
    evidence: str | None = None
    annealing: Annealing = field(default_factory=Annealing)
    ladder: Sequence[RicherFamily] = ()
    screen: float | None = None
    simulated: int = 0
    reconstruct: bool = False

    def measure(self, chunk: Chunk) -> Columns:
        """Everything that the rows will hold for a chunk."""
        if self.screen is None:
            return self._refine(chunk)
        check_density(chunk)
        everyone = torch.arange(len(chunk.batch))
        elbo, log_weights = chunk.scores("amortised")(self.precision.fewest, index=everyone, stream=Stream.SCREEN)
        weigh = around_encoder(chunk)
        if weigh is not None:  # which may have met modes that the encoder does not know
            log_weights, (evidence, stderr) = weigh(self.precision.fewest, everyone, Stream.SCREEN)
        else:
            evidence, stderr = log_mean_exp(log_weights)
        bound, worth = worth_refining(elbo.mean(0), log_weights, evidence, stderr, self.screen)
        groups: list[tuple[Tensor, Columns]] = [(everyone, {"amortisation_gap_bound": bound})]
        for chosen, follow in ((worth, self._refine), (~worth, self._pass_over)):
            index = torch.nonzero(chosen).flatten()
            if len(index):
                groups.append((index, follow(chunk.take(index))))
        return merged(groups, len(bound))

    def _refine(self, chunk: Chunk) -> Columns:
        """Rows that get a guide of their own."""
        if self.evidence is not None:
            check_local(chunk)
        rungs = [Rung(chunk, family) for family in self.ladder]
        scores = {guide: chunk.scores(guide) for guide in GUIDES}
        precision = self.precision if chunk.own.gaussian is not None else self.precision.at_least(FEWEST_PLAIN_DRAWS)
        everyone = torch.arange(len(chunk.batch))
        pilot = None if precision.is_exact else gap_columns(drawn(scores, precision.pilot, everyone, Stream.PILOT))
        groups = []
        for count, index in precision.groups(everyone, pilot):
            sample = drawn(scores, count, index, Stream.SCORE)
            found = gap_columns(sample) | ending_columns(chunk, index, sample)
            if self.evidence is not None:
                found |= {f"pareto_k_{guide}": pareto_k(scored.log_weights) for guide, scored in sample.items()}
            for rung in rungs:
                found |= rung.columns(index, sample["local"])
            groups.append((index, {"draws": torch.full_like(index, count)} | found))
        columns = merged(groups, len(chunk.batch))
        if self.evidence is not None:
            columns |= evidence_gaps(columns, self._evidence(chunk), self.evidence)
        return columns | parameter_columns(chunk)

    def _evidence(self, chunk: Chunk) -> Columns:
        if self.evidence == "ais":
            return annealed_evidence(chunk, self.annealing)
        return importance_evidence(chunk, self.precision)

    def _pass_over(self, chunk: Chunk) -> Columns:
        """Rows that the screen skips."""
        scores = {"amortised": chunk.scores("amortised")}
        everyone = torch.arange(len(chunk.batch))
        pilot = None
        if not self.precision.is_exact:
            pilot = encoder_columns(drawn(scores, self.precision.pilot, everyone, Stream.PILOT))
        groups = []
        for count, index in self.precision.groups(everyone, pilot):
            found = encoder_columns(drawn(scores, count, index, Stream.SCORE)) | skipped_columns(index)
            groups.append((index, {"draws": torch.full_like(index, count)} | found))
        return merged(groups, len(chunk.batch))


def _compare(model: Program, guide: Program, rows: Any, asked: _Asked, *, seed: int, **walk: Any) -> Comparison:
    parts = as_parts(rows)
    settings = {
        "seed": seed,
        **asked.precision.settings(),
        **asked.schedule.settings(),
        "evidence": asked.evidence or "none",
        "families": ", ".join(family.name for family in asked.ladder),
        "screen": "none" if asked.screen is None else asked.screen,
        "annealing": str(asked.annealing) if asked.evidence == "ais" else "none",
        "family_options": "; ".join(map(in_words, asked.ladder)),
    }
    about: dict[str, Any] = {"kind": Comparison.kind, "asked": settings, "simulated": asked.simulated}
    found = over_chunks(asked.measure, model, guide, parts, asked.schedule, seed=seed, **about, **walk)
    found, parameters = parted(found)
    shown = shown_of(found, parts)
    if asked.reconstruct and shown.variables:
        shown = with_reconstructions(shown, model, guide, parts, asked.schedule, seed)
    return Comparison(found, shown, parameters)
