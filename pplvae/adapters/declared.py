"""Likelihoods that are declared by name: from what a decoder gives to p(v | h)."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
from torch import Tensor
from torch import distributions as td
from torch.distributions.utils import probs_to_logits

from pplvae.adapters.conventions import SCALES, check_positive, two_parts, undeclared
from pplvae.adapters.networks import described, named_parts
from pplvae.errors import ProgramError
from pplvae.likelihoods.categorical import CodedCategorical
from pplvae.likelihoods.continuous_bernoulli import StableContinuousBernoulli
from pplvae.likelihoods.poisson import LogRatePoisson

REAL = {"gaussian": dist.Normal, "laplace": dist.Laplace}
# What a decoder may give, by likelihood.
OUTPUTS = {
    "bernoulli": ("logits", "probs"),
    "continuous-bernoulli": ("logits", "probs"),
    **dict.fromkeys(REAL, ("loc", *SCALES)),
    "categorical": ("logits", "probs"),
    "poisson": ("rate", "log-rate"),
    "distribution": (),
}
_OF_ONE = ("reconstruction", "recon_x", "recon", "x_hat", "x_recon", "logits", "probs", "mean", "loc", "rate", "sample")


def declared(name: str, output: Any, convention: Any, scale: Callable[[Tensor], Tensor] | None, *, first: bool) -> Any:
    """p(v | h) of a likelihood's name.

    Args:
        name: one of `OUTPUTS`.
        output: what the decoder gives.
        convention: what that means, by name; anything else if it is not said, or is said by a function.
        scale: of the real ones, from the mean.
        first: look at the numbers: they are the first that are seen.

    Raises:
        ProgramError: an output that is not as it is said to be, or of which too little is said.
    """
    if isinstance(output, td.Distribution):
        if name != "distribution":
            raise ProgramError(
                f"The decoder gives {described(output)}, a distribution of its own: say `likelihood='distribution'` in "
                f"place of {name!r}."
            )
        return output
    if name == "distribution":
        raise ProgramError(
            f"`likelihood='distribution'` says that the decoder gives a `torch.distributions` object, and it gives "
            f"{described(output)}. Name a likelihood, {', '.join(map(repr, OUTPUTS))}, or pass a function."
        )
    if name in REAL:
        return _real(name, output, convention, scale, first)
    value = one_tensor(output)
    if name == "poisson":
        return _poisson(value, convention)
    if name == "categorical":  # torch has the classes along axis 1, as its `cross_entropy`
        value = value.movedim(1, -1)
        return CodedCategorical(probs=value) if convention == "probs" else CodedCategorical(logits=value)
    if first:
        _check_binary(value, convention)
    return _binary(name, value, probs=convention == "probs")


def one_tensor(output: Any) -> Tensor:
    """The one tensor of a decoder's output.

    Raises:
        ProgramError: there are several, or none.
    """
    if isinstance(output, Tensor):
        return output
    named = named_parts(output)
    tensors = {name: part for name, part in (named or {}).items() if isinstance(part, Tensor)}
    known = [name for name in tensors if name in _OF_ONE]
    if len(tensors) == 1 or len(known) == 1:
        return tensors[known[0] if known else next(iter(tensors))]
    if named is None and isinstance(output, tuple | list) and len(output) == 1 and isinstance(output[0], Tensor):
        return output[0]
    raise ProgramError(
        f"The decoder gives {described(output)}, where one tensor is expected. Say which: "
        "`decoder_output=lambda out: ...`."
    )


def _real(name: str, output: Any, convention: Any, scale: Callable[[Tensor], Tensor] | None, first: bool) -> Any:
    if scale is not None:
        loc = one_tensor(output)
        return REAL[name](loc, _in_shape_of(scale(loc), loc))
    if callable(convention):
        return REAL[name](*two_parts("decoder", output, "loc-scale"))
    if convention not in SCALES:
        raise _without_scale(name, output)
    loc, raw = two_parts("decoder", output, convention)
    if first:
        check_positive("decoder", convention, raw)
    return REAL[name](loc, SCALES[convention](raw).expand_as(loc))


def _in_shape_of(scale: Tensor, loc: Tensor) -> Tensor:
    """A scale in the shape of the mean; one per column may be flat where the mean is a picture."""
    if scale.numel() == loc[0].numel():
        scale = scale.reshape(loc.shape[1:])
    return scale.expand_as(loc)


def _without_scale(name: str, output: Any) -> ProgramError:
    if named_parts(output) is None and not isinstance(output, Tensor):
        return undeclared("decoder", output)
    return ProgramError(
        f"The likelihood {name!r} needs a standard deviation, and the decoder gives {described(output)}, a mean. A "
        "squared error says one only together with its factor: half the sum of squares beside the KL term is "
        "`scale=1.0`, the sum of squares `scale=0.5 ** 0.5`, a mean over D columns `scale=(D / 2) ** 0.5`. Pass "
        "`scale=` a number, a tensor of one per column, an `nn.Parameter` or a function; or `decoder_output=` where "
        "the decoder gives a scale too."
    )


def _binary(name: str, value: Tensor, *, probs: bool) -> Any:
    if name == "continuous-bernoulli":
        return StableContinuousBernoulli(probs_to_logits(value, is_binary=True) if probs else value)
    # Cross entropy of grey pixels is a published habit: rows within [0, 1] are taken, with a warning at the door.
    return dist.Bernoulli(**{"probs" if probs else "logits": value}, validate_args=False)


def _check_binary(value: Tensor, convention: Any) -> None:
    low, high = value.min().item(), value.max().item()
    within = 0 <= low and high <= 1
    if convention is None and within:
        raise ProgramError(
            f"All that the decoder gives lies between {low:.3g} and {high:.3g}, as probabilities do, but it is not said"
            " whether they are. Say `decoder_output='probs'` (as after a sigmoid) or `decoder_output='logits'`."
        )
    if convention == "probs" and not within:
        raise ProgramError(
            f"`decoder_output='probs'` says probabilities, and the decoder gives values from {low:.3g} to {high:.3g}. "
            "Logits are `decoder_output='logits'`."
        )


def _poisson(value: Tensor, convention: Any) -> Any:
    if convention is None:
        raise ProgramError("Say what the decoder gives: `decoder_output='rate'` or `decoder_output='log-rate'`.")
    return LogRatePoisson(value) if convention == "log-rate" else dist.Poisson(value)
