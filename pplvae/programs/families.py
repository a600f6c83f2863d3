"""The distribution-mapping function: take a distribution apart, change each parameter, put it together again.

Adding an offset (`comparison.localise`), cutting the gradient (sticking the landing) and reading lambda are all calls
of `map_parameters` with another function.
"""

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from pyro.distributions import Delta, FoldedDistribution, MaskedMixture, MixtureOfDiagNormals
from pyro.distributions import transforms as pyro_transforms
from pyro.distributions.torch import TransformedDistribution  # pyright: ignore[reportAttributeAccessIssue]
from pyro.distributions.torch_distribution import ExpandedDistribution, MaskedDistribution
from torch import Tensor
from torch import distributions as td
from torch.distributions import constraints
from torch.distributions.transforms import Transform

from pplvae.programs.transforms import Affine, Change, Parameter, flat, is_plain


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
    if isinstance(fn, FoldedDistribution):  # its density is a sum over two places: no Jacobian gives it
        return FoldedDistribution(map_parameters(fn.base_dist, change, dim), validate_args=False)
    if isinstance(fn, td.TransformedDistribution) and free_parameters(fn.base_dist):
        return TransformedDistribution(map_parameters(fn.base_dist, change, dim), fn.transforms, validate_args=False)
    if isinstance(fn, td.TransformedDistribution):
        shape = fn.base_dist.batch_shape + fn.base_dist.event_shape
        affine = Affine(change, dim - len(fn.event_shape), shape)
        return TransformedDistribution(fn.base_dist, [affine.map(t) for t in fn.transforms], validate_args=False)
    return fn


def map_point(fn: Any, change: Change, dim: int, support: constraints.Constraint) -> Any:
    """A point mass at another place: `map_parameters` for a `Delta` that is lambda itself.

    Args:
        fn: a `Delta`, perhaps masked or with reinterpreted dimensions.
        change: from where it lies, the parameter "v", to another place.
        dim: as in `map_parameters`.
        support: the places that it may take: those of the model's distribution.
    """
    if isinstance(fn, MaskedDistribution):
        return map_point(fn.base_dist, change, dim, support).mask(fn._mask)
    place = unwrapped(fn).v.expand(fn.batch_shape + fn.event_shape)
    moved = change(Parameter("v", place, support, dim - support.event_dim))
    return Delta(moved, event_dim=len(fn.event_shape))


def pathwise(fn: Any) -> Any:
    """A mixture of diagonal normals in the form of it whose draws have gradients; anything else as it is.

    References:
        Pathwise derivatives for multivariate distributions (Jankowiak and Karaletsos, 2019), arXiv 1806.01856.
    """
    if isinstance(fn, MaskedDistribution):
        return pathwise(fn.base_dist).mask(fn._mask)
    parts = getattr(fn, "component_distribution", None)
    if not isinstance(fn, td.MixtureSameFamily) or not isinstance(parts, td.Independent):
        return fn
    if not isinstance(parts.base_dist, td.Normal) or parts.reinterpreted_batch_ndims != 1:
        return fn
    return MixtureOfDiagNormals(parts.base_dist.loc, parts.base_dist.scale, fn.mixture_distribution.logits)


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
    names = [name for name, constraint in _constraints(fn).items() if has_bijection(constraint) and name not in held]
    return [name for name in names if _ALTERNATIVES.get(name) not in names]


def conditional_transforms(fn: Any) -> list[str]:
    """Class names of the transforms whose own parameters this module cannot reach: those of a flow."""
    fn = _without_expansion(unwrapped(fn))
    if isinstance(fn, MaskedMixture):
        return conditional_transforms(fn.component0) + conditional_transforms(fn.component1)
    if not isinstance(fn, td.TransformedDistribution) or free_names(fn):
        return []
    return [type(t).__name__ for t in flat(fn.transforms) if not is_plain(t)] + conditional_transforms(fn.base_dist)


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
        for transform in flat(fn.transforms)
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
    return td.biject_to(of_one_component(constraint))


def of_one_component(constraint: constraints.Constraint) -> constraints.Constraint:
    """The support of a mixture as that of its components, where these share one; any other as it is."""
    if isinstance(constraint, constraints.independent):
        base, ours = constraint.base_constraint, of_one_component(constraint.base_constraint)
        return constraint if ours is base else constraints.independent(ours, constraint.reinterpreted_batch_ndims)
    if not isinstance(constraint, constraints.MixtureSameFamilyConstraint):
        return constraint
    found = base = constraint.base_constraint
    while isinstance(base, constraints.independent):
        base = base.base_constraint
    # Bounds that are tensors may differ from component to component.
    return constraint if any(isinstance(bound, Tensor) for bound in vars(base).values()) else found


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


def has_bijection(constraint: Any) -> bool:
    """Whether a parameter under a constraint can be moved: it is continuous, and the whole space maps onto it."""
    if not isinstance(constraint, constraints.Constraint) or constraint.is_discrete:
        return False
    try:
        bijection(constraint)
    except NotImplementedError:
        return False
    return True


def family_name(fn: Any) -> str:
    """The class of a distribution under its wrappers, for messages."""
    while hasattr(fn, "base_dist") and not fn.arg_constraints and not isinstance(fn, FoldedDistribution):
        fn = fn.base_dist
    return type(fn).__name__


def _is_discrete(constraint: Any) -> bool:
    return isinstance(constraint, constraints.Constraint) and constraint.is_discrete


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


# Parameters that bound the support or are no numbers to move, by distribution.
_HELD = {"AffineBeta": ("loc", "scale")}
_ALTERNATIVES = {"probs": "logits", "gate": "gate_logits"}  # arguments that say the same, and which of them is taken
