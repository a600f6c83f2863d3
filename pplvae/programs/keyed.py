"""Noise keyed by row while a program runs: where the rows lie in what a site draws, and which noise that is."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any

from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample

from pplvae.programs.batch import Batch
from pplvae.programs.discrete import draw, is_enumerable
from pplvae.programs.noise import RowNoise, Stream


class RowAxis(Messenger):
    """Tell the noise where the rows lie in what a site is about to draw, and draw from discrete ones."""

    def __init__(self, noise: RowNoise, dims: Mapping[str, int]) -> None:
        super().__init__()
        self._noise, self._dims = noise, dims

    def _pyro_sample(self, msg: Any) -> None:
        if site_is_subsample(msg):
            return
        self._noise.of_all_rows = msg["name"] not in self._dims
        if msg["name"] in self._dims:
            self._noise.batch_shape = msg["fn"].batch_shape
            self._noise.row_axis = len(msg["fn"].batch_shape) + self._dims[msg["name"]]
        if msg["value"] is None and is_enumerable(msg["fn"]):
            msg["value"], msg["done"] = draw(msg["fn"]), True

    def _pyro_post_sample(self, _msg: Any) -> None:
        self._noise.row_axis, self._noise.of_all_rows = None, False


@contextmanager
def noise_of_step(batch: Batch, program: int, dims: Mapping[str, int] | None = None) -> Iterator[None]:
    """Let what is drawn in a block belong to the rows of a training step; nothing where its noise has no keys.

    Args:
        batch: tiled rows.
        program: 0 for the guide, 1 for the model, 2 for both.
        dims: axis of the rows in each latent site, where that is known.
    """
    if batch.step is None:
        yield
        return
    address = (Stream.TRAIN, program, batch.run)
    noise = RowNoise(batch.keys, batch.particles, address, repeats=batch.repeats, of_step=batch.step)
    with nullcontext() if dims is None else RowAxis(noise, dims), noise:
        yield
