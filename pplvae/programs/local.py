"""`local`: a guide names what makes up lambda, where that is not the parameters of its distributions."""

from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.distributions import constraints


def local(name: str, tensor: Tensor, constraint: constraints.Constraint = constraints.real) -> Tensor:
    """Name a tensor of a guide as lambda: `amortisation_gap` frees it for each row; everywhere else, the identity.

    A guide whose lambda is not the parameters of its own distributions (the context of a flow, say) needs this
    statement. A guide that uses it frees the named tensors and nothing else.

    Args:
        name: unique in the guide.
        tensor: one row per datapoint along the first axis.
        constraint: the values that the tensor may take.

    Returns:
        `tensor`.

    >>> import torch
    >>> local("context", torch.ones(2, 3)).shape
    torch.Size([2, 3])
    """
    return _local(tensor, constraint, name=name)


@effectful(type="local")
def _local(tensor: Tensor, _constraint: constraints.Constraint) -> Tensor:
    return tensor
