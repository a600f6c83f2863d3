"""A guide of its own for every row: offsets added to lambda, the guide's answer, in unconstrained space.

At offset zero the local guide is the amortised guide, draw for draw. The family is the same by construction, and where
a site's lambda depends on a latent drawn earlier the offset form still holds: the row's offset is one for all draws.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pyro
import torch
from jaxtyping import Float, Int64
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.distributions import constraints

from pplvae.families import Parameter, constrained, map_parameters, unconstrained
from pplvae.noise import Kind
from pplvae.rows import Layout, Program, log_weights_of, run_guide, tile

Offsets = dict[str, Tensor]


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


class Localise(Messenger):
    """Add each row's offset to lambda wherever the guide states it.

    Args:
        offsets: by name (see `Layout.free`); rows first, in unconstrained space. A name that is missing is not moved.
        layout: of the pair.
        particles: how often the rows are tiled.
    """

    def __init__(self, offsets: Mapping[str, Tensor], layout: Layout, particles: int) -> None:
        super().__init__()
        self._offsets = offsets
        self._layout = layout
        self._particles = particles

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self._layout.guide:
            msg["fn"] = map_parameters(msg["fn"], lambda p: self._move(f"{name}.{p.name}", p), self._layout.guide[name])

    def _pyro_post_local(self, msg: Any) -> None:
        value, constraint = msg["value"], msg["args"][1]
        msg["value"] = self._move(msg["name"], Parameter(msg["name"], value, constraint, -value.ndim))

    def _move(self, key: str, parameter: Parameter) -> Tensor:
        offset = self._offsets.get(key)
        if offset is None:
            return parameter.value
        offset = tile(offset, self._particles).movedim(0, parameter.axis)
        return constrained(parameter.constraint, unconstrained(parameter) + offset)


class LocalGuides:
    """A batch of rows of one pair, each with a guide of its own, at a fixed number of draws per row.

    Where lambda does not depend on what the guide draws, the encoder runs once, when the batch is made.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        tensors: the rows.
        keys: of the rows, from `noise.row_keys`.
        particles: draws per row at each evaluation.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        layout: Layout,
        tensors: Sequence[Tensor],
        keys: Int64[Tensor, " row"],
        particles: int,
    ) -> None:
        self.keys = keys
        self._model = model
        self._guide = guide
        self._layout = layout
        self._tensors = tensors
        self._particles = particles
        if layout.fixed:
            self._guide = self._read_once()

    @property
    def elements(self) -> int:
        """How many latent numbers a row has."""
        with torch.no_grad():
            sites = run_guide(self._guide, self._tiled(), self.keys, self._particles, (0,))
        return sum(site["value"].numel() for site in sites.values()) // (len(self.keys) * self._particles)

    def zeros(self) -> Offsets:
        """Offsets at which every local guide is the amortised one."""
        found: Offsets = {}

        class Read(Localise):
            def _move(self, key: str, parameter: Parameter) -> Tensor:
                if key in self._layout.free:
                    free = unconstrained(parameter).movedim(parameter.axis, 0)
                    found[key] = torch.zeros_like(free[: len(free) // self._particles])
                return parameter.value

        with torch.no_grad():
            read = Read({}, self._layout, self._particles)(self._guide)
            run_guide(read, self._tiled(), self.keys, self._particles, (0,))
        return found

    def log_weights(
        self,
        offsets: Offsets,
        address: tuple[int, ...],
        kind: Kind = "antithetic",
        *,
        stick_the_landing: bool = False,
    ) -> Float[Tensor, "particle row"]:
        """Log p(v_i, h_si) - log q(h_si; lambda_i) in nats; the same address gives the same noise at any offset.

        The second half of the draws mirrors the first.
        """
        localised = Localise(offsets, self._layout, self._particles)(self._guide)
        return log_weights_of(
            self._model,
            localised,
            self._layout,
            self._tensors,
            self.keys,
            self._particles,
            address,
            kind,
            stick_the_landing=stick_the_landing,
        )

    def _tiled(self) -> list[Tensor]:
        return [tile(tensor, self._particles) for tensor in self._tensors]

    def _read_once(self) -> Program:
        with torch.no_grad():
            sites = run_guide(self._guide, self._tiled(), self.keys, self._particles, (0,))

        def guide(*_: Any) -> None:
            for name, site in sites.items():
                fn = site["fn"] if site["mask"] is None else site["fn"].mask(site["mask"])
                pyro.sample(name, fn, infer=site["infer"])

        return guide
