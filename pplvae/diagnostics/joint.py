"""The divergence that fitting minimises, on rows whose distribution is known."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import xarray as xr
from torch import Tensor

from pplvae.errors import ShapeError
from pplvae.isolate import validation
from pplvae.programs.batch import Batch
from pplvae.programs.elements import refuse_global_latents
from pplvae.programs.estimates import mean_and_stderr
from pplvae.programs.failures import in_users_words
from pplvae.programs.noise import Stream
from pplvae.programs.opening import one_set, opened
from pplvae.programs.pieces import check_chunk_size, walk
from pplvae.programs.reading import Program, log_weights_of
from pplvae.programs.simulation import told_apart
from pplvae.programs.widening import widened
from pplvae.results.base import Result
from pplvae.statistics.means import left_out, mean_and_stderr_of, means_of


@dataclass(frozen=True, eq=False, repr=False)
class JointDivergence(Result):
    """KL(p_*(v) q(h | v) || p(v, h; theta)) over rows from a known p_*.

    Attributes:
        rows: over dimension "row" (coordinates: id, part, and label where there is one), in nats: `log_true`; `elbo`
            and `difference`, log p_*(v) - ELBO, each with `<name>_stderr` (Monte Carlo).
    """

    kind: ClassVar[str] = "joint divergence"
    essential: ClassVar[str] = "difference"
    figures: ClassVar[tuple[str, ...]] = ("row_histogram",)

    @property
    def mean(self) -> float:
        """Mean over rows of log p_*(v) - ELBO, in nats: the divergence."""
        return mean_and_stderr_of(self.rows["difference"].values)[0]

    @property
    def stderr(self) -> float:
        """Its standard error over rows, Monte Carlo noise included."""
        return mean_and_stderr_of(self.rows["difference"].values)[1]

    def summary(self) -> xr.Dataset:
        """Means over rows.

        Returns:
            Over dimensions "part" and "term" (`log_true`, `elbo`, `difference`): `mean` in nats per row, `stderr` over
            rows, `mc_stderr`, the part of it that more draws would remove, `count` and `left_out`.
        """
        return means_of(self.rows, ["log_true", "elbo", "difference"])

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return left_out(self.summary(), "difference")

    def _lines(self) -> list[str]:
        line = self.summary().sel(term="difference")
        mean, stderr, count = (line[name].item() for name in ("mean", "stderr", "count"))
        return [f"KL(p_*(v) q(h|v) || p(v, h)) = {mean:.4f} ± {stderr:.4f} nats per row ({count} rows)"]


def joint_kl(
    model: Program,
    guide: Program,
    rows: Any,
    log_true: Callable[..., Tensor],
    *,
    particles: int = 100,
    seed: int = 0,
    chunk_size: int = 1000,
    progress: bool = False,
) -> JointDivergence:
    """The divergence that fitting minimises, where the distribution of the rows is known.

    KL(p_*(v) q(h | v) || p(v, h)) = KL(p_*(v) || p(v)) + E KL(q(h | v) || p(h | v)): what the model and what the
    inference lose, together. Zero if and only if the model is p_* and the guide its posterior.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        rows: a tensor or array, a tuple of them, rows from `load_data` (`data.test`), or a mapping from names to these.
            Of several sets, choose one. They must be independent draws from p_*.
        log_true: called as `log_true(*rows)`: log p_*(v_i) in nats, shape (row,).
        particles: Monte Carlo draws per row.
        seed: names all noise: the same seed gives the same bits.
        chunk_size: rows at once, at most. Memory and speed depend on it, numbers do not.
        progress: show a progress bar, on a terminal.

    Raises:
        DataError: rows that cannot be used; ShapeError: `log_true` gives another shape.
        ProgramError: a pair whose rows cannot be told apart.
    """
    if particles < 2:
        raise ValueError(f"`particles` must be at least 2, got {particles}.")
    check_chunk_size(chunk_size)
    some = one_set(rows)
    shown = {"doing": "scoring", "progress": progress}
    with opened(model, guide, some.tensors, seed) as layout, torch.no_grad():
        refuse_global_latents(layout, "The joint divergence")
        truth = log_true(*some.tensors)
        if truth.shape != (len(some),):
            raise ShapeError(
                f"`log_true` must give one number per row, shape {(len(some),)}; got {tuple(truth.shape)}."
            )
        whole = told_apart(Batch.of(some.tensors))
        with validation(False), in_users_words("pair of model and guide", some.tensors):
            weights = [
                log_weights_of(model, guide, layout, whole.take(piece).times(particles), (seed, Stream.SCORE))
                for piece in walk(some.tensors, particles, rows=len(whole), chunk_size=chunk_size, **shown)
            ]
    elbo, elbo_stderr = mean_and_stderr(widened(torch.cat(weights, 1)), mirrored=False)
    columns = {
        "log_true": widened(truth),
        "elbo": elbo,
        "elbo_stderr": elbo_stderr,
        "difference": widened(truth) - elbo,
        "difference_stderr": elbo_stderr,
    }
    arrays = {name: ("row", value.cpu().double().numpy(), {"units": "nats"}) for name, value in columns.items()}
    settings = {"particles": particles, "seed": seed}
    return JointDivergence(xr.Dataset(arrays, coords=some.coordinates(), attrs=settings))
