"""A guide of its own for every row: offsets added to lambda, the guide's answer, in unconstrained space.

At offset zero the local guide is the amortised guide, draw for draw. The family is the same by construction, and where
a site's lambda depends on a latent drawn earlier the offset form still holds: the row's offset is one for all draws.
"""

from collections.abc import Mapping
from typing import Any

import pyro
import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from pyro.poutine.runtime import effectful
from torch import Tensor
from torch.distributions import constraints

from pplvae.families import Parameter, constrained, map_parameters, unconstrained
from pplvae.latents import LatentSpace
from pplvae.noise import Kind
from pplvae.rows import Batch, Layout, Program, log_weights_of, run_guide, tile

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
        if name in self._layout.guide and not msg["is_observed"]:
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
    """A batch of rows of one pair, each with a guide of its own.

    Where lambda does not depend on what the guide draws, the encoder runs once, when the batch is made.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the rows, at the number of draws of each evaluation.
    """

    def __init__(self, model: Program, guide: Program, layout: Layout, batch: Batch) -> None:
        self.batch = batch
        self._model = model
        self._guide = guide
        self._layout = layout
        if layout.fixed:
            self._guide = self._read_once()

    @property
    def elements(self) -> int:
        """How many latent numbers a row has."""
        sites = self._run(self._guide)
        return sum(site["value"].numel() for site in sites.values()) // (len(self.batch) * self.batch.particles)

    def zeros(self) -> Offsets:
        """Offsets at which every local guide is the amortised one."""
        found: Offsets = {}
        rows = len(self.batch)

        class Read(Localise):
            def _move(self, key: str, parameter: Parameter) -> Tensor:
                if key in self._layout.free:
                    found[key] = torch.zeros_like(unconstrained(parameter).movedim(parameter.axis, 0)[:rows])
                return parameter.value

        self._run(Read({}, self._layout, self.batch.particles)(self._guide))
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
        localised = Localise(offsets, self._layout, self.batch.particles)(self._guide)
        return log_weights_of(
            self._model, localised, self._layout, self.batch, address, kind, stick_the_landing=stick_the_landing
        )

    def space(self, offsets: Offsets) -> LatentSpace:
        """The latents as vectors, under the guides at these offsets."""
        localised = Localise(offsets, self._layout, self.batch.particles)(self._guide)
        return LatentSpace(self._model, localised, self._layout, self.batch)

    def _run(self, guide: Program) -> dict[str, Any]:
        with torch.no_grad():
            return run_guide(guide, self.batch, self._layout.guide, (0,))

    def _read_once(self) -> Program:
        sites = self._run(self._guide)

        def guide(*_: Any) -> None:
            for name, site in sites.items():
                fn = site["fn"] if site["mask"] is None else site["fn"].mask(site["mask"])
                pyro.sample(name, fn, infer=site["infer"])

        return guide
