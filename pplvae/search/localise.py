"""A guide of its own for every row: offsets added to lambda, the guide's answer, in unconstrained space.

At offset zero the local guide is the amortised guide, draw for draw. The family is the same by construction, and where
a site's lambda depends on a latent drawn earlier the offset form still holds: the row's offset is one for all draws,
and one for each state of a discrete latent that is summed over.
"""

from collections.abc import Mapping
from typing import Any

from pyro.poutine.messenger import Messenger
from torch import Tensor
from torch.distributions import constraints

from pplvae.programs.batch import tile
from pplvae.programs.families import constrained, map_parameters, map_point, unconstrained
from pplvae.programs.reading import Layout
from pplvae.programs.transforms import Parameter


class Localise(Messenger):
    """Add each row's offset to lambda wherever the guide states it.

    Args:
        offsets: by name (see `Layout.free`); rows first, in unconstrained space. A name that is missing is not moved.
        layout: of the pair.
        copies: how often the rows are tiled.
        stick_the_landing: whether `cut` is wanted.

    Attributes:
        cut: each site's distribution once more, without the gradient that passes through its own offsets. What passes
            through the latents before it, which the encoder may look at, stays.
    """

    def __init__(
        self, offsets: Mapping[str, Tensor], layout: Layout, copies: int, *, stick_the_landing: bool = False
    ) -> None:
        super().__init__()
        self._offsets = offsets
        self._layout = layout
        self._copies = copies
        self._stick_the_landing = stick_the_landing
        self.cut: dict[str, Any] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name not in self._layout.guide:
            return

        fn = msg["fn"]
        msg["fn"] = self._moved(name, fn)
        if self._stick_the_landing:
            self.cut[name] = self._moved(name, fn, cut=True)

    def _moved(self, name: str, fn: Any, *, cut: bool = False) -> Any:
        def move(parameter: Parameter) -> Tensor:
            return self._move(f"{name}.{parameter.name}", parameter, cut=cut)

        dim, points = self._layout.guide[name], self._layout.points
        return map_point(fn, move, dim, points[name]) if name in points else map_parameters(fn, move, dim)

    def _pyro_post_local(self, msg: Any) -> None:
        value, constraint = msg["value"], msg["args"][1]
        msg["value"] = self._move(msg["name"], Parameter(msg["name"], value, constraint, -value.ndim))

    def _pyro_post_context(self, msg: Any) -> None:
        value = msg["value"]
        msg["value"] = self._move(msg["name"], Parameter(msg["name"], value, constraints.real, -value.ndim))

    def _move(self, key: str, parameter: Parameter, *, cut: bool = False) -> Tensor:
        if key not in self._offsets:
            # It may follow from a lambda that `local` has named. To cut all of it leaves the gradient unbiased as well.
            return parameter.value.detach() if cut else parameter.value
        offset = self._spread(key).movedim(0, parameter.axis)
        return constrained(parameter.constraint, unconstrained(parameter) + (offset.detach() if cut else offset))

    def _spread(self, key: str) -> Tensor:
        """The offset of each tiled row: of its row, and of its state where lambda depends on states."""
        offset, follows = self._offsets[key], self._layout.follows.get(key, ())
        if not follows:
            return tile(offset, self._copies)
        sizes = [len(states.values) for states in self._layout.states.values()]
        states_first = offset.movedim([*range(1, 1 + len(follows))], [*range(len(follows))])
        for axis in range(len(sizes)):
            states_first = states_first if axis in follows else states_first.unsqueeze(axis)
        each = states_first.expand(*sizes, *states_first.shape[len(sizes) :]).flatten(0, len(sizes) - 1)
        draws = self._copies // len(each)
        return each.unsqueeze(1).expand(-1, draws, *each.shape[1:]).flatten(0, 2)
