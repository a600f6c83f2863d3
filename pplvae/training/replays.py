"""A training step as a graph: what it computes, how it is made, and when two steps differ."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.capture import CAPTURED_TOLERANCE, COMPILED_TOLERANCE, Captured, agree, compiled


class Found(NamedTuple):
    """What a step computes: the loss, and the gradient of each parameter, or None if the loss does not depend on it."""

    loss: Float[Tensor, ""]
    slopes: list[Tensor | None]


@dataclass
class Replay:
    """A fast step for batches of one kind.

    Attributes:
        run: from rows, positions and KL weight.
        updates: whether it also moves the parameters.
        tolerance: see `differs`.
        steps: taken so far.
        checked: number of the last step that was compared with the plain one.
    """

    run: Callable[[Batch, float | Tensor], Found]
    updates: bool
    tolerance: float
    steps: int = 0
    checked: int = 0


def replay_of(
    plain: Callable[[Batch, float | Tensor], Found],
    update: Callable[[Found], None] | None,
    batch: Batch,
    kl_weight: float | Tensor,
    whole: bool,
    seconds: float,
) -> Replay:
    """A step as a graph.

    Args:
        plain: what the step computes.
        update: moves the parameters, or None.
        batch: the rows that it is run on.
        kl_weight: of the KL term; a number is part of the graph.
        whole: whether it goes through torch's compiler.
        seconds: after which its capture is given up.

    Raises:
        CaptureError: there is no such graph, or not in this time.
    """
    varies = isinstance(kl_weight, Tensor)
    reached: list[bool] = []

    keyed = batch.step is not None

    def inputs_of(batch: Batch, kl_weight: float | Tensor) -> list[Tensor]:
        names = [] if batch.step is None else [batch.keys, batch.step]
        weight = [kl_weight] if isinstance(kl_weight, Tensor) else []
        return [batch.positions, *names, *batch.tensors, *weight]

    def step(positions: Tensor, *tensors: Tensor) -> list[Tensor]:
        (keys, of_step), rows = (tensors[:2], tensors[2:]) if keyed else ((positions, None), tensors)
        rows, weight = (rows[:-1], rows[-1]) if varies else (rows, kl_weight)
        found = plain(Batch(rows, keys, positions, step=of_step), weight)
        reached[:] = [slope is not None for slope in found.slopes]
        if update is not None:
            update(found)
        return [found.loss, *(slope for slope in found.slopes if slope is not None)]

    def run(batch: Batch, kl_weight: float | Tensor) -> Found:
        loss, *slopes = replayed(*inputs_of(batch, kl_weight))
        rest = iter(slopes)
        return Found(loss, [next(rest) if there else None for there in reached])

    inputs = inputs_of(batch, kl_weight)
    captured = Captured(step, inputs, seconds)
    replayed = compiled(captured, inputs) if whole else captured
    return Replay(run, update is not None, COMPILED_TOLERANCE if whole else CAPTURED_TOLERANCE)


def differs(one: Found, other: Found, tolerance: float) -> str:
    """Compare two steps.

    Args:
        one: a step.
        other: the same step, computed in another way.
        tolerance: largest difference allowed, relative to the largest number of the second.

    Returns:
        "loss" or "gradient", whichever differs first; "" if they agree.
    """
    if not agree(one.loss, other.loss, tolerance):
        return "loss"
    if [slope is None for slope in one.slopes] != [slope is None for slope in other.slopes]:
        return "gradient"
    # All parameters together: where a small gradient is a sum of large terms, rounding alone is large beside it.
    ours, theirs = (torch.cat([s.flatten() for s in step.slopes if s is not None]) for step in (one, other))
    return "" if agree(ours, theirs, tolerance) else "gradient"
