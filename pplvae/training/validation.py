"""The ELBO of held-out rows, between two epochs."""

import torch
from torch import Tensor

from pplvae.data import Rows
from pplvae.isolate import evaluation_mode, validation
from pplvae.programs.batch import Batch
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Layout, Program, log_model, log_weights_of, run_model
from pplvae.programs.sites import sum_sites

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
    """

    def __init__(self, model: Program, guide: Program, layout: Layout, rows: Rows, seed: int, particles: int) -> None:
        self._model, self._guide, self._layout = model, guide, layout
        self._rows, self._seed, self._particles = Batch.of(rows.tensors), seed, particles

    def __call__(self) -> Tensor:
        """One number per row, in nats."""
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
