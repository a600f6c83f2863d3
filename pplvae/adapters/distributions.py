"""Distributions of torch, and of libraries built on it, as Pyro's."""

import copy
from functools import cache
from typing import Any

import pyro.distributions as dist
import torch
from pyro.distributions.torch_distribution import ExpandedDistribution, TorchDistributionMixin
from torch import distributions as td

from pplvae.flows import ZukoFlow


def as_pyro(fn: Any) -> Any:
    """A distribution of torch as the one of Pyro, with the same tensors in it."""
    if isinstance(fn, TorchDistributionMixin):
        return fn
    if isinstance(fn, td.Independent):
        return as_pyro(fn.base_dist).to_event(fn.reinterpreted_batch_ndims)
    if type(fn).__module__.split(".")[0] == "zuko":
        return ZukoFlow(fn)
    found = copy.copy(fn)
    found.__class__ = _class(type(fn))
    if not found.batch_shape and not found.event_shape:
        found._batch_shape = _shape_of_parameters(fn)
    return found


def row_by_row(fn: Any) -> Any:
    """A distribution whose first axis are the rows and all others one event."""
    fn = as_pyro(fn)
    return fn.to_event(len(fn.batch_shape) - 1)


def of_every_row(fn: Any, rows: int, shape: torch.Size) -> Any:
    """One distribution for all rows, of values of this shape; one of single numbers is that of each of them."""
    fn = as_pyro(fn)
    if not fn.batch_shape and not fn.event_shape:
        fn = fn.expand(shape)
    return fn.to_event(len(fn.batch_shape)).expand((rows,))


def _shape_of_parameters(fn: Any) -> torch.Size:
    """The batch shape of a distribution of single numbers whose class does not say it, as those of scvi-tools."""
    parameters = (getattr(fn, name, None) for name in fn.arg_constraints)
    return torch.broadcast_shapes(*(value.shape for value in parameters if isinstance(value, torch.Tensor)))


@cache
def _class(kind: type) -> type:
    """Pyro's class of the same name, or one made of torch's."""
    known = getattr(dist, kind.__name__, None)
    if isinstance(known, type) and issubclass(known, kind) and known.__init__ is kind.__init__:
        return known  # it holds no more than torch's
    expands = next(each for each in kind.__mro__ if "expand" in vars(each))
    # The method that is inherited makes an object of the class that has it, with that one's arguments.
    expanding = () if kind.__init__ is expands.__init__ else (_Expanding,)
    return type(kind.__name__, (*expanding, kind, TorchDistributionMixin), {})


class _Expanding:
    """The method that Pyro's plates need, for a class without one of its own."""

    def expand(self: Any, batch_shape: Any, _instance: Any = None) -> Any:
        """The same distribution for a larger batch."""
        return self if batch_shape == self.batch_shape else ExpandedDistribution(self, torch.Size(batch_shape))
