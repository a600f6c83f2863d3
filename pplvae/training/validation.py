"""The ELBO of held-out rows, between two epochs."""

from dataclasses import replace

import torch
from torch import Tensor

from pplvae.data import Rows
from pplvae.isolate import evaluation_mode, validation
from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Layout, Program, log_model, log_weights_of, run_model
from pplvae.programs.sites import sum_sites
from pplvae.ranks.group import Ranks

_ROWS_AT_ONCE = 4096


class Validation:
    """The ELBO of every held-out row, in eval mode, with the same noise in every epoch.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        rows: held out.
        seed: names the noise.
        particles: draws per row.
        ranks: of the job; each takes rows of its own, all together take every row once.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        layout: Layout,
        rows: Rows,
        seed: int,
        particles: int,
        ranks: Ranks | None = None,
    ) -> None:
        self._model, self._guide, self._layout, self._ranks = model, guide, layout, ranks or Ranks()
        self._seed, self._particles, self._count = seed, particles, len(rows)
        mine = self._ranks.share(len(rows))
        positions = torch.arange(len(rows), device=rows.values.device)[mine]
        self._rows = replace(Batch.of([tensor[mine] for tensor in rows.tensors]), positions=positions)

    def mean_and_stderr(self) -> tuple[float, float]:
        """Mean ELBO over all rows, in nats, and its standard error over rows, NaN of one; the same on every rank."""
        elbos = self() if len(self._rows) else torch.zeros(0, dtype=torch.float64)
        if not self._ranks.is_job:
            stderr = float(elbos.std() / len(elbos) ** 0.5) if len(elbos) > 1 else float("nan")
            return float(elbos.mean()), stderr
        mean = self._ranks.sum_(elbos.sum()) / self._count
        squares = self._ranks.sum_((elbos - mean).square().sum())
        return float(mean), float((squares / (self._count - 1)).sqrt() / self._count**0.5)

    def __call__(self) -> Tensor:
        """One number per row of this rank, in nats."""
        at_once = max(1, _ROWS_AT_ONCE // self._particles)
        with torch.no_grad(), validation(False), evaluation_mode(self._model, self._guide):
            parts = [
                self._elbos(self._rows.take(slice(first, first + at_once)))
                for first in range(0, len(self._rows), at_once)
            ]
        return torch.cat(parts).cpu().to(torch.float64)  # numbers are read off it: one look at the device is enough

    def _elbos(self, chunk: Batch) -> Tensor:
        layout = self._layout
        if layout.guide:
            address = (self._seed, Stream.VALIDATE)
            some = chunk.times(self._particles)
            return log_weights_of(self._model, self._guide, layout, some, address, "antithetic").mean(0)
        # The guide draws nothing: the ELBO is log p(v), exactly.
        if layout.summed:
            return log_model(self._model, chunk, {}, layout)[0]
        return sum_sites(run_model(self._model, chunk, {}), layout.model)
