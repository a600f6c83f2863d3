"""The widest floats of a device: sums of log-probabilities keep the most digits that there are."""

import torch
from torch import Tensor

_WITHOUT_FLOAT64 = ("mps",)  # Apple's graphics processors, by torch's name of the device


def widest(device: torch.device) -> torch.dtype:
    """Float64, or float32 on a device that has no float64."""
    return torch.float32 if device.type in _WITHOUT_FLOAT64 else torch.float64


def widened(tensor: Tensor) -> Tensor:
    """The same numbers in the widest floats of their device."""
    return tensor.to(widest(tensor.device))
