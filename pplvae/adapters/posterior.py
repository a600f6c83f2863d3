"""q(h | v) from a user's encoder."""

from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
from torch import Tensor, nn
from torch import distributions as td

from pplvae.adapters.conventions import SCALES, WORDS, check_positive, named_convention, two_parts, undeclared
from pplvae.adapters.distributions import row_by_row
from pplvae.adapters.networks import Network, described
from pplvae.errors import ProgramError, ShapeError, UnknownNameError

Convention = str | Callable[[Any], Any]


class Posterior(nn.Module):
    """A user's encoder and what its output means.

    Args:
        encoder: the network.
        output: see `from_torch`.

    Raises:
        UnknownNameError: no such convention.
    """

    def __init__(self, encoder: Network, output: Convention | None) -> None:
        super().__init__()
        if isinstance(output, str) and output not in (*SCALES, "distribution"):
            raise UnknownNameError("encoder_output", output, (*SCALES, "distribution"))
        self.encoder, self.output = encoder, output
        self._looked = False

    def forward(self, v: Tensor, *extra: Tensor) -> Any:
        """q(h | v) with batch shape (row,)."""
        given = self._encoded(v, *extra)
        if isinstance(given, Tensor) and self.output in (None, "distribution"):
            raise undeclared("encoder", given) if self.output is None else self._no_distribution(given)
        meant = self.output(given) if callable(self.output) else given
        found = row_by_row(self._distribution(meant))
        if not self._looked:
            _check_rows(found, len(v), given)
            self._looked = True
        return found

    def _encoded(self, v: Tensor, *extra: Tensor) -> Any:
        try:
            return self.encoder(v, *extra)
        except RuntimeError as error:
            if v.ndim > 2:
                self._say_if_flat_rows_fit(v, *extra, error=error)
            raise

    def _say_if_flat_rows_fit(self, v: Tensor, *extra: Tensor, error: RuntimeError) -> None:
        try:
            self.encoder(v.flatten(1), *extra)
        except Exception:  # then the shape is not the reason, or not all of it
            return
        raise ShapeError(
            f"The encoder fails on rows of shape {tuple(v.shape)} and takes them flat, as whatever calls it may pass "
            "them. Pass `rows.flatten(1)`."
        ) from error

    def _distribution(self, given: Any) -> td.Distribution:
        if isinstance(given, td.Distribution):
            if self.output in SCALES:
                raise ProgramError(
                    f"`encoder_output={self.output!r}` says {WORDS[str(self.output)]}, and the encoder gives "
                    f"{described(given)}, a distribution of its own. Say 'distribution', or nothing."
                )
            return given
        if self.output == "distribution":
            raise self._no_distribution(given)
        if callable(self.output):
            loc, scale = two_parts("encoder", given, "loc-scale")
            return dist.Normal(loc, scale)
        convention = self.output or named_convention(given)
        if convention is None:
            raise undeclared("encoder", given)
        loc, raw = two_parts("encoder", given, convention)
        if not self._looked:
            check_positive("encoder", convention, raw)
        return dist.Normal(loc, SCALES[convention](raw))

    def _no_distribution(self, given: Any) -> ProgramError:
        return ProgramError(
            f"`encoder_output='distribution'` says a `torch.distributions` object, and the encoder gives "
            f"{described(given)}. Name the convention, {', '.join(map(repr, SCALES))}, or pass a function from the "
            "output to a distribution."
        )


def _check_rows(found: Any, rows: int, given: Any) -> None:
    if found.batch_shape != (rows,):
        raise ProgramError(
            f"The encoder gives {described(given)} for {rows} rows: its first axis must be the rows, and each must "
            "have a distribution of its own."
        )
