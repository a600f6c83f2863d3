"""One pass over the rows: its order, its noise, its steps, and what is said when a loss is no number."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from pplvae.data import Rows
from pplvae.errors import ProgramError, RanksError
from pplvae.isolate import reseed
from pplvae.objectives import KLWeight
from pplvae.programs.batch import Batch
from pplvae.programs.failures import in_users_words
from pplvae.programs.reading import Program
from pplvae.ranks.checksums import check_same
from pplvae.ranks.group import Ranks
from pplvae.training.breakdown import first_not_finite
from pplvae.training.feed import Fed, Feed
from pplvae.training.preparation import Start
from pplvae.training.steps import Steps

_DEVICE_STEPS_UNSEEN = 50  # a look at a loss makes the processor wait for the device
_STEPS_UNCOMPARED = 100  # after which the ranks' parameters are compared


class Passed(NamedTuple):
    """What a pass comes to: nats per row, the KL weight at its end, and a sentence if the loss was no number."""

    objective: float = float("nan")
    kl_weight: float = float("nan")
    trouble: str = ""


class Pass:
    """A pass over the rows, on this rank's share of each batch.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        train: the rows.
        start: see `Start`.
        steps: that it takes.
        settings: of the fit.
        ranks: of the job.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        train: Rows,
        start: Start,
        steps: Steps,
        settings: Mapping[str, Any],
        ranks: Ranks,
    ) -> None:
        self._model, self._guide, self._train, self._start = model, guide, train, start
        self._steps, self._settings, self._ranks, self._epoch = steps, settings, ranks, 0

    def __call__(self, epoch: int, kl_weight: KLWeight, epochs: int) -> Passed:
        """One pass.

        Args:
            epoch: its number.
            kl_weight: a number, or a function of the epoch.
            epochs: still to be run at most, this one included.
        """
        self._epoch = epoch
        seed, size = self._settings["seed"], self._settings["batch_size"]
        # All randomness of an epoch follows from the seed and its number: that makes resuming exact.
        reseed(seed, self._epoch)
        order = torch.randperm(len(self._train))
        if self._ranks.size > 1:  # the order is one for all; what noise has no keys is not to be the same on all
            reseed(seed, self._epoch, self._ranks.rank)
        feed = Feed(self._train.redrawn(seed, self._epoch), order, size, self._ranks)
        losses: list[Tensor] = []
        weight, looked_at = 1.0, 0
        look = 1 if self._train.values.device.type == "cpu" else _DEVICE_STEPS_UNSEEN
        for fed in feed:
            weight = _at(kl_weight, self._epoch + fed.first / len(order))
            to_come = _alike(fed.first, size, len(order), epochs)
            try:
                with in_users_words("objective", fed.tensors):
                    here = self._batch(fed), _weight(kl_weight, weight, self._start)
                    losses.append(self._steps(*here, to_come, fed.of))
            except (ProgramError, RanksError) as error:
                trouble = self._trouble_of(fed, error)
                if not trouble:
                    raise
                return Passed(trouble=trouble)
            if len(losses) % _STEPS_UNCOMPARED == 0 or len(losses) == len(feed.starts):
                when = f"in epoch {self._epoch}, after step {fed.step}"
                check_same(self._ranks, self._start.weights.all(), when)
            if len(losses) - looked_at >= look or len(losses) == len(feed.starts):
                bad = torch.nonzero(~torch.stack(losses[looked_at:]).isfinite()).flatten().tolist()
                if bad:
                    step = looked_at + bad[0]
                    return Passed(trouble=self._ranks.of_first(self._diagnose(step, *feed.batch(step))))
                looked_at = len(losses)
        total = float((torch.stack(losses).cpu().to(torch.float64) * feed.counts()).sum())
        return Passed(-total / len(order), weight)

    def _batch(self, fed: Fed) -> Batch:
        """The rows of a step."""
        if self._settings["noise"] is None:  # torch's own noise needs no keys
            return Batch.without_keys(fed.tensors, fed.positions)
        return Batch.of_step(fed.tensors, fed.positions, (self._settings["seed"], self._epoch), fed.step)

    def _trouble_of(self, fed: Fed, error: ProgramError | RanksError) -> str:
        """What has failed on some rank, if it is a breakdown of numbers; the same on all ranks."""
        if isinstance(error, RanksError) and not error.elsewhere:
            return ""
        if self._ranks.is_job and fed.positions.device.type != "cpu":  # the others have not been told
            return ""
        mine = isinstance(error, ProgramError) and self._diagnose(fed.step, fed.positions, fed.tensors, error)
        return next((said for said in self._ranks.of_all(mine or "") if said), "")

    def _diagnose(self, step: int, index: Tensor, batch: Sequence[Tensor], error: Exception | None = None) -> str:
        """Say where a loss that is not finite came from; say nothing if a step raised for another reason."""
        when = f"The loss became NaN or infinite in epoch {self._epoch}, step {step}."
        found = first_not_finite(self._model, self._guide, self._start, batch, index, self._train.ids, error)
        if found or error is not None:
            return found and f"{when} {found}"
        return f"{when} Every log-probability of the same batch was finite on a second draw: lower `lr`, or set `clip`."


def _alike(first: int, size: int, rows: int, epochs: int) -> int:
    """How many batches of the same number of rows there are from the one at `first` to the end of so many epochs."""
    whole = rows // size
    return epochs if first >= whole * size else whole * epochs - first // size


def _weight(kl_weight: KLWeight, now: float, start: Start) -> float | Tensor:
    """The KL weight of a step; a tensor if it changes, since a number would be captured as it is."""
    if not isinstance(kl_weight, Callable):
        return now
    return next(iter(start.trained.values())).detach().new_full((), now)


def _at(kl_weight: KLWeight, epoch: float) -> float:
    return float(kl_weight(epoch)) if isinstance(kl_weight, Callable) else float(kl_weight)
