"""A user's network, and the inputs that it takes of a row."""

import inspect
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from pplvae.errors import ProgramError

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


class Network(nn.Module):
    """A module of the user's, or a method of one, called with what it takes of a row: not a copy.

    Attributes:
        owner: the module, which holds the parameters.
        method: the name of its method; None where the module itself is called.
        inputs: how many tensors it is called with; None for all.

    Args:
        what: "encoder" and so on, for messages.
        network: the module or bound method.

    Raises:
        ProgramError: a function, whose parameters nobody could find.
    """

    def __init__(self, what: str, network: Callable[..., Any]) -> None:
        super().__init__()
        owner, method = (network, None) if isinstance(network, nn.Module) else _owner(what, network)
        self.what, self.method = what, method
        self.owner = owner
        call = getattr(owner, "_orig_mod", owner).forward if method is None else network  # of what is compiled
        self.inputs, self._optional = inputs_of(call)

    def forward(self, first: Tensor, *extra: Tensor) -> Any:
        """What the network gives for v or h, and the row's extra inputs."""
        call = self.owner if self.method is None else getattr(self.owner, self.method)
        return call(first, *extra[: self.taken(len(extra))])

    def taken(self, extra: int) -> int:
        """How many of a row's extra inputs the network takes.

        Raises:
            ProgramError: it may take more than it must, so that this is a guess.
        """
        if self.inputs is None:
            return extra
        asked = self.inputs - 1
        if asked > extra:
            raise ProgramError(
                f"The {self.what} takes {self.inputs} inputs, and the rows have {1 + extra}. Pass the others with "
                "them, as `rows=(v, c)`."
            )
        if asked < extra and self._optional:
            raise ProgramError(
                f"The {self.what} may be called without {self._optional[0]!r}, so that it cannot be told whether "
                "the rows' extra inputs are meant for it. Make it an input without a default, or wrap the network in "
                "a module whose `forward` takes what it uses."
            )
        return asked

    def __repr__(self) -> str:
        return type(self.owner).__name__ + (f".{self.method}" if self.method else "")


def inputs_of(call: Callable[..., Any]) -> tuple[int | None, list[str]]:
    """How many positional inputs a function asks for (None: any number), and the names of those with a default."""
    schema = getattr(call, "schema", None)
    if schema is not None:  # of what TorchScript has compiled, which has no signature
        given = schema.arguments[1:]
        left_out = [each.name for each in given if each.has_default_value()]
        return len(given) - len(left_out), left_out
    parameters = inspect.signature(call).parameters.values()
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in parameters):
        return None, []
    positional = [parameter for parameter in parameters if parameter.kind in _POSITIONAL]
    optional = [parameter.name for parameter in positional if parameter.default is not inspect.Parameter.empty]
    return len(positional) - len(optional), optional


def both_methods(vae: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """The methods `encode` and `decode` of one module that is a whole VAE.

    Raises:
        ProgramError: it lacks one of them.
    """
    missing = [name for name in ("encode", "decode") if not callable(getattr(vae, name, None))]
    if missing:
        parts = [name for name, _ in vae.named_children()] if isinstance(vae, nn.Module) else []
        held = f" It holds {', '.join(map(repr, parts))}." if parts else ""
        raise ProgramError(
            f"Of one module {type(vae).__name__} the methods `encode` and `decode` are taken, and it has no "
            f"`{missing[0]}`.{held} Pass both networks: `from_torch(encoder, decoder, ...)`."
        )
    return vae.encode, vae.decode


def named_parts(output: Any) -> Mapping[str, Any] | None:
    """What an output calls its tensors: a mapping, a named tuple, a data class; None where nothing has a name."""
    if isinstance(output, Mapping):
        return output
    if hasattr(output, "_asdict"):
        return output._asdict()
    if isinstance(output, Tensor | Sequence) or not hasattr(output, "__dict__"):
        return None
    return {name: value for name, value in vars(output).items() if isinstance(value, Tensor)}


def described(output: Any) -> str:
    """An output in words, with shapes."""
    if isinstance(output, Tensor):
        return f"one tensor of shape {tuple(output.shape)}"
    parts = named_parts(output)
    if parts is not None:
        return f"{type(output).__name__} with {', '.join(map(repr, parts)) or 'nothing in it'}"
    if isinstance(output, Sequence):
        shapes = ", ".join(
            str(tuple(part.shape)) if isinstance(part, Tensor) else type(part).__name__ for part in output
        )
        return f"{type(output).__name__} of {len(output)}: {shapes}"
    return type(output).__name__


def _owner(what: str, network: Any) -> tuple[nn.Module, str]:
    owner = getattr(network, "__self__", None)
    if isinstance(owner, nn.Module):  # a decorator may have given the method another name
        names = [network.__name__, *dir(type(owner))]
        return owner, next(
            name for name in names if getattr(getattr(owner, name, None), "__func__", None) is network.__func__
        )
    given = f"the function {network.__name__!r}" if hasattr(network, "__name__") else f"a {type(network).__name__}"
    raise ProgramError(
        f"The {what} must be an `nn.Module`, or a method of one such as `vae.encode`, got {given}: what it holds "
        "inside could be neither trained nor moved to a device. Put the networks that it calls into a module whose "
        "`forward` it is."
    )
