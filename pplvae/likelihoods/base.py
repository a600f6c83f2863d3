"""What a model asks of a likelihood."""

from typing import Protocol, runtime_checkable

from jaxtyping import Float, Real
from torch import Tensor
from torch.distributions import Distribution

Head = Float[Tensor, "batch column"]
Total = Real[Tensor, "batch 1"]
Visible = Real[Tensor, "batch column"]


@runtime_checkable
class Likelihood(Protocol):
    """p(v | h): from a decoder's heads to a distribution of v.

    Attributes:
        takes_total: whether the call takes the total count of each row (library size, length of a document) after the
            heads. It is given to the model, not modelled: p(v | h, total).
    """

    takes_total: bool

    def heads(self, visible: int) -> list[int]:
        """Columns of each head of the decoder, for rows of `visible` columns."""
        ...

    def features(self, v: Visible) -> Float[Tensor, "batch feature"]:
        """What an encoder is shown of v: numbers of moderate size, whatever the kind of data."""
        ...

    def __call__(self, *heads: Head) -> Distribution:
        """p(v | h) with batch shape (batch,) and event shape (column,)."""
        ...


def check_columns(likelihood: Likelihood, own: int, visible: int) -> None:
    """Refuse rows of another width than a likelihood with parameters of its own per column was made for.

    Raises:
        ValueError: `own` is not `visible`.
    """
    if own != visible:
        raise ValueError(
            f"{type(likelihood).__name__} was made for rows of {own} columns and these have {visible}: make it with "
            f"visible={visible}."
        )
