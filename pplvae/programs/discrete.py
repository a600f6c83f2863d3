"""Discrete latents: all the states that a site of one row can be in, and draws of it by noise that is keyed by row."""

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Shaped
from pyro.distributions.torch_distribution import MaskedDistribution
from torch import Tensor
from torch import distributions as td

from pplvae.programs.families import unwrapped

MOST_STATES = 512  # of all discrete latents of a row together; more are drawn, not summed over


@dataclass(frozen=True)
class States:
    """Every state of a discrete site of one row.

    Attributes:
        values: the states.
        axis: of the rows in a value of the site, counted from the left.
    """

    values: Shaped[Tensor, "state ..."]
    axis: int

    def over(self, batch: int) -> Tensor:
        """Values of the site for a batch of tiled rows in each of the states, one state after the other."""
        count, *shape = self.values.shape
        spread = self.values.unsqueeze(1).expand(count, batch, *shape).flatten(0, 1)
        return spread.movedim(0, self.axis)


def is_discrete(fn: Any) -> bool:
    """Whether a distribution has a discrete support."""
    try:
        return bool(fn.support is not None and fn.support.is_discrete)
    except NotImplementedError:
        return False


def is_enumerable(fn: Any) -> bool:
    """Whether a distribution can list its states."""
    return is_discrete(fn) and bool(getattr(unwrapped(fn), "has_enumerate_support", False))


def is_masked(site: Any) -> bool:
    """Whether a site may be masked: its log-probability is then 0 in every state, which is no weight."""
    fn, found = site["fn"], site["mask"] is not None
    while isinstance(fn, td.Independent | MaskedDistribution):
        found = found or isinstance(fn, MaskedDistribution)
        fn = fn.base_dist
    return found


def states_of(site: Any, dim: int) -> States | None:
    """Every state of a site of one row, or None where there are more than `MOST_STATES`, or it is masked.

    Args:
        site: an enumerable site.
        dim: axis of the rows in its batch shape, counted from the right.
    """
    shape = site["value"].movedim(len(site["fn"].batch_shape) + dim, 0).shape[1:]
    return None if is_masked(site) else _states(site, dim, shape)


def states_of_one(site: Any, dim: int) -> States | None:
    """The states of one member of the plates inside a row, given to all members alike; None where they are too many."""
    return _states(site, dim, torch.Size(site["fn"].event_shape))


def _states(site: Any, dim: int, shape: torch.Size) -> States | None:
    """The states of as many elements as a shape has, spread over what else a row's value holds."""
    elements = unwrapped(site["fn"])
    alphabet = elements.enumerate_support(expand=False).reshape(-1, *elements.event_shape)
    count = shape.numel() // max(1, torch.Size(elements.event_shape).numel())
    if len(alphabet) ** count > MOST_STATES:
        return None
    index = torch.tensor(list(itertools.product(range(len(alphabet)), repeat=count)), device=alphabet.device)
    axis = len(site["fn"].batch_shape) + dim
    whole = site["value"].movedim(axis, 0).shape[1:]
    values = alphabet[index].reshape(-1, *(1,) * (len(whole) - len(shape)), *shape)
    return States(values.expand(-1, *whole), axis)


def states_together(found: dict[str, States | None]) -> dict[str, States]:
    """The states of several sites, or none where they are too many together."""
    known = {name: states for name, states in found.items() if states is not None}
    if len(known) < len(found) or math.prod(len(states.values) for states in known.values()) > MOST_STATES:
        return {}
    return known


def joint_states(sites: Mapping[str, States]) -> dict[str, States]:
    """The states of several sites, together: entry k of every site belongs to joint state k."""
    sizes = [range(len(states.values)) for states in sites.values()]
    index = torch.tensor(list(itertools.product(*sizes)))
    return {
        name: States(states.values[index[:, k].to(states.values.device)], states.axis)
        for k, (name, states) in enumerate(sites.items())
    }


def draw(fn: Any) -> Tensor:
    """A draw of an enumerable distribution from torch's uniforms alone (Gumbel's maximum), which `RowNoise` keys."""
    elements = unwrapped(fn)
    support = elements.enumerate_support(expand=True)
    # The states last, so that the batch shape leads the noise and the rows are found in it.
    logits = elements.log_prob(support).movedim(0, -1).contiguous()
    gumbel = -torch.rand_like(logits).log().neg().log()
    chosen = (logits + gumbel).argmax(-1)
    index = chosen.reshape(1, *chosen.shape, *(1,) * len(elements.event_shape))
    return support.gather(0, index.expand(1, *support.shape[1:]))[0]
