"""How many draws a row is scored with: a pilot sample says, which is then thrown away.

Draws that say "enough" must not be those that are reported: of skewed draws, a sample that has missed the long tail
looks both better and more precise than it is.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from pplvae.scoring.scores import PILOT_DRAWS
from pplvae.scoring.tables import Columns

FEWEST_DRAWS = 100  # of fewer, the standard error itself is uncertain: errors would be 5 % larger than it says
FEWEST_PLAIN_DRAWS = 400  # of guides without a control variate, whose draws are more skewed
FEWEST_WEIGHTS = 1000  # where a tail is fitted to them: of fewer, k-hat is lower than of all, and a screen skips less
_MOST_DRAWS = 6_400
_KEPT_AT_ONCE = 2**22  # draws × rows of one guide: 32 MiB


@dataclass(frozen=True)
class Precision:
    """How many draws the rows are scored with.

    Attributes:
        fewest: draws of every row.
        most: draws of a row at most.
        stderr: nats; no standard error of a row is to be larger.
        pilot: draws of the sample that says how many are needed.
    """

    fewest: int
    most: int = _MOST_DRAWS
    stderr: float = 0.0
    pilot: int = PILOT_DRAWS

    @classmethod
    def of(cls, particles: int | None, stderr: float, fewest: int, most: int = _MOST_DRAWS) -> "Precision":
        """Exactly so many draws; where that is None, as many as the standard error needs.

        Raises:
            ValueError: numbers out of range.
        """
        if particles is None:
            if not stderr > 0:
                raise ValueError(f"`stderr` is a standard error in nats, above 0; got {stderr}.")
            return cls(fewest, most, stderr)
        if particles < 4 or particles % 2:
            raise ValueError(f"`particles` must be even (they come in mirrored pairs) and at least 4, got {particles}.")
        return cls(particles, particles)

    def at_least(self, draws: int) -> "Precision":
        """The same with no fewer draws, unless their number is fixed."""
        return self if self.is_exact else replace(self, fewest=max(draws, self.fewest))

    def settings(self) -> dict[str, int | float | str]:
        """What a result says of it."""
        if self.is_exact:
            return {"particles": self.most, "stderr": "none"}
        return {"particles": "as needed", "stderr": self.stderr}

    @property
    def is_exact(self) -> bool:
        """Whether all rows have the same number of draws, whatever their errors."""
        return self.fewest == self.most

    def groups(self, index: Tensor, pilot: Columns | None) -> Iterator[tuple[int, Tensor]]:
        """Numbers of draws, and the rows that take so many: no more of them at once than memory should hold.

        Rows do not meet: how many draws one takes follows from its own pilot sample.

        Args:
            index: positions of the rows.
            pilot: what the pilot sample says of them; each `<name>_stderr` is to be small. None if the number of draws
                is exact.
        """
        needed = torch.full((len(index),), self.fewest)
        if pilot is not None:
            errors = [values for name, values in pilot.items() if name.endswith("_stderr")]
            needed = self.needed(torch.stack(errors)).cpu()
        for count in needed.unique().tolist():
            for some in index[needed == count].split(max(1, _KEPT_AT_ONCE // count)):
                yield count, some

    def needed(self, errors: Float[Tensor, "estimate row"]) -> Int64[Tensor, " row"]:
        """How many draws bring the errors of the pilot down: the fewest, or that doubled again and again.

        A row without a finite error will not get one: it takes the fewest.
        """
        times = (errors.amax(0) / self.stderr).square() * self.pilot / self.fewest
        times = torch.where(errors.isfinite().all(0), times, 0.0)
        doublings = times.clamp(min=1, max=2.0**30).log2().ceil()
        return (self.fewest * 2**doublings).clamp(max=self.most).to(torch.int64)
