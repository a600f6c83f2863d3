"""Missing values: NaN never reaches a program; a mask says where it was."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.data.arrays import labelled
from pplvae.data.rows import few
from pplvae.errors import DataError

Values = Float[Tensor, "row ..."]


def with_mask(v: Any) -> tuple[Values, Values]:
    """Rows with missing values (NaN, or masked) as two tensors, to be passed together to programs `model(v, observed)`.

    Nothing is imputed: the 0 that stands for a missing value is a filler, which a likelihood must leave out (such as
    `dist.Normal(mean, scale).mask(observed.bool())`) and which an encoder can tell from a 0 by the mask beside it.

    Args:
        v: a tensor, array or frame of shape (row, ...), NaN where a value is missing; or a NumPy masked array.

    Returns:
        `(values, observed)`, both with the shape, floating dtype and device of v: the values with 0 where NaN was, and
        1 where a value was observed, 0 where it was not. Arrays, and tensors of integers, become torch's default dtype.

    Raises:
        DataError: not numeric, or infinite values (which rows).
        ShapeError: no row dimension.

    >>> with_mask([[1.0, float("nan")], [0.0, 2.0]])
    (tensor([[1., 0.],
            [0., 2.]]), tensor([[1., 0.],
            [1., 1.]]))
    """
    tensor = labelled(v, "v", masked=True).tensor
    if not tensor.is_floating_point():
        tensor = tensor.to(torch.get_default_dtype())
    infinite = torch.nonzero(tensor.isinf().flatten(1).any(1) if tensor.ndim > 1 else tensor.isinf()).flatten()
    if len(infinite):
        raise DataError(
            f"Rows {few(infinite)} of `v` (counted from 0) hold infinite values; only NaN stands for a missing value."
        )
    missing = tensor.isnan()
    return tensor.masked_fill(missing, 0.0), (~missing).to(tensor.dtype)
