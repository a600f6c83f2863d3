"""What a search is asked for, and what it comes to: settings, how each row ended, where."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pplvae.programs.shapes import Lambda, Matrices
from pplvae.search.gaussian import Gaussians


class Status(Enum):
    """How the optimisation of a row ended."""

    CONVERGED = "On fresh draws, the upper 95 % end of what a further step would win is below `tolerance` nats."
    UNTESTED = "The search has ended, and nothing can test it: discrete latents are drawn, so no step can be foreseen."
    SHORT = "The search has ended, but more than `tolerance` nats may be left: see `shortfall`."
    MAX_STEPS = "`max_steps` was reached while the ELBO might still rise: raise `max_steps`."
    IMPRECISE = "Float32 has the ELBO of the row's own guide wrong by several times `tolerance`: run in float64."
    NONFINITE = "The row's ELBO or its gradient is NaN or infinite: look at the row, and at the support of the guide."


@dataclass(frozen=True)
class Schedule:
    """Settings of the search; step sizes are in unconstrained units of lambda.

    A row goes through cycles. A cycle begins with a large step size and halves it after every window of steps in which
    the ELBO rises too little; it ends when the step size falls below `last_step`. The next one begins at a quarter of
    `first_step`. The first cycle that gains less than `tolerance` is the last: a single window may gain little by bad
    luck, a whole cycle hardly.

    Attributes:
        max_steps: gradient steps per row at most.
        tolerance: nats that a row may lack: it is converged if the upper 95 % end of its shortfall is below that. A
            window gains enough if it gains `tolerance` times the step size over `first_step`.
        draws: fresh draws per row and step.
        window: steps between two looks at a row.
        selection_draws: draws per row, at least, of the sample by which the best offset is kept; never optimised on.
        first_step: initial step size.
        last_step: the end of a cycle.
        second_order: whether `second_order` is to be used where it applies.
    """

    max_steps: int = 3000
    tolerance: float = 0.01
    draws: int = 16
    window: int = 25
    selection_draws: int = 64
    first_step: float = 0.1
    last_step: float = 0.002
    second_order: bool = True

    def __post_init__(self) -> None:
        if not self.tolerance > 0:
            raise ValueError(f"`tolerance` is in nats per row, above 0; got {self.tolerance}.")

    def settings(self) -> dict[str, float]:
        """What a result says of it."""
        return {"tolerance": self.tolerance, "max_steps": self.max_steps}

    def with_steps(self, max_steps: int) -> "Schedule":
        """The same with another number of steps."""
        return replace(self, max_steps=max_steps)

    def selection_draws_for(self, elements: int) -> int:
        """Enough draws to match all second moments of so many latent numbers (see `noise.RowNoise`)."""
        return max(self.selection_draws, 2 * math.ceil(2.5 * elements))


FIRST_ORDER, SECOND_ORDER = "first_order", "second_order"


@dataclass
class Optimum:
    """Offsets of a chunk of rows, with how each row ended and by which method.

    Attributes:
        offsets: of every row.
        status: how it ended.
        steps: how many it took.
        method: by which it was found.
        shortfall: nats that a further step would win, by fresh draws; NaN where that has not been tested.
        shortfall_stderr: its standard error.
        gaussians: the guides as Gaussians, where that is what they are.
        curvature: the mean of minus the second derivative of log p(v_i, u) under them, as far as it is known.
    """

    offsets: Lambda
    status: list[Status]
    steps: Int64[Tensor, " row"]
    method: list[str]
    shortfall: Float[Tensor, " row"]
    shortfall_stderr: Float[Tensor, " row"]
    gaussians: Gaussians | None = None
    curvature: Matrices | None = None


def joined(parts: Sequence[Optimum]) -> Optimum:
    """The optima of rows one after the other."""
    offsets = {key: torch.cat([part.offsets[key] for part in parts]) for key in parts[0].offsets}
    status = [status for part in parts for status in part.status]
    method = [method for part in parts for method in part.method]
    steps, nats, stderr = (
        torch.cat([getattr(part, name) for part in parts]) for name in ("steps", "shortfall", "shortfall_stderr")
    )
    return Optimum(offsets, status, steps, method, nats, stderr)
