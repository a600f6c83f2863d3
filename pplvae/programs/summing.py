"""Discrete latents that a guide leaves to the model: summed out of log p(v, h), exactly."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pplvae.programs.discrete import States, joint_states
from pplvae.programs.sites import counted, sum_sites


@dataclass(frozen=True)
class Summed:
    """The latents that are summed out, and over which states.

    Members of a plate are independent given what lies outside of it. So latents inside are summed member by member,
    over the states of one; all together have that number to the power of the members.

    Attributes:
        whole: states of the latents outside of such plates.
        apart: states of one member of the latents inside, the same for all members.
        plates: names of these plates.

    References:
        Tensor variable elimination for plated factor graphs (Obermeyer et al., 2019), arXiv 1902.03210.
    """

    whole: Mapping[str, States]
    apart: Mapping[str, States]
    plates: frozenset[str] = frozenset()

    @property
    def names(self) -> list[str]:
        """The latents."""
        return [*self.whole, *self.apart]

    @property
    def count(self) -> int:
        """How many joint states the model is run in."""
        return _count(self.whole) * _count(self.apart)

    def values(self, batch: int) -> dict[str, Tensor]:
        """The latents of tiled rows in each joint state, one state after the other."""
        return {name: states.over(batch) for name, states in joint_states({**self.whole, **self.apart}).items()}

    def any_state(self, batch: int) -> dict[str, Tensor]:
        """The latents of tiled rows, each in its first state."""
        both = {**self.whole, **self.apart}
        return {name: States(states.values[:1], states.axis).over(batch) for name, states in both.items()}

    def log_sum(self, sites: Mapping[str, Any], dims: Mapping[str, int]) -> Float[Tensor, " batch"]:
        """Log of the sum over all states of the sites' probabilities, for each tiled row.

        Args:
            sites: of the model, run in all joint states.
            dims: axis of the rows in each (`Layout.model`).
        """
        members, rows = self.by_state(sites, dims)
        if not self.apart:
            return rows[:, 0].logsumexp(0)
        counts = self._counted(sites, dims).unflatten(0, members.shape[:3])[:, 0]
        # A member whose latent is masked has no states to sum over.
        inside = torch.where(counts, members.logsumexp(1), members[:, 0]).sum(-1)
        return (inside + rows[:, 0]).logsumexp(0)

    def by_state(
        self, sites: Mapping[str, Any], dims: Mapping[str, int]
    ) -> tuple[Float[Tensor, "whole apart batch member"], Float[Tensor, "whole apart batch"]]:
        """Log-probabilities of what lies inside the plates, member by member, and of the rest, in each joint state."""
        shape = _count(self.whole), _count(self.apart), -1
        inside = {name: site for name, site in sites.items() if name in dims and self._is_inside(site)}
        outside = {name: site for name, site in sites.items() if name not in inside}
        rows = sum_sites(outside, dims) if dims.keys() & outside.keys() else None
        members = [self._by_member(_log_prob(site), site, dims[name]) for name, site in inside.items()]
        if not members:
            assert rows is not None
            return rows.new_zeros(len(rows), 0).unflatten(0, shape), rows.unflatten(0, shape)
        total = torch.stack(members).sum(0)
        rows = total.new_zeros(len(total)) if rows is None else rows
        return total.unflatten(0, shape), rows.unflatten(0, shape)

    def _is_inside(self, site: Any) -> bool:
        return bool(self.plates) and self.plates <= {frame.name for frame in site["cond_indep_stack"]}

    def _counted(self, sites: Mapping[str, Any], dims: Mapping[str, int]) -> Bool[Tensor, "batch member"]:
        """Members of which a latent counts."""
        found = []
        for name in self.apart:
            site = sites[name]
            mask = counted(site)
            mask = mask.flatten(len(site["fn"].batch_shape)).any(-1) if site["fn"].event_shape else mask
            found.append(self._by_member(mask.to(torch.float32), site, dims[name]) > 0)
        return torch.stack(found).any(0)

    def _by_member(self, values: Tensor, site: Any, dim: int) -> Float[Tensor, "batch member"]:
        """Numbers over a site's batch shape as one for each row and member, summed over other plates inside."""
        axes = [dim, *sorted(frame.dim for frame in site["cond_indep_stack"] if frame.name in self.plates)]
        first = values.movedim(axes, [*range(len(axes))])
        return first.reshape(*first.shape[: len(axes)], -1).sum(-1).flatten(1)


def _log_prob(site: Any) -> Tensor:
    log_prob = site["fn"].log_prob(site["value"], *site["args"], **site["kwargs"])
    return scale_and_mask(log_prob, mask=site["mask"])


def _count(states: Mapping[str, States]) -> int:
    return math.prod(len(some.values) for some in states.values())
