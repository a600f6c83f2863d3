"""What an encoder's or a decoder's output means: a location, and a scale in one of four forms."""

import re
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from pplvae.adapters.networks import described, named_parts
from pplvae.errors import ProgramError

# From the second tensor to a standard deviation.
SCALES: dict[str, Callable[[Tensor], Tensor]] = {
    "loc-logvar": lambda raw: (0.5 * raw).exp(),
    "loc-var": torch.sqrt,
    "loc-scale": lambda raw: raw,
    "loc-logscale": torch.exp,
}
POSITIVE = ("loc-var", "loc-scale")
WORDS = {
    "loc-logvar": "mean and log variance",
    "loc-var": "mean and variance",
    "loc-scale": "mean and standard deviation",
    "loc-logscale": "mean and log standard deviation",
}
_LOCS = ("loc", "mean", "mu", "embedding")
_NAMES = {
    "loc-logvar": ("logvar", "logvariance", "logcovariance", "logsigma2"),
    "loc-var": ("var", "variance", "sigma2"),
    "loc-scale": ("scale", "std", "stddev", "sigma"),
    "loc-logscale": ("logscale", "logstd", "logstddev", "logsigma"),
}


def two_parts(what: str, output: Any, convention: str) -> tuple[Tensor, Tensor]:
    """The two tensors of an output that is said to be a location and a scale of this form.

    A single tensor holds both, half of its columns each: along axis 1, where torch has columns and channels.

    Raises:
        ProgramError: an output that has not two such tensors.
    """
    named = named_parts(output)
    if named is not None:
        return _by_name(what, output, named, convention)
    if isinstance(output, Tensor):
        return _halves(what, output, convention)
    if isinstance(output, Sequence) and len(output) == 2 and all(isinstance(part, Tensor) for part in output):
        return output[0], output[1]
    raise ProgramError(
        f"The {what} gives {described(output)}, where {convention!r} are two tensors, {WORDS[convention]}. Say which: "
        f"`{what}_output=function`, from the output to (loc, scale) or a distribution."
    )


def named_convention(output: Any) -> str | None:
    """The one convention that the names of an output's tensors tell; None where they tell none, or several."""
    names = {_plain(name) for name in named_parts(output) or ()}
    told = [convention for convention, known in _NAMES.items() if names & {*known}]
    return told[0] if len(told) == 1 and names & {*_LOCS} else None


def undeclared(what: str, output: Any) -> ProgramError:
    """That nobody has said what an output means: what was seen, and what may be said."""
    second = _second(output)
    negative = second is not None and bool((second < 0).any())
    options = [name for name in SCALES if not (negative and name in POSITIVE)]
    named = ", ".join(f"'{name}' ({WORDS[name]})" for name in options)
    return ProgramError(
        f"The {what} gives {described(output)}, and it is not said what that means.{_seen(what, output, second)} Say "
        f"it by `{what}_output=`: {named}, or a function from the output to (loc, scale) or a distribution."
    )


def _seen(what: str, output: Any, second: Tensor | None) -> str:
    """What the numbers of an output, and its shape, tell of its meaning."""
    whole = isinstance(output, Tensor)
    deterministic = _NO_DENSITY if whole and what == "encoder" else ""
    if second is None:
        return f" It has no two halves of columns.{deterministic}" if whole else ""
    low, high = second.min().item(), second.max().item()
    neither = ", so that it is neither a scale nor a variance" if low < 0 else ""
    which = "Of its halves the second" if whole else "The second"
    return f" {which} lies between {low:.3g} and {high:.3g} on these rows{neither}.{deterministic}"


def check_positive(what: str, convention: str, second: Tensor) -> None:
    """Refuse a scale or a variance that is not positive.

    Raises:
        ProgramError: some of it is not.
    """
    if convention in POSITIVE and bool((second <= 0).any()):
        others = " or ".join(repr(name) for name in SCALES if name not in POSITIVE)
        raise ProgramError(
            f"`{what}_output={convention!r}` says {WORDS[convention]}, and the second tensor has values down to "
            f"{second.min():.3g}, which must be positive. Is it {others}?"
        )


def _second(output: Any) -> Tensor | None:
    """The second of two tensors without names."""
    if isinstance(output, Tensor):
        return None if output.ndim < 2 or output.shape[1] % 2 else output.chunk(2, 1)[1]
    pair = isinstance(output, Sequence) and len(output) == 2 and isinstance(output[1], Tensor)
    return output[1] if pair and named_parts(output) is None else None


def _halves(what: str, output: Tensor, convention: str) -> tuple[Tensor, Tensor]:
    if output.ndim == 3:
        raise ProgramError(
            f"The {what} gives {described(output)}: {convention!r} are two tensors, and of three axes it cannot be "
            f"told which to halve. Say it: `{what}_output=function`, from the output to (loc, scale)."
        )
    if output.ndim < 2 or output.shape[1] % 2:
        raise ProgramError(
            f"The {what} gives {described(output)}, which has no two halves of columns to be {WORDS[convention]} "
            f"({convention!r})." + (_NO_DENSITY if what == "encoder" else "")
        )
    first, second = output.chunk(2, 1)
    return first, second


def _by_name(what: str, output: Any, named: Any, convention: str) -> tuple[Tensor, Tensor]:
    found = [[name for name in named if _plain(name) in known] for known in (_LOCS, _NAMES[convention])]
    if [len(names) for names in found] != [1, 1]:
        raise ProgramError(
            f"The {what} gives {described(output)}, where {WORDS[convention]} ({convention!r}) are not one name each. "
            f"Say which: `{what}_output=lambda out: (out[...], scale)`."
        )
    return named[found[0][0]], named[found[1][0]]


def _plain(name: str) -> str:
    """A name without what people put around it: `z_log_var`, `qz_logvar`, `logVar`."""
    return re.sub(r"^q?[zhx]_|_q?[zhx]$|_", "", re.sub(r"^q_", "", name.lower())) if name else name


_NO_DENSITY = (
    " An encoder that gives no scale is deterministic: it has no density q(h | v), so no ELBO and no gap. (So are "
    "plain and regularised autoencoders, and those with a codebook.)"
)
