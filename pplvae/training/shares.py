"""The gradient of a batch, put together from those of its parts: on this rank one after the other, over ranks at once.

`DistributedDataParallel` hangs on backward hooks of parameters. A step here asks for its gradients by name, and most
steps are graphs whose parameters are inputs, where no hook is called: the sum over ranks is torch's own all-reduce of
one flat tensor.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from pplvae.errors import RanksError
from pplvae.programs.batch import Batch
from pplvae.ranks.group import Ranks
from pplvae.training.replays import Found

Step = Callable[[Batch], tuple[Found, bool]]


class Shares:
    """Parts of a batch, and what they come to together.

    Args:
        parameters: that are trained.
        ranks: of the job; each has some rows of a batch.
        pieces: in which a rank takes its rows, so that they fit into a memory.
    """

    def __init__(self, parameters: Sequence[Tensor], ranks: Ranks | None = None, pieces: int = 1) -> None:
        self._parameters, self._ranks, self._pieces = list(parameters), ranks or Ranks(), pieces
        self._dtype = max((p.dtype for p in self._parameters), key=lambda dtype: torch.finfo(dtype).bits)

    @property
    def is_whole(self) -> bool:
        """Whether a batch is one part."""
        return not self._ranks.is_job and self._pieces == 1

    def __call__(self, step: Step, batch: Batch, of: int) -> tuple[Found, bool]:
        """Loss and gradient of a whole batch.

        Args:
            step: finds them for a part, as means over its rows, and says whether it has moved the parameters.
            batch: this rank's rows, perhaps none.
            of: how many rows all ranks have.

        Raises:
            RanksError: the step has failed on another rank.
        """
        if self.is_whole:
            return step(batch)
        if not self._ranks.is_job:
            return self._divided(self._of_pieces(step, batch), of), False
        failure, sums = None, self._nothing()
        try:
            sums = self._of_pieces(step, batch)
        except Exception as error:
            # To look for the others' failures at every step, a processor would have to wait for its device.
            if batch.positions.device.type != "cpu":
                raise
            failure = error
        return self._divided(self._over_ranks(sums, failure), of), False

    def _nothing(self) -> Found:
        return Found(self._parameters[0].new_zeros((), dtype=self._dtype), [None] * len(self._parameters))

    def _of_pieces(self, step: Step, batch: Batch) -> Found:
        """Sums over rows."""
        sums = self._nothing()
        for index in torch.arange(len(batch)).chunk(self._pieces) if len(batch) else ():
            piece = batch.take(slice(int(index[0]), int(index[-1]) + 1))
            found, _ = step(piece)
            slopes = [_added(sum_, slope, len(piece)) for sum_, slope in zip(sums.slopes, found.slopes, strict=True)]
            sums = Found(sums.loss + found.loss.to(self._dtype) * len(piece), slopes)
        return sums

    def _over_ranks(self, sums: Found, failure: Exception | None) -> Found:
        flat = self._ranks.sum_(self._flat(sums, failure))
        slopes, there, (loss, failed) = flat.split([len(flat) - len(sums.slopes) - 2, len(sums.slopes), 2])
        on_cpu = flat.device.type == "cpu"
        if on_cpu and failed.item():
            self._tell(failure)
        present = there.tolist() if on_cpu and None in sums.slopes else [1.0] * len(sums.slopes)
        parts = slopes.split([parameter.numel() for parameter in self._parameters])
        return Found(
            loss,
            [
                part.view_as(parameter).to(parameter.dtype) if is_there else None
                for part, parameter, is_there in zip(parts, self._parameters, present, strict=True)
            ],
        )

    def _flat(self, sums: Found, failure: Exception | None) -> Tensor:
        """One tensor for all: gradients, which of them are there, the loss, and whether the step has failed."""
        slopes = [
            parameter.new_zeros(parameter.numel(), dtype=self._dtype) if slope is None else slope.flatten()
            for parameter, slope in zip(self._parameters, sums.slopes, strict=True)
        ]
        there = sums.loss.new_tensor([*(slope is not None for slope in sums.slopes)])
        ends = torch.stack([sums.loss, sums.loss.new_tensor(float(failure is not None))])
        return torch.cat([*(slope.to(self._dtype) for slope in slopes), there, ends])

    def _tell(self, failure: Exception | None) -> None:
        said = self._ranks.of_all(failure and str(failure))
        if failure is not None:
            raise failure
        rank = next(rank for rank, words in enumerate(said) if words is not None)
        raise RanksError(f"Rank {rank} says: {said[rank]}", elsewhere=True)

    def _divided(self, sums: Found, of: int) -> Found:
        return Found(sums.loss / of, [None if slope is None else slope / of for slope in sums.slopes])


def _added(sum_: Tensor | None, slope: Tensor | None, rows: int) -> Tensor | None:
    if slope is None:
        return sum_
    return slope * rows if sum_ is None else sum_ + slope * rows
