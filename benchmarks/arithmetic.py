"""Section: the arithmetic of a guide of its own for every row, as a share of what the processor can do."""

from collections.abc import Callable

from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.machine import Shape, matrix_rate
from benchmarks.measure import Quartiles, Settings, timed
from benchmarks.ours import own_guides
from benchmarks.record import Line
from benchmarks.row_peers import batched_adam_frozen
from benchmarks.workloads import Workload

WORKLOADS = ("large-gap",)
_QUICK_ROWS, _ADAM_STEPS = 20, 20
_TALL = 1024  # rows of the matrices that the rate is measured with


def measure(work: Workload, settings: Settings) -> list[Line]:
    """GFLOP/s, and their ratio to the rate of `torch.mm` on matrices of the decoder's shapes, forwards and backwards.

    Only products that torch dispatches in the calling thread are counted: what compiled kernels or other threads
    multiply is not seen, and the share is then too low.
    """
    if settings.quick:
        work = work.take(_QUICK_ROWS)
    rate = matrix_rate(_shapes(work.decoder), settings.device)
    blocks: dict[str, Callable[[], object]] = {
        "pplvae": lambda: own_guides(work),
        "batched torch Adam, decoder frozen": lambda: batched_adam_frozen(work, _ADAM_STEPS),
    }
    top = "torch.mm on the decoder's shapes"
    lines = [Line("arithmetic", work.title, top, _single(rate), "GFLOP/s", _single(1.0), top)]
    for name, block in blocks.items():
        with FlopCounterMode(display=False) as counter:
            block()
        work_done = counter.get_total_flops() / 1e9
        seconds = timed(lambda block=block: _discard(block()))
        note = f"{work_done:.4g} GFLOP in {seconds:.3g} s"
        reached = work_done / seconds
        lines.append(
            Line("arithmetic", work.title, name, _single(reached), "GFLOP/s", _single(reached / rate), top, note=note)
        )
    return lines


def _shapes(decoder: nn.Module) -> list[Shape]:
    """The decoder's products, forwards and for the gradient in h."""
    layers = [layer for layer in decoder.modules() if isinstance(layer, nn.Linear)]
    forwards = [(_TALL, layer.in_features, layer.out_features) for layer in layers]
    return forwards + [(m, n, k) for m, k, n in forwards]


def _discard(_result: object) -> None:
    """A block that returns nothing is timed from outside."""


def _single(value: float) -> Quartiles:
    return Quartiles(value, value, value)
