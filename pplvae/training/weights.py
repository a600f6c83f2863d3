"""Every tensor of a pair by name, however declared: module attributes, `pyro.module`, `pyro.param`."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pyro
import torch
from torch import Tensor, nn

from pplvae.errors import StoreError
from pplvae.isolate import StoreState, root_modules


class Fitted:
    """A program with the param store that it was fitted in: call it as the program itself, anywhere.

    Attributes:
        func: the program.
        store: its parameters that live in Pyro's param store.
    """

    def __init__(self, program: Callable[..., Any], store: StoreState) -> None:
        self.func = program
        self.store = store

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program with its fitted parameters."""
        with pyro.get_param_store().scope({kind: dict(content) for kind, content in self.store.items()}):  # type: ignore[arg-type]
            return self.func(*args, **kwargs)

    def __repr__(self) -> str:
        return f"Fitted({self.func!r})"


class Weights:
    """The trainable parameters of a pair and the buffers of its modules, by name. Parameters are unconstrained leaves.

    Call it inside the scope of the pair's param store, after both programs have run once there.

    Args:
        programs: model and guide.
        called: modules seen while the programs ran, for buffers of modules that only a closure holds.
    """

    def __init__(self, programs: Iterable[Callable[..., Any]], called: Iterable[nn.Module]) -> None:
        self.parameters: dict[str, Tensor] = {}
        self.buffers: dict[str, Tensor] = {}
        roots = root_modules(*programs)
        for i, root in enumerate(roots):
            prefix = f"{i}." if len(roots) > 1 else ""
            _add(self.parameters, prefix, ((n, p) for n, p in root.named_parameters() if p.requires_grad))
            _add(self.buffers, prefix, root.named_buffers())
        _add(self.parameters, "param.", pyro.get_param_store().named_parameters())
        for i, module in enumerate(called):
            _add(self.buffers, f"called.{i}.", module.named_buffers())

    def copy(self) -> dict[str, Tensor]:
        """A snapshot."""
        return {name: tensor.detach().clone() for name, tensor in self.all().items()}

    def restore(self, snapshot: Mapping[str, Tensor]) -> None:
        """Write a snapshot into the live tensors.

        Raises:
            StoreError: names or shapes differ.
        """
        self.check(snapshot)
        with torch.no_grad():
            for name, tensor in self.all().items():
                tensor.copy_(snapshot[name])

    def check(self, snapshot: Mapping[str, Tensor]) -> None:
        """Refuse a snapshot of another program.

        Raises:
            StoreError: names or shapes differ.
        """
        theirs = {name: tuple(tensor.shape) for name, tensor in snapshot.items()}
        ours = {name: tuple(tensor.shape) for name, tensor in self.all().items()}
        if ours != theirs:
            odd = sorted({name for name in ours | theirs if ours.get(name) != theirs.get(name)})
            raise StoreError(
                "The weights belong to another program: they differ in "
                + ", ".join(f"{name} (saved {theirs.get(name)}, here {ours.get(name)})" for name in odd[:4])
                + ". Build the model and the guide as they were when the weights were saved."
            )

    def nonfinite(self) -> list[str]:
        """Names of parameters that hold NaN or infinite values."""
        return [name for name, tensor in self.parameters.items() if not bool(tensor.isfinite().all())]

    def all(self) -> dict[str, Tensor]:
        """The live tensors by name."""
        return self.parameters | self.buffers


def _add(tensors: dict[str, Tensor], prefix: str, named: Iterable[tuple[str, Tensor]]) -> None:
    """Add each tensor once: one listed twice (tied, or in a module and the param store) keeps its first name."""
    known = {id(tensor) for tensor in tensors.values()}
    tensors.update({prefix + name: tensor for name, tensor in named if id(tensor) not in known})
