"""p(v | h) from a user's decoder and a likelihood that is declared."""

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn
from torch import distributions as td

from pplvae.adapters.declared import OUTPUTS, REAL, declared, one_tensor
from pplvae.adapters.distributions import row_by_row
from pplvae.adapters.networks import Network, described, inputs_of
from pplvae.adapters.quantities import positive
from pplvae.errors import DataError, ProgramError, ShapeError, UnknownNameError
from pplvae.likelihoods import LIKELIHOODS

_OURS = tuple(LIKELIHOODS.values())


class Given(nn.Module):
    """A user's decoder, what its output means, and the likelihood.

    Args:
        decoder: the network.
        likelihood: see `from_torch`, as for the two others.
        output: what the decoder gives.
        scale: of a likelihood of real numbers.

    Raises:
        UnknownNameError: no such likelihood or convention.
        ProgramError: settings that do not go together, or that name no density.
    """

    def __init__(self, decoder: Network, likelihood: Any, output: Any, scale: Any) -> None:
        super().__init__()
        _check_settings(likelihood, output, scale)
        self.decoder, self.likelihood, self.output = decoder, likelihood, output
        self.scale = None if scale is None else positive("scale", scale)
        self._looked = False

    def forward(self, h: Tensor, v: Tensor, *extra: Tensor) -> tuple[Any, Tensor]:
        """p(v | h) with batch shape (row,), and the rows in the shape of its events."""
        output = self.decoder(h, *extra)
        found = row_by_row(self._distribution(output, extra))
        if found.batch_shape != h.shape[:1] or found.event_shape.numel() != v[:1].numel():
            raise ShapeError(
                f"The decoder gives {described(output)}, a distribution of values of shape {tuple(found.event_shape)} "
                f"for each of {tuple(found.batch_shape)} rows; the rows have shape {tuple(v.shape)}. It must give as "
                "many numbers for a row as the row has."
            )
        v = v.reshape(len(v), *found.event_shape)
        if not self._looked and self.likelihood == "bernoulli":
            _check_unit(v)
        self._looked = True
        return found, v

    def __repr__(self) -> str:
        name = self.likelihood if isinstance(self.likelihood, str) else type(self.likelihood).__name__
        fixed = self.scale.single() if self.scale is not None else None
        return name if fixed is None else f"{name}, scale {fixed:g}"

    def _distribution(self, output: Any, extra: tuple[Tensor, ...]) -> Any:
        meant = self.output(output) if callable(self.output) else output
        if not isinstance(self.likelihood, str):
            return _of_function(self.likelihood, meant, extra)
        return declared(self.likelihood, meant, self.output, self.scale, first=not self._looked)


def _check_settings(likelihood: Any, output: Any, scale: Any) -> None:
    if likelihood is None:
        raise ProgramError(_NO_DENSITY)
    name = likelihood if isinstance(likelihood, str) else ""
    if name and name not in OUTPUTS:
        raise UnknownNameError("likelihood of a torch decoder", name, OUTPUTS)
    known = OUTPUTS.get(name, ())
    if isinstance(output, str) and output not in known:
        raise UnknownNameError(f"decoder_output under the likelihood {likelihood!r}", output, known)
    if scale is not None and (name not in REAL or output not in (None, "loc")):
        raise ProgramError(
            f"`scale` goes with a decoder that gives a mean alone, under {' or '.join(map(repr, REAL))}; here the "
            f"likelihood is {likelihood!r} and `decoder_output` is {output!r}. Leave it out."
        )
    if getattr(likelihood, "takes_total", False):
        raise ProgramError(
            f"{type(likelihood).__name__} takes each row's total. Pass a function of the decoder's output and the "
            "rows' extra inputs that gives the distribution."
        )


def _check_unit(v: Tensor) -> None:
    if bool(((v < 0) | (v > 1)).any()):
        raise DataError(
            f"Under 'bernoulli' rows lie in [0, 1], and these have values from {v.min():.4g} to {v.max():.4g}. Scale "
            "bytes by 255, or name another likelihood."
        )


def _of_function(likelihood: Callable[..., Any], output: Any, extra: tuple[Tensor, ...]) -> Any:
    if isinstance(likelihood, _OURS):
        return likelihood(*(output if isinstance(output, tuple | list) else (one_tensor(output),)))
    inputs, _ = inputs_of(likelihood)
    found = likelihood(output, *(extra if inputs is None else extra[: inputs - 1]))
    if not isinstance(found, td.Distribution):
        raise ProgramError(
            f"The likelihood gives {type(found).__name__}, where p(v | h) is expected, a `torch.distributions` object: "
            "without a density there is no ELBO."
        )
    return found


_NO_DENSITY = (
    "There is no likelihood, and without a density p(v | h) there is neither an ELBO nor a gap. Declare one: "
    "`likelihood='bernoulli'`, 'gaussian' with `scale=`, or a function from the decoder's output to a distribution. A "
    "perceptual, adversarial or structural loss has none of its own: what is declared is then what is measured."
)
