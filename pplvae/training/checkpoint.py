"""The state of a fit between two epochs as a file has it, looked at before any of it is used.

An optimiser's fused kernels write where the shapes of its state say, and do not look at these themselves.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from pplvae.errors import StoreError
from pplvae.store import check_kinds, read_tensors
from pplvae.training.weights import Weights

_KINDS = {
    "epoch": int,
    "best_epoch": (int,),  # -1 before the first
    "best_value": float,
    "optimiser_groups": list,
    "settings": dict,
}


@dataclass(frozen=True)
class Checkpoint:
    """All that an uninterrupted fit would go on from.

    Attributes:
        now: the weights.
        best: those of the best epoch.
        columns: of the history, one number an epoch.
        epoch: how many are done.
        best_epoch: -1 before the first.
        best_value: its validation ELBO.
        optimiser: its state, as `Optimizer.state_dict` gives it.
        settings: what the fit is asked for.
        looks: what the next look at the gap begins with.
    """

    now: dict[str, Tensor]
    best: dict[str, Tensor]
    columns: dict[str, list[float]]
    epoch: int
    best_epoch: int
    best_value: float
    optimiser: dict[str, Any]
    settings: dict[str, Any]
    looks: dict[str, Tensor] = field(default_factory=dict)

    def tensors(self) -> dict[str, Tensor]:
        """What a file has as tensors."""
        found = {f"now/{name}": tensor for name, tensor in self.now.items()}
        found |= {f"best/{name}": tensor for name, tensor in self.best.items()}
        found |= {f"history/{name}": torch.tensor(v, dtype=torch.float64) for name, v in self.columns.items()}
        found |= {f"looks/{name}": tensor for name, tensor in self.looks.items()}
        for i, slots in self.optimiser["state"].items():
            found |= {f"optimiser/{i}/{key}": v for key, v in slots.items() if isinstance(v, Tensor)}
        return found

    def content(self) -> dict[str, Any]:
        """What it has as JSON beside them."""
        return {
            "epoch": self.epoch,
            "best_epoch": self.best_epoch,
            "best_value": self.best_value,
            "optimiser_groups": self.optimiser["param_groups"],
            "settings": self.settings,
        }


def read_checkpoint(
    path: Path, settings: Mapping[str, Any], weights: Weights, optimiser: Optimizer, columns: Sequence[str]
) -> Checkpoint:
    """Read a checkpoint for a fit that is asked for the same.

    Args:
        path: of the file.
        settings: of the fit that goes on.
        weights: of its programs.
        optimiser: of that fit.
        columns: of its history.

    Raises:
        StoreError: damaged, of a fit with other settings, or not what such an optimiser holds.
    """
    tensors, content = read_tensors(path)
    check_kinds(path, content, _KINDS)
    theirs = content["settings"]
    odd = [name for name, value in settings.items() if theirs.get(name) != value]
    if odd:
        raise StoreError(
            f"{str(path)!r} belongs to a fit with other settings, so going on would equal neither: "
            + ", ".join(f"{name} was {theirs.get(name)!r} and is {settings[name]!r}" for name in odd)
            + ". Use the same, or `existing='overwrite'`."
        )
    now, best = (_under(tensors, prefix) for prefix in ("now/", "best/"))
    for some in (now, best):
        weights.check(some)
    try:
        return Checkpoint(
            now,
            best,
            _columns(tensors, columns, content["epoch"]),
            content["epoch"],
            content["best_epoch"],
            content["best_value"],
            _state(tensors, content["optimiser_groups"], optimiser),
            theirs,
            _under(tensors, "looks/"),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"{str(path)!r} is damaged ({error}); start anew with `existing='overwrite'`.") from error


def _columns(tensors: Mapping[str, Tensor], names: Sequence[str], epochs: int) -> dict[str, list[float]]:
    found = {name: tensors[f"history/{name}"] for name in names}
    odd = [name for name, column in found.items() if column.shape != (epochs,)]
    if odd:
        raise ValueError(f"its history has another number of epochs than {epochs}")
    return {name: column.tolist() for name, column in found.items()}


def _state(tensors: Mapping[str, Tensor], groups: Sequence[Any], optimiser: Optimizer) -> dict[str, Any]:
    """The optimiser's state, which must be of its own options and of the shapes of its parameters."""
    if len(groups) != len(optimiser.param_groups):
        raise ValueError(f"{len(groups)} groups of parameters, where there are {len(optimiser.param_groups)}")
    own = optimiser.state_dict()["param_groups"]
    for theirs, ours in zip(groups, own, strict=True):
        odd = [name for name, value in ours.items() if not _alike(theirs[name], value)]
        if odd or len(theirs) != len(ours):
            raise ValueError(f"the optimiser's options differ in {', '.join(odd) or 'number'}")
    fused = any(group.get("fused") for group in optimiser.param_groups)
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    slots: dict[int, dict[str, Tensor]] = {}
    for name, tensor in _under(tensors, "optimiser/").items():
        i, key = name.split("/")
        if not 0 <= int(i) < len(parameters) or not _fits(key, tensor, parameters[int(i)], fused):
            raise ValueError(f"the optimiser's {key} of parameter {i} has shape {tuple(tensor.shape)}")
        slots.setdefault(int(i), {})[key] = tensor
    if len({frozenset(slot) for slot in slots.values()}) > 1:
        raise ValueError("the optimiser's state is incomplete")
    return {"state": slots, "param_groups": groups}


def _fits(key: str, tensor: Tensor, parameter: Tensor, fused: bool) -> bool:
    """Whether a tensor of the state can belong to a parameter."""
    if fused:
        return tensor.shape == (torch.Size() if key == "step" else parameter.shape)
    sizes = zip(tensor.shape, parameter.shape, strict=False)
    return tensor.ndim == 0 or (tensor.ndim == parameter.ndim and all(a in (1, b) for a, b in sizes))


def _alike(theirs: Any, ours: Any) -> bool:
    """Whether an option may have been that of the same optimiser: a number may change as it runs, nothing else may."""
    if isinstance(ours, tuple | list):
        return isinstance(theirs, tuple | list) and len(theirs) == len(ours) and all(map(_alike, theirs, ours))
    if isinstance(ours, int | float) and not isinstance(ours, bool):
        return isinstance(theirs, int | float) and not isinstance(theirs, bool)
    return type(theirs) is type(ours) and theirs == ours


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
