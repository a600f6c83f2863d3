"""The ranks of a job: who this process is among them, and what is said from one to the others.

torchrun starts the processes, finds out who is there and restarts them. A process that it has not started, and that is
in no process group, is alone: everything here then leaves what it is given as it is.
"""

import atexit
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from datetime import timedelta
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor
from torch import distributed as dist
from torch.distributed.rendezvous import rendezvous

from pplvae.errors import RanksError

_T = TypeVar("_T")
_PATIENCE, _SECONDS = "PPLVAE_TIMEOUT", 600.0  # of a rank that waits for the others
_BY_ITSELF: ContextVar[bool] = ContextVar("by_itself", default=False)


class Ranks:
    """A process among the others of its job; by default one that is alone.

    Args:
        rank: of this process, from 0.
        size: how many there are.

    Attributes:
        rank: of this process, from 0.
        size: how many there are.
        is_job: whether this process belongs to a job, perhaps as its only one.
        waited: seconds that this process has spent in what is said among ranks, waiting for the last one included.
    """

    waited: ClassVar[float] = 0.0

    def __init__(self, rank: int = 0, size: int = 0) -> None:
        self.rank, self.size = rank, max(1, size)
        self.is_job = size > 0

    @property
    def is_first(self) -> bool:
        """Whether this is rank 0, which alone writes and speaks."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This rank's part of so many things in a row: disjoint, none left over, sizes that differ by one at most.

        >>> [Ranks(rank, 3).share(8) for rank in range(3)]
        [slice(0, 2, None), slice(2, 5, None), slice(5, 8, None)]
        """
        return slice(self.rank * count // self.size, (self.rank + 1) * count // self.size)

    def sum_(self, tensor: Tensor) -> Tensor:
        """Add up a tensor over ranks, in place; all get the same bits."""
        self._said(lambda: dist.all_reduce(tensor))
        return tensor

    def largest_(self, tensor: Tensor) -> Tensor:
        """The largest number of any rank, element by element, in place."""
        self._said(lambda: dist.all_reduce(tensor, dist.ReduceOp.MAX))
        return tensor

    def as_first_(self, tensors: Sequence[Tensor]) -> None:
        """Write the numbers of rank 0 into the tensors of all."""
        with torch.no_grad():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                self._said(lambda whole=whole: dist.broadcast(whole, 0))
                if whole.data_ptr() != tensor.data_ptr():
                    tensor.copy_(whole)

    def of_first(self, value: _T) -> _T:
        """What rank 0 has, told to all; it goes through pickle, within the job."""
        told = [value]
        self._said(lambda: dist.broadcast_object_list(told, 0, device=torch.device("cpu")))
        return told[0]

    def of_all(self, value: _T) -> list[_T]:
        """What every rank has, in their order; it goes through pickle, within the job."""
        told: list[Any] = [value] * self.size
        self._said(lambda: dist.all_gather_object(told, value))
        return told

    def first_alone(self, work: Callable[[], _T]) -> _T:
        """Do something on rank 0 only, and tell all what came of it.

        Raises:
            RanksError: on the other ranks, where it failed.
            Exception: whatever it raises, on rank 0.
        """
        found, failure = None, None
        if self.is_first:
            try:
                found = work()
            except Exception as error:
                failure = error
        found, words = self.of_first((found, failure and str(failure)))
        if failure is not None:
            raise failure
        if words is not None:
            raise RanksError(f"Rank 0 says: {words}", elsewhere=True)
        return found  # type: ignore[return-value]

    @contextmanager
    def first_holds(self, hold: Callable[[], AbstractContextManager[_T]]) -> Iterator[_T | None]:
        """Enter a context on rank 0 only, before anybody goes on; None on the others.

        Raises:
            RanksError: on the other ranks, where rank 0 was refused.
        """
        held: list[_T] = []
        with ExitStack() as stack:
            self.first_alone(lambda: held.append(stack.enter_context(hold())))
            yield held[0] if held else None

    def check_alike(self, given: dict[str, Any]) -> None:
        """Refuse ranks that have been given different things.

        Args:
            given: by the user's name for it.

        Raises:
            RanksError: which thing differs first, and between which ranks.
        """
        everyone = self.of_all(given)
        for name in everyone[0]:
            for rank, theirs in enumerate(everyone):
                if theirs.get(name) != everyone[0][name]:
                    raise RanksError(
                        f"All ranks must be given the same, but `{name}` is {everyone[0][name]!r} on rank 0 and "
                        f"{theirs.get(name)!r} on rank {rank}."
                    )

    def _said(self, say: Callable[[], Any]) -> None:
        if not self.is_job:
            return
        began = time.perf_counter()
        try:
            say()
        except RuntimeError as error:  # among them those of torch.distributed
            raise RanksError(
                f"Rank {self.rank} of {self.size} has lost the others after {time.perf_counter() - began:.0f} s: a "
                f"rank ended, its machine is gone, or it took longer than {_PATIENCE}={_patience():.0f} seconds. What "
                "was written is whole: start the same command again with `existing='resume'`, or let torchrun do so "
                f"with --max-restarts. ({str(error).strip().splitlines()[0][:200]})"
            ) from error
        finally:
            Ranks.waited += time.perf_counter() - began


def ranks() -> Ranks:
    """This process among those of its job; it joins them if torchrun has started it and nobody has joined before.

    The process group stays until the process ends, since it cannot be made twice.

    Raises:
        RanksError: the others cannot be reached.
    """
    if _BY_ITSELF.get() or not dist.is_available():
        return Ranks()
    if not dist.is_initialized():
        if not dist.is_torchelastic_launched():
            return Ranks()
        _join()
    if "cpu:" not in dist.get_backend_config():
        raise RanksError(
            "The process group of this job tells nothing between processors, which words and counts need. Make it with "
            "`init_process_group('cpu:gloo,cuda:nccl')`, or leave it to pplvae."
        )
    return Ranks(dist.get_rank(), dist.get_world_size())


def of_torchrun() -> tuple[int, int]:
    """Rank and size of the job, as torchrun has told this process; 0 and 0 where it has not started it."""
    if _BY_ITSELF.get() or not dist.is_available() or not dist.is_torchelastic_launched():
        return 0, 0
    return int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])


@contextmanager
def by_itself() -> Iterator[None]:
    """Let this process do what it does in a block alone, whoever has started it.

    Such as one rank's own small comparison: without this a call waits for the same call of all other ranks.
    """
    token = _BY_ITSELF.set(True)
    try:
        yield
    finally:
        _BY_ITSELF.reset(token)


def on_this_machine() -> int:
    """How many ranks torchrun has started on this machine; they share its memory."""
    return 1 if _BY_ITSELF.get() else max(1, int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def restarts() -> int:
    """How often torchrun has started the job anew after a rank had died."""
    return 0 if _BY_ITSELF.get() else int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0"))


def _join() -> None:
    backend = "gloo"
    if torch.cuda.is_available() and on_this_machine() <= torch.cuda.device_count():
        backend = "cpu:gloo,cuda:nccl"
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    seconds = timedelta(seconds=_patience())
    try:
        store, rank, size = next(rendezvous("env://", timeout=seconds))
        # torchrun keeps one store for all its starts, and gloo would call the ranks of an earlier one, who are gone.
        start = f"{restarts()}-{size}-{(store.add(f'arrived-{restarts()}-{size}', 1) - 1) // size}"
        store = dist.PrefixStore(f"start-{start}", store)  # pyright: ignore[reportPrivateImportUsage]
        dist.init_process_group(backend, store=store, rank=rank, world_size=size, timeout=seconds)
    except RuntimeError as error:
        raise RanksError(f"The ranks of this job cannot find each other: {error}") from error
    atexit.register(_leave)


def _leave() -> None:
    if dist.is_initialized():
        dist.destroy_process_group()


def _patience() -> float:
    try:
        seconds = float(os.environ.get(_PATIENCE, _SECONDS))
    except ValueError:
        seconds = -1.0
    if not seconds > 0:
        raise RanksError(f"{_PATIENCE} is a number of seconds, such as 600; got {os.environ[_PATIENCE]!r}.")
    return seconds
