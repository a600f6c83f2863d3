"""The transforms of distributions: which have parameters that can be freed for each row, and how these are changed."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from pyro.distributions import transforms as pyro_transforms
from torch import Tensor, nn
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.transforms import ComposeTransform, IndependentTransform, Transform, _InverseTransform


class Parameter(NamedTuple):
    """One parameter tensor of a distribution, and how its rows lie."""

    name: str
    value: Tensor
    constraint: constraints.Constraint
    axis: int  # of the rows, counted from the right


Change = Callable[[Parameter], Tensor]


class LowerCholeskyAffine(pyro_transforms.LowerCholeskyAffine):
    """y = L x + r with L lower triangular, as Pyro's, which takes one matrix for all rows only.

    Args:
        loc: r, of shape (..., element).
        scale_tril: L, of shape (..., element, element), with a positive diagonal.
        cache_size: see `torch.distributions.Transform`.
    """

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        """Sum of the logs of the diagonal of L, for every x."""
        return self.scale_tril.diagonal(dim1=-2, dim2=-1).log().sum(-1).expand(x.shape[:-1])

    def with_cache(self, cache_size: int = 1) -> "LowerCholeskyAffine":
        """The same map with another cache."""
        return self if self._cache_size == cache_size else type(self)(self.loc, self.scale_tril, cache_size)


class Affine:
    """The shifts and (positive) scales or matrices of affine maps: parameters of a family built on a fixed base.

    Args:
        change: from a parameter to its new value.
        axis: of the rows in a value, counted from the right.
        shape: of a value.
    """

    def __init__(self, change: Change, axis: int, shape: torch.Size) -> None:
        self._change, self._axis, self._shape = change, axis, shape
        self._count = 0

    def map(self, transform: Any) -> Transform:
        """A transform with its parameters changed; as it is where it has none of these."""
        if isinstance(transform, ComposeTransform):
            return ComposeTransform([self.map(part) for part in transform.parts])
        if isinstance(transform, IndependentTransform):
            return IndependentTransform(self.map(transform.base_transform), transform.reinterpreted_batch_ndims)
        if isinstance(transform, pyro_transforms.LowerCholeskyAffine):
            matrix = transform.scale_tril.expand(*self._shape, self._shape[-1])
            scale_tril = Parameter("scale_tril", matrix, constraints.lower_cholesky, self._axis - 1)
            return LowerCholeskyAffine(*self._change_both(transform.loc, scale_tril))
        if not isinstance(transform, td.AffineTransform) or not isinstance(transform.loc, Tensor):
            return transform
        if not isinstance(transform.scale, Tensor):
            return transform
        # The sign stays with its row: a mirrored base is another family, and a positive size can be moved.
        size, sign = transform.scale.abs().expand(self._shape), transform.scale.sign()
        loc, scale = self._change_both(transform.loc, Parameter("scale", size, constraints.positive, self._axis))
        return td.AffineTransform(loc, scale * sign, event_dim=transform.event_dim)

    def _change_both(self, shift: Tensor, scale: Parameter) -> tuple[Tensor, Tensor]:
        self._count += 1
        suffix = "" if self._count == 1 else f"_{self._count}"
        loc = Parameter("loc" + suffix, shift.expand(self._shape), constraints.real, self._axis)
        return self._change(loc), self._change(scale._replace(name=scale.name + suffix))


def flat(transforms: Any) -> list[Transform]:
    """Transforms out of the compositions and inversions around them."""
    found: list[Transform] = []
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            found += flat(transform.parts)
        elif isinstance(transform, IndependentTransform):
            found += flat([transform.base_transform])
        elif isinstance(transform, _InverseTransform):
            found += flat([transform._inv])
        else:
            found.append(transform)
    return found


def is_plain(transform: Transform) -> bool:
    """Whether a transform has no parameters, or such as `Affine` reaches: not those of a flow."""
    if isinstance(transform, nn.Module):
        return next(transform.parameters(), None) is None
    return type(transform).__module__ == td.transforms.__name__ or type(transform) in _PLAIN_PYRO


_PLAIN_PYRO = (
    LowerCholeskyAffine,
    pyro_transforms.LowerCholeskyAffine,
    pyro_transforms.LeakyReLUTransform,
    pyro_transforms.ELUTransform,
    pyro_transforms.CholeskyTransform,
    pyro_transforms.CorrLCholeskyTransform,
    pyro_transforms.OrderedTransform,
    pyro_transforms.SimplexToOrderedTransform,
    pyro_transforms.SoftplusTransform,
    pyro_transforms.SoftplusLowerCholeskyTransform,
    pyro_transforms.UnitLowerCholeskyTransform,
)
