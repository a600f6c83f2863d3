"""The update of torch's Adam as plain operations on that optimiser's own state: for a graph, which a compiler can fuse.

(torch's own functions for it either refuse the CPU or read the step count as a Python number.)
"""

from collections.abc import Sequence

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.optim import Adam, Optimizer

from pplvae.programs.widening import widened


def is_plain_adam(optimiser: Optimizer) -> bool:
    """Whether an optimiser is Adam with one group of parameters and none of its variations."""
    options = ("amsgrad", "maximize", "weight_decay")
    one_group = type(optimiser) is Adam and len(optimiser.param_groups) == 1
    return one_group and not any(optimiser.param_groups[0][option] for option in options)


def begin_adam(optimiser: Optimizer, parameters: Sequence[Tensor]) -> None:
    """Give every parameter the state that Adam makes at its first step."""
    for parameter in parameters:
        state = optimiser.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(parameter), torch.zeros_like(parameter)


def adam_update(
    optimiser: Optimizer,
    parameters: Sequence[Tensor],
    slopes: Sequence[Tensor | None],
    fine: Bool[Tensor, ""],
    clip: float | None,
) -> None:
    """Move parameters in place, as Adam does.

    Args:
        optimiser: see `is_plain_adam`.
        parameters: all of them.
        slopes: their gradients; those without one stay.
        fine: nothing moves where this is false.
        clip: largest norm of the gradient, or None.

    References:
        Adam: a method for stochastic optimization (Kingma and Ba, 2015), arXiv 1412.6980, algorithm 1.
    """
    (group,) = optimiser.param_groups
    (decay, square_decay), lr, eps = group["betas"], group["lr"], group["eps"]
    moved = [(parameter, slope) for parameter, slope in zip(parameters, slopes, strict=True) if slope is not None]
    with torch.no_grad():
        shrunk: float | Tensor = 1.0
        if clip is not None:
            norm = torch.stack([slope.square().sum() for _, slope in moved]).sum().sqrt()
            shrunk = (clip / (norm + 1e-6)).clamp(max=1.0)
        for parameter, slope in moved:
            state = optimiser.state[parameter]
            step, mean, square = state["step"], state["exp_avg"], state["exp_avg_sq"]
            slope = slope * shrunk
            new_step = step + 1
            new_mean = mean + (1 - decay) * (slope - mean)
            new_square = square_decay * square + (1 - square_decay) * slope * slope
            # In float64 if there is one, as torch does: 1 - 0.999^k has three digits less than 0.999^k.
            count = widened(new_step)
            size = (lr / (1 - decay**count)).to(slope.dtype)
            root = new_square.sqrt() / (1 - square_decay**count).sqrt().to(slope.dtype) + eps
            moved_to = parameter - size * (new_mean / root)
            for old, new in ((parameter, moved_to), (step, new_step), (mean, new_mean), (square, new_square)):
                old.copy_(torch.where(fine, new, old))
