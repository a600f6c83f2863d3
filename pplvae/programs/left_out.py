"""Which discrete latents a guide leaves to the model, and how they can be summed out of it."""

import math
from collections.abc import Mapping
from functools import partial
from typing import Any

import torch
from torch import Tensor

from pplvae.errors import RowwiseError
from pplvae.programs.batch import Batch
from pplvae.programs.discrete import MOST_STATES, is_enumerable, joint_states, states_of, states_of_one, states_together
from pplvae.programs.reading import Program, run_in_all_states, run_model
from pplvae.programs.summing import Summed


def left_to_the_model(
    model: Program,
    batch: Batch,
    values: Mapping[str, Tensor],
    axes: Mapping[str, int],
    sites: Mapping[str, Any],
    dims: Mapping[str, int],
) -> Summed | None:
    """Discrete latents that only the model has: they are summed out, as `TraceEnum_ELBO` does.

    Args:
        model: p(v, h; theta).
        batch: a few rows.
        values: the guide's latents on them.
        axes: of the rows in each of these.
        sites: of the model at these values.
        dims: axis of the rows in each (`Layout.model`).

    Raises:
        RowwiseError: there are too many states.
    """
    left = {
        name: site
        for name, site in sites.items()
        if name in dims and name not in values and not site["is_observed"] and is_enumerable(site["fn"])
    }
    if not left:
        return None
    apart = _apart(left, dims)
    if apart is not None and _holds(apart, model, batch, values, axes, dims):
        return apart
    states = states_together({name: states_of(site, dims[name]) for name, site in left.items()})
    if states:
        return Summed(states, {})
    raise RowwiseError(
        f"The discrete latents {list(left)} of the model are not in the guide, and cannot be summed out: they have "
        f"more than {MOST_STATES} states together, or are masked. Put them into the guide. If they are independent of "
        "each other given the other latents, put them, and all that follows from them, into a plate inside that of the "
        "rows: then each of its members is a sum over its own states.",
        code="PV210",
        at=("model", next(iter(left))),
    )


def _apart(left: Mapping[str, Any], dims: Mapping[str, int]) -> Summed | None:
    """Sums over single members of the plates in which latents lie; None where there are no such plates, or several."""
    frames = {
        name: {
            frame.name: frame.size
            for frame in site["cond_indep_stack"]
            if frame.dim not in (None, dims[name]) and frame.size > 1
        }
        for name, site in left.items()
    }
    plates = {name: frozenset(sizes) for name, sizes in frames.items()}
    inside = [name for name in left if plates[name]]
    if not inside or len({plates[name] for name in inside}) > 1:
        return None
    shapes = {left[name]["fn"].batch_shape for name in inside}
    members = math.prod(frames[inside[0]].values())
    # Other axes than those of the rows and of the plates would be members of nothing.
    if len(shapes) > 1 or shapes.pop().numel() != members * _rows(left[inside[0]], dims[inside[0]]):
        return None
    whole = {name: states_of(site, dims[name]) for name, site in left.items() if name not in inside}
    states = states_together(whole | {name: states_of_one(left[name], dims[name]) for name in inside})
    if not states:
        return None
    return Summed({n: states[n] for n in whole}, {n: states[n] for n in inside}, plates[inside[0]])


def _rows(site: Any, dim: int) -> int:
    return site["fn"].batch_shape[dim]


def _holds(
    summed: Summed,
    model: Program,
    batch: Batch,
    values: Mapping[str, Tensor],
    axes: Mapping[str, int],
    dims: Mapping[str, int],
) -> bool:
    """Whether members follow from their own states alone, and nothing outside follows from any, on a few rows.

    The model is run with all members in the same state, once for each, and with each member in a state of its own: what
    it says of a member must be the same.
    """
    alike = run_in_all_states(model, batch, values, axes, summed)
    members, rows = summed.by_state(alike, dims)
    _, states, _, count = members.shape
    generator = torch.Generator().manual_seed(0)
    index = torch.randint(states, (len(batch), count), generator=generator)
    mixed = {}
    for name, some in joint_states(summed.apart).items():
        shape = some.values.shape[1:]
        inner = len(alike[name]["fn"].batch_shape) - 1
        each = index.reshape(len(batch), *shape[:inner], *(1,) * (len(shape) - inner)).expand(-1, *shape)
        spread = some.values.unsqueeze(1).expand(-1, len(batch), *shape)
        mixed[name] = spread.gather(0, each.unsqueeze(0).to(spread.device))[0].movedim(0, some.axis)
    first = {name: value for name, value in summed.any_state(len(batch)).items() if name in summed.whole}
    one = Summed({}, {}, summed.plates)
    theirs, outside = one.by_state(run_model(model, batch, {**values, **first, **mixed}), dims)
    ours = members[0].gather(0, index.unsqueeze(0).to(members.device))[0]
    small = 1e-4 if ours.dtype == torch.float32 else 1e-8
    close = partial(torch.allclose, rtol=small, atol=small, equal_nan=True)
    outside_is_alone = close(rows, rows[:, :1].expand_as(rows)) and close(outside[0, 0], rows[0, 0])
    return outside_is_alone and close(theirs[0, 0], ours)
