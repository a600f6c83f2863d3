"""Section: a training step, ours and its peers'."""

from collections.abc import Callable

import torch

from benchmarks.measure import Block, Missing, Settings, interleaved, quartiles, ratios
from benchmarks.numpyro_peer import numpyro_svi
from benchmarks.ours import TrainingBlock, training_block
from benchmarks.record import Line
from benchmarks.scoring import elbo
from benchmarks.training_peers import PEERS
from benchmarks.workloads import Workload

WORKLOADS = ("small", "large", "convolutional", "counts")
_SCORED_ROWS, _DRAWS = 256, 20
_SETTLING_STEPS = 120  # of everybody, before the clock starts: some compile, and pplvae captures after 50


def measure(work: Workload, settings: Settings) -> list[Line]:
    """Milliseconds per training step of batches of 128, and their ratio to the hand-written loop's."""
    makers: dict[str, Callable[[Workload], Block]] = PEERS | {
        "NumPyro, jitted step": numpyro_svi,
        "pplvae": lambda mine: training_block(mine, compile=False),
        "pplvae, compiled": lambda mine: training_block(mine, compile=True),
        "pplvae, a program that cannot be captured": lambda mine: training_block(mine.uncapturable(), compile=False),
    }
    torch.manual_seed(0)
    blocks: dict[str, Block] = {}
    trained: dict[str, Workload] = {}
    missing: list[Line] = []
    for name, make in makers.items():
        trained[name] = work.copy()
        try:
            blocks[name] = make(trained[name])
        except Missing as reason:
            missing.append(Line("training", work.title, name, unit="ms", note=str(reason)))
    settling = -(-_SETTLING_STEPS // work.steps)
    for block in blocks.values():
        for _ in range(settling):
            block()
    seconds = interleaved(blocks, settings.rounds, warm_up=False)
    before, steps = _mean_elbo(work), work.steps * (settings.rounds + settling)
    lines = []
    for name, values in seconds.items():
        gain = _mean_elbo(trained[name]) - before
        # A peer that trains something else, or nothing, is no peer.
        note = f"ELBO {gain:+.2f} after {steps} steps" if gain else ""
        if isinstance(blocks[name], TrainingBlock):
            note += f"; {blocks[name]}"
        milliseconds = quartiles(values).times(1000 / work.steps)
        ratio = ratios(seconds, name, "hand")
        lines.append(Line("training", work.title, name, milliseconds, "ms", ratio, "hand", note=note))
    return lines + missing


@torch.no_grad()
def _mean_elbo(work: Workload) -> float:
    """In nats per row, of the encoder's guide, on the same draws for every competitor."""
    v = work.train[:_SCORED_ROWS]
    mean, log_scale = work.encoded(v)
    noise = torch.randn(_DRAWS, *mean.shape, generator=torch.Generator().manual_seed(1)).to(v.device)
    return float(elbo(work, mean, log_scale, noise, v).mean())
