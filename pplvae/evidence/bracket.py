"""`evidence_bracket`: annealing settings certified on rows whose posterior can be drawn from exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from pplvae.data import as_parts
from pplvae.evidence.annealing import Annealer, Annealing, AnnealingPath
from pplvae.evidence.log_evidence import check_local, forward_columns
from pplvae.evidence.paths import per_path, space_of
from pplvae.programs.batch import Batch
from pplvae.programs.estimates import log_mean_exp
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Program
from pplvae.programs.simulation import simulate, told_apart
from pplvae.results.base import Result
from pplvae.scoring.chunks import Chunk, over_chunks
from pplvae.scoring.tables import Columns, add
from pplvae.search.optimum import Schedule
from pplvae.statistics.evidence import bracket_lines, bracket_summary, bracket_warnings
from pplvae.statistics.means import mean_and_stderr_of


@dataclass(frozen=True, eq=False, repr=False)
class Bracket(Result):
    """Log p(v) of simulated rows from both sides.

    Attributes:
        rows: over dimension "row" (the ids are those of the templates), in nats: `lower` and `upper`, bounds in
            expectation, each with `<name>_stderr` (Monte Carlo), and `width` = upper - lower with its error; the
            reverse chains of a row start from one draw, so the error of `upper` leaves out what that draw adds;
            `acceptance` and `temperatures` of the forward run.
    """

    kind: ClassVar[str] = "bracket"
    essential: ClassVar[str] = "width"
    figures: ClassVar[tuple[str, ...]] = ("row_histogram",)

    @property
    def width(self) -> tuple[float, float]:
        """Mean width in nats per row, and its standard error over rows."""
        return mean_and_stderr_of(self.rows["width"].values)

    def summary(self) -> xr.Dataset:
        """Means over rows.

        Returns:
            Over dimensions "part" and "term" (`lower`, `upper`, `width`): `mean` in nats per row, `stderr` over rows,
            `mc_stderr`, the part of it that more chains would remove, `count` and `left_out`.
        """
        return bracket_summary(self.rows)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return bracket_warnings(self.summary())

    def _lines(self) -> list[str]:
        return bracket_lines(self.summary())


def evidence_bracket(
    model: Program,
    guide: Program,
    rows: Any,
    *,
    annealing: Annealing | None = None,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    seed: int = 0,
    chunk_size: int = 1000,
    memory: int | str | None = None,
    store: str | Path | None = None,
    progress: bool = False,
) -> Bracket:
    """Bidirectional Monte Carlo: how far annealed importance sampling is from log p(v), at most.

    For every given row one is simulated from the model (the given rows serve as templates: their number, covariates and
    masks). The latents it was made from are an exact draw of its posterior, from which the annealing can be run
    backwards; that gives an upper bound on log p(v) where the forward run gives a lower one. The bracket holds for
    simulated rows only; it certifies settings as far as real rows are like them.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. It needs a data plate: the README says what a
            pair needs.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Several sets, which are all of a mapping or the train and test rows of a whole `Data`, are measured side by
            side. They serve as templates.
        annealing: settings of annealed importance sampling. They are what is certified.
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
        A `Bracket`.

    Raises:
        DataError: rows that cannot be used; ShapeError if their numbers differ.
        ProgramError: a pair that cannot be compared row by row, or a model that cannot be simulated from.

    References:
        Sandwiching the marginal likelihood using bidirectional Monte Carlo (Grosse, Ghahramani and Adams, 2015),
        arXiv 1511.02543.
    """
    settings = annealing or Annealing()
    schedule = Schedule(tolerance=tolerance, max_steps=max_steps)

    def measure(chunk: Chunk) -> Columns:
        check_local(chunk)
        return _bracket_columns(chunk, settings)

    asked = schedule.settings() | {"annealing": str(settings), "seed": seed}
    walk: dict[str, Any] = {"chunk_size": chunk_size, "memory": memory, "store": store, "progress": progress}
    about: dict[str, Any] = {"kind": Bracket.kind, "asked": asked, "batch_of": _told_apart}
    return Bracket(over_chunks(measure, model, guide, as_parts(rows), schedule, **about, seed=seed, **walk))


def _told_apart(tensors: Sequence[Tensor]) -> Batch:
    """Templates, of which equal ones too are simulated differently."""
    return told_apart(Batch.of(tensors))


def _bracket_columns(templates: Chunk, settings: Annealing) -> Columns:
    made = simulate(templates.own.model, templates.own.layout, templates.batch, (templates.own.seed, Stream.SIMULATE))
    chunk = Chunk(templates.own, made.batch)
    exact = space_of(chunk, torch.arange(len(chunk.batch)), settings.start, 1).vectors(made.values)

    def both_ways(annealer: Annealer, path: AnnealingPath, index: Tensor) -> Columns:
        forward = forward_columns(annealer, path)
        backward, _ = annealer.reverse(path, exact[:, index].expand(settings.particles, -1, -1))
        below, stderr = log_mean_exp(backward, mirrored=False)
        columns: Columns = {}
        add(columns, "lower", forward["log_evidence"], forward["log_evidence_stderr"])
        add(columns, "upper", -below, stderr)
        width = columns["upper"] - columns["lower"]
        add(columns, "width", width, torch.hypot(columns["lower_stderr"], columns["upper_stderr"]))
        return columns | {name: forward[name] for name in ("acceptance", "temperatures")}

    return per_path(chunk, settings, both_ways, passes=2)
