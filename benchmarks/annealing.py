"""Section: annealed importance sampling from the prior, ours (without its pilot run) and by hand."""

from functools import partial

import torch
from torch import Tensor

from benchmarks.annealing_peers import hand_annealing
from benchmarks.measure import Block, Settings, interleaved, quartiles, ratios
from benchmarks.ours import annealed
from benchmarks.record import Line
from benchmarks.workloads import Workload

WORKLOADS = ("small", "large-gap")
_ROWS, _CHAINS, _LEAPFROG = 100, 16, 10
_TEMPERATURES = {"small": 500, "large-gap": 100}  # the large net would take half an hour at 500
_STEP = {"small": 0.35, "large-gap": 0.15}  # in units of h; acceptance 0.7 to 0.8
_HAND, _OURS, _MOST_ROUNDS = "hand, eager autograd", "pplvae, forward run", 3
_COMPILED = "pplvae, forward run, compiled"


def measure(work: Workload, settings: Settings) -> list[Line]:
    """Seconds for all rows and chains, and their ratio to the hand-written run's."""
    rows, temperatures = _ROWS, _TEMPERATURES[work.name]
    if settings.quick:
        rows, temperatures = 20, temperatures // 10
    work = work.take(rows)
    size = {"particles": _CHAINS, "temperatures": temperatures, "leapfrog": _LEAPFROG}
    found: dict[str, Tensor] = {}
    acceptance = 0.0

    def hand() -> None:
        nonlocal acceptance
        found[_HAND], acceptance = hand_annealing(work, step=_STEP[work.name], **size)

    def own(name: str, compile: bool) -> float:
        found[name], seconds = annealed(work, compile=compile, **size)
        return seconds

    torch.manual_seed(0)
    blocks: dict[str, Block] = {
        _HAND: hand,
        _OURS: partial(own, _OURS, False),
        _COMPILED: partial(own, _COMPILED, True),
    }
    seconds = interleaved(blocks, min(settings.rounds, _MOST_ROUNDS), warm_up=settings.quick)
    title = f"{work.title}, {rows} rows x {_CHAINS} chains x {temperatures} temperatures x {_LEAPFROG} leapfrog steps"
    lines = []
    for name, values in seconds.items():
        note = f"log p(v) {float(found[name].mean()):.2f} nats per row"
        note += (
            f"; acceptance {acceptance:.2f} at the fixed step size" if name == _HAND else "; step sizes of its pilot"
        )
        ratio = ratios(seconds, name, _HAND)
        lines.append(Line("annealing", title, name, quartiles(values), "s", ratio, _HAND, note=note))
    return lines
