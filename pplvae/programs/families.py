"""The distribution-mapping function: take a distribution apart, change each parameter, put it together again.

Adding an offset (`comparison.localise`), cutting the gradient (sticking the landing) and reading lambda are all calls
of `map_parameters` with another function.
"""

import inspect
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro.distributions import MaskedMixture, MixtureOfDiagNormals
from pyro.distributions import transforms as pyro_transforms
from pyro.distributions.torch import TransformedDistribution  # pyright: ignore[reportAttributeAccessIssue]
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
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


def map_parameters(fn: Any, change: Change, dim: int) -> Any:
    """Rebuild a distribution with every free parameter replaced by `change(parameter)`.

    A parameter is free if its constraint is fixed and continuous, so that a bijection can map it to the whole space;
    the ends of a uniform, temperatures, degrees of a transform and the like are held. Each family has one canonical
    parametrisation: `scale_tril` for the multivariate normal (torch has no bijection onto covariance matrices), logits
    rather than probs. Where a mask chooses between two distributions, a row has the parameters of its own one only.

    Args:
        fn: a torch or Pyro distribution whose batch shape contains the rows.
        change: from a parameter to its new value, of the same shape.
        dim: the axis of the rows in `fn.batch_shape`, counted from the right.

    Returns:
        A distribution of the same family; `fn` itself where nothing is free.
    """
    if isinstance(fn, MaskedDistribution):
        return map_parameters(fn.base_dist, change, dim).mask(fn._mask)
    if isinstance(fn, td.Independent):
        count = fn.reinterpreted_batch_ndims
        return map_parameters(fn.base_dist, change, dim - count).to_event(count)
    fn = _without_expansion(fn)
    if isinstance(fn, MaskedMixture):
        return _map_masked_mixture(fn, change, dim)
    names = free_names(fn)
    if names:
        changed = {name: change(_parameter(fn, name, dim)) for name in names}
        held = _held_arguments(fn, names)
        if "base_dist" in held:  # zero-inflated
            held["base_dist"] = map_parameters(fn.base_dist, change, dim)
        return type(fn)(**held, **changed)
    if isinstance(fn, td.TransformedDistribution) and free_parameters(fn.base_dist):
        return TransformedDistribution(map_parameters(fn.base_dist, change, dim), fn.transforms, validate_args=False)
    if isinstance(fn, td.TransformedDistribution):
        shape = fn.base_dist.batch_shape + fn.base_dist.event_shape
        affine = _Affine(change, dim - len(fn.event_shape), shape)
        return TransformedDistribution(fn.base_dist, [affine.map(t) for t in fn.transforms], validate_args=False)
    return fn


def free_parameters(fn: Any, dim: int = -1) -> list[Parameter]:
    """The parameters that `map_parameters` would change, in its order."""
    found: list[Parameter] = []

    def collect(parameter: Parameter) -> Tensor:
        found.append(parameter)
        return parameter.value

    map_parameters(fn, collect, dim)
    return found


def free_names(fn: Any) -> list[str]:
    """Names of the free parameters of a distribution that is not a wrapper around another one."""
    if isinstance(fn, td.MultivariateNormal):
        return ["loc", "scale_tril"]
    # A uniform's ends bound its support; a point mass has no smooth family around it; Unit is `pyro.factor`.
    if isinstance(fn, td.Uniform) or type(fn).__name__ in ("Delta", "Unit"):
        return []
    held = _HELD.get(type(fn).__name__, ())
    names = [name for name, constraint in _constraints(fn).items() if _is_free(constraint) and name not in held]
    return [name for name in names if _ALTERNATIVES.get(name) not in names]


def conditional_transforms(fn: Any) -> list[str]:
    """Class names of the transforms whose own parameters this module cannot reach: those of a flow."""
    fn = _without_expansion(unwrapped(fn))
    if isinstance(fn, MaskedMixture):
        return conditional_transforms(fn.component0) + conditional_transforms(fn.component1)
    if not isinstance(fn, td.TransformedDistribution) or free_names(fn):
        return []
    return [type(t).__name__ for t in _flat(fn.transforms) if not _is_plain(t)] + conditional_transforms(fn.base_dist)


def held_matrices(fn: Any, dim: int) -> bool:
    """Whether a matrix that differs by row is held because the base that it moves has parameters of its own.

    A shift or a scale per element needs no freedom beside that of the base; a matrix does.
    """
    fn = unwrapped(fn)
    if not isinstance(fn, td.TransformedDistribution) or free_names(fn) or not free_parameters(fn.base_dist):
        return False
    shape = fn.base_dist.batch_shape + fn.base_dist.event_shape
    matrices = [
        transform.scale_tril.expand(*shape, shape[-1]).movedim(dim - len(fn.event_shape) - 1, 0)
        for transform in _flat(fn.transforms)
        if isinstance(transform, pyro_transforms.LowerCholeskyAffine)
    ]
    return any(bool((matrix != matrix[0]).any()) for matrix in matrices)


def bijection(constraint: constraints.Constraint) -> Transform:
    """The map from the whole space onto the values that a constraint admits.

    Raises:
        NotImplementedError: there is none.
    """
    if constraint is constraints.lower_cholesky:
        return td.transforms.LowerCholeskyTransform()  # torch registers it with transform_to only
    return td.biject_to(constraint)


def unconstrained(parameter: Parameter) -> Tensor:
    """A parameter's value in the whole space."""
    value = bijection(parameter.constraint).inv(parameter.value)  # pyright: ignore[reportOptionalMemberAccess]
    return value  # type: ignore[return-value]


def constrained(constraint: constraints.Constraint, value: Tensor) -> Tensor:
    """The inverse of `unconstrained`."""
    return bijection(constraint)(value)  # type: ignore[return-value]


def unwrapped(fn: Any) -> Any:
    """A distribution without its masks and reinterpreted dimensions."""
    while isinstance(fn, td.Independent | MaskedDistribution):
        fn = fn.base_dist
    return fn


def family_name(fn: Any) -> str:
    """The class of a distribution under its wrappers, for messages."""
    while hasattr(fn, "base_dist") and not fn.arg_constraints:
        fn = fn.base_dist
    return type(fn).__name__


def _is_discrete(constraint: Any) -> bool:
    return isinstance(constraint, constraints.Constraint) and constraint.is_discrete


def _is_free(constraint: Any) -> bool:
    if not isinstance(constraint, constraints.Constraint) or _is_discrete(constraint):
        return False
    try:
        bijection(constraint)
    except NotImplementedError:
        return False
    return True


def _constraints(fn: Any) -> Mapping[str, Any]:
    """Constraints of the arguments; where Pyro's mixture constrains each weight alone, that of all weights together."""
    if not isinstance(fn, MixtureOfDiagNormals):
        return fn.arg_constraints
    return {
        "locs": constraints.independent(constraints.real, 2),
        "coord_scale": constraints.independent(constraints.positive, 2),
        "component_logits": constraints.real_vector,
    }


def _without_expansion(fn: Any) -> Any:
    """Take a choice by mask out of the wrapper that plates put around it; return anything else as it is."""
    if not isinstance(fn, ExpandedDistribution) or not isinstance(fn.base_dist, MaskedMixture):
        return fn
    inner: Any = fn.base_dist
    shape = fn.batch_shape
    return MaskedMixture(inner.mask.expand(shape), inner.component0.expand(shape), inner.component1.expand(shape))


def _map_masked_mixture(fn: Any, change: Change, dim: int) -> td.Distribution:
    def changed(component: str, rows: Tensor) -> Any:
        def own(parameter: Parameter) -> Tensor:
            value = change(parameter._replace(name=f"{component}.{parameter.name}"))
            here = rows.reshape(*rows.shape, *(1,) * (value.ndim - rows.ndim))
            # Also where the other family has no density, and so a gradient of NaN, this row's draw moves nothing of it.
            return torch.where(here, value, parameter.value)

        return map_parameters(getattr(fn, component), own, dim)

    found = MaskedMixture(fn.mask, changed("component0", ~fn.mask), changed("component1", fn.mask), validate_args=False)
    return found.expand(fn.batch_shape)  # wrapped, as by a plate, since its `mask` hides the method of that name


def _parameter(fn: Any, name: str, dim: int) -> Parameter:
    constraint = _constraints(fn)[name]
    value = getattr(fn, name)
    axis = dim - constraint.event_dim
    # A parameter may be stored without the batch shape that its distribution was expanded to.
    shape = fn.batch_shape + value.shape[value.ndim - constraint.event_dim :]
    return Parameter(name, value.expand(shape), constraint, axis)


def _held_arguments(fn: Any, names: list[str]) -> dict[str, Any]:
    """Other arguments of the constructor, as the distribution keeps them: temperatures, ends of a support."""
    taken = inspect.signature(type(fn)).parameters
    unchecked = {"validate_args": False} if "validate_args" in taken else {}
    held = _HELD.get(type(fn).__name__, ())
    discrete = [name for name, constraint in _constraints(fn).items() if _is_discrete(constraint)]
    others = [name for name in taken if name in held or name in discrete or name not in fn.arg_constraints]
    others = [name for name in others if name not in (*names, "validate_args") and hasattr(fn, name)]
    return {name: getattr(fn, name) for name in others} | unchecked


class _Affine:
    """The shifts and (positive) scales or matrices of affine maps: parameters of a family built on a fixed base."""

    def __init__(self, change: Change, axis: int, shape: torch.Size) -> None:
        self._change, self._axis, self._shape = change, axis, shape
        self._count = 0

    def map(self, transform: Any) -> Transform:
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


def _flat(transforms: Any) -> list[Transform]:
    flat: list[Transform] = []
    for transform in transforms:
        if isinstance(transform, ComposeTransform):
            flat += _flat(transform.parts)
        elif isinstance(transform, IndependentTransform):
            flat += _flat([transform.base_transform])
        elif isinstance(transform, _InverseTransform):
            flat += _flat([transform._inv])
        else:
            flat.append(transform)
    return flat


def _is_plain(transform: Transform) -> bool:
    if isinstance(transform, nn.Module):
        return next(transform.parameters(), None) is None
    return type(transform).__module__ == td.transforms.__name__ or type(transform) in _PLAIN_PYRO


# Parameters that bound the support or are no numbers to move, by distribution.
_HELD = {"AffineBeta": ("loc", "scale")}
_ALTERNATIVES = {"probs": "logits", "gate": "gate_logits"}  # arguments that say the same, and which of them is taken
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
