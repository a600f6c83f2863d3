"""Richer families for one row: maps of the row's own guide, which they contain.

A family bends the standardised draws x of the row's own guide (mean 0, variance 1) into y. At its start it bends
nothing, so that its optimum cannot lie below that of the guide it starts from; every row has parameters of its own.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.latents import LatentSpace
from pplvae.programs.noise import Kind, RowNoise
from pplvae.programs.shapes import PerDraw, Vectors

Parameters = Mapping[str, Float[Tensor, "row ..."]]
Map = Callable[[Parameters, Vectors], tuple[Vectors, PerDraw]]


class Base:
    """The own guides of some rows in standardised coordinates, and what they aim at.

    Args:
        space: the latents under the rows' own guides.
        batch: the rows, at the number of draws of `space`.
        loc: mean of u under each row's guide.
        scale: standard deviation.
    """

    def __init__(
        self, space: LatentSpace, batch: Batch, loc: Float[Tensor, "row element"], scale: Float[Tensor, "row element"]
    ) -> None:
        self._space, self._batch, self._loc, self._scale = space, batch, loc, scale
        # What the program masks is given a standard normal on both sides, which adds nothing.
        self._used = space.used
        self._log_volume = torch.where(self._used, scale, torch.ones_like(scale)).log().sum(-1)

    def draw(self, address: tuple[int, ...], kind: Kind) -> tuple[Vectors, PerDraw]:
        """Standardised draws of the rows' own guides, and their log-density."""
        u, log_q = self._space.draw(address, kind)
        x = (u - self._loc) / self._scale
        if not bool(self._used.all()):
            noise = RowNoise(self._batch.keys, self._batch.particles, (*address, 0), kind)
            x = torch.where(self._used, x, noise.normals(x.flatten(0, 1)).reshape(x.shape))
        return x, log_q + self._log_volume + self._idle(x)

    def log_density(self, x: Vectors) -> PerDraw:
        """Log-density of the rows' own guides at any point."""
        return self._space.log_guide(self._loc + self._scale * x) + self._log_volume + self._idle(x)

    def log_target(self, y: Vectors) -> PerDraw:
        """Log p(v, h) in these coordinates."""
        return self._space.log_joint(self._loc + self._scale * y) + self._log_volume + self._idle(y)

    def _idle(self, x: Vectors) -> PerDraw:
        return torch.where(self._used, 0.0, -0.5 * (x.square() + math.log(2 * math.pi))).sum(-1)


class Branch(NamedTuple):
    """Draws of one component of a family.

    Attributes:
        weight: probability of the component.
        y: its draws.
        log_q: log-density of the whole family at them.
    """

    weight: Float[Tensor, " row"]
    y: Vectors
    log_q: PerDraw


@runtime_checkable
class RicherFamily(Protocol):
    """What `compare(families=...)` needs of a family."""

    @property
    def name(self) -> str:
        """Ends the names of its columns."""
        ...

    def start(self, elements: int) -> dict[str, Tensor]:
        """Parameters of one row, of any shapes, at which the family is the row's own guide."""
        ...

    def branches(
        self, lam: Parameters, base: Base, address: tuple[int, ...], kind: Kind, *, stick_the_landing: bool
    ) -> list[Branch]:
        """Draws with gradients with respect to `lam`; see `rows.log_guide` for `stick_the_landing`."""
        ...


@dataclass(frozen=True)
class Transport:
    """A family given by an invertible map y = T(x; lam) of the row's own guide.

    Args:
        name: ends the names of its columns.
        start: from the number of latent elements to the parameters of one row at which T is the identity.
        forward: `(lam, x) -> (y, log |det dy/dx|)`, with shapes (particle, row, element) and (particle, row); the
            parameters have the row as their first axis. Rows must not meet.
        inverse: `(lam, y) -> (x, log |det dx/dy|)`; where it is given, gradients stick the landing, which makes them
            quiet near the optimum.
        options: what the map was made with, in words; results keep it.

    >>> def shift(lam, x):
    ...     return x + lam["shift"], x.new_zeros(x.shape[:2])
    >>> Transport("shifted", start=lambda elements: {"shift": torch.zeros(elements)}, forward=shift).name
    'shifted'
    """

    name: str
    start: Callable[[int], dict[str, Tensor]]
    forward: Map
    inverse: Map | None = None
    options: str = ""

    def __str__(self) -> str:
        return f"{self.name}({self.options})"

    def branches(
        self, lam: Parameters, base: Base, address: tuple[int, ...], kind: Kind, *, stick_the_landing: bool
    ) -> list[Branch]:
        """See `RicherFamily`."""
        x, log_x = base.draw(address, kind)
        y, log_det = self.forward(lam, x)
        log_q = log_x - log_det
        if stick_the_landing and self.inverse is not None:
            back, log_det_back = self.inverse({key: value.detach() for key, value in lam.items()}, y)
            log_q = base.log_density(back) + log_det_back
        return [Branch(torch.ones_like(log_q[0]), y, log_q)]


@dataclass(frozen=True)
class Mixture:
    """A mixture of shifted and stretched copies of the row's own guide.

    The ELBO sums over components exactly and draws within each.

    Attributes:
        components: how many.
        name: ends the names of its columns.
    """

    components: int = 3
    name: str = field(default="mixture")

    def start(self, elements: int) -> dict[str, Tensor]:
        """Equal components; their draws differ, which tells them apart."""
        shape = (self.components, elements)
        return {"logits": torch.zeros(self.components), "shift": torch.zeros(shape), "log_scale": torch.zeros(shape)}

    def branches(
        self, lam: Parameters, base: Base, address: tuple[int, ...], kind: Kind, *, stick_the_landing: bool
    ) -> list[Branch]:
        """See `RicherFamily`."""
        log_weights = lam["logits"].log_softmax(-1)
        inner = {key: value.detach() for key, value in lam.items()} if stick_the_landing else lam
        found = []
        for k in range(self.components):
            x, _ = base.draw((*address, k), kind)
            y = lam["shift"][:, k] + lam["log_scale"][:, k].exp() * x
            found.append(Branch(log_weights[:, k].exp(), y, self._log_density(inner, base, y)))
        return found

    def _log_density(self, lam: Parameters, base: Base, y: Vectors) -> PerDraw:
        terms = []
        for k in range(self.components):
            log_scale = lam["log_scale"][:, k]
            x = (y - lam["shift"][:, k]) * (-log_scale).exp()
            terms.append(lam["logits"].log_softmax(-1)[:, k] + base.log_density(x) - log_scale.sum(-1))
        return torch.stack(terms).logsumexp(0)


def full_covariance() -> Transport:
    """Every affine map: for a Gaussian guide, all Gaussians."""
    return Transport("full_covariance", _affine_start, _affine, _affine_inverse)


def flow(layers: int = 4, width: int = 16) -> Transport:
    """An affine map after affine couplings after a map of each element for skew and tails; per row, not per batch.

    Args:
        layers: couplings; each changes one half of the elements given the other.
        width: hidden units of each coupling's network, which every row has to itself.

    References:
        Density estimation using Real NVP (Dinh et al., 2017), arXiv 1605.08803;
        Sinh-arcsinh distributions (Jones and Pewsey, 2009).
    """

    def start(elements: int) -> dict[str, Tensor]:
        lam = {"skew": torch.zeros(elements), "log_tail": torch.zeros(elements)} | _affine_start(elements)
        generator = torch.Generator().manual_seed(0)
        for k in range(layers if elements > 1 else 0):
            given, changed = (len(range(side, elements, 2)) for side in (k % 2, 1 - k % 2))
            inner = torch.randn(width, given, generator=generator) / math.sqrt(given)
            lam |= {f"inner_{k}": inner, f"bias_{k}": torch.zeros(width)}
            lam |= {f"outer_{k}": torch.zeros(2 * changed, width), f"outer_bias_{k}": torch.zeros(2 * changed)}
        return lam

    def forward(lam: Parameters, x: Vectors) -> tuple[Vectors, PerDraw]:
        y, log_det = _sinh_arcsinh(lam, x)
        for k in range(layers if x.shape[-1] > 1 else 0):
            shift, log_scale = _conditioner(lam, y[..., k % 2 :: 2], k)
            changed = shift + log_scale.exp() * y[..., 1 - k % 2 :: 2]
            y, log_det = _interleave(y, changed, 1 - k % 2), log_det + log_scale.sum(-1)
        y, affine = _affine(lam, y)
        return y, log_det + affine

    def inverse(lam: Parameters, y: Vectors) -> tuple[Vectors, PerDraw]:
        x, log_det = _affine_inverse(lam, y)
        for k in reversed(range(layers if y.shape[-1] > 1 else 0)):
            shift, log_scale = _conditioner(lam, x[..., k % 2 :: 2], k)
            changed = (x[..., 1 - k % 2 :: 2] - shift) * (-log_scale).exp()
            x, log_det = _interleave(x, changed, 1 - k % 2), log_det - log_scale.sum(-1)
        x, bend = _sinh_arcsinh_inverse(lam, x)
        return x, log_det + bend

    return Transport("flow", start, forward, inverse, options=f"layers={layers}, width={width}")


def _affine_start(elements: int) -> dict[str, Tensor]:
    lower = torch.zeros(elements * (elements - 1) // 2)
    return {"shift": torch.zeros(elements), "log_diagonal": torch.zeros(elements), "lower": lower}


def _root(lam: Parameters) -> Float[Tensor, "row element element"]:
    elements = lam["shift"].shape[-1]
    rows, columns = torch.tril_indices(elements, elements, -1, device=lam["lower"].device)
    root = torch.diag_embed(lam["log_diagonal"].exp())
    return root.index_put((torch.arange(len(root), device=root.device)[:, None], rows, columns), lam["lower"])


def _affine(lam: Parameters, x: Vectors) -> tuple[Vectors, PerDraw]:
    y = lam["shift"] + torch.einsum("nij,snj->sni", _root(lam), x)
    return y, lam["log_diagonal"].sum(-1).expand(x.shape[:2])


def _affine_inverse(lam: Parameters, y: Vectors) -> tuple[Vectors, PerDraw]:
    centred = (y - lam["shift"]).permute(1, 2, 0)
    x = torch.linalg.solve_triangular(_root(lam), centred, upper=False).permute(2, 0, 1)
    return x, -lam["log_diagonal"].sum(-1).expand(y.shape[:2])


def _sinh_arcsinh(lam: Parameters, x: Vectors) -> tuple[Vectors, PerDraw]:
    inner = lam["log_tail"].exp() * x.asinh() + lam["skew"]
    # d/dx sinh(t asinh(x) + e) = t cosh(.) / sqrt(1 + x^2)
    slope = lam["log_tail"] + inner.cosh().log() - 0.5 * x.square().log1p()
    return inner.sinh(), slope.sum(-1)


def _sinh_arcsinh_inverse(lam: Parameters, y: Vectors) -> tuple[Vectors, PerDraw]:
    inner = (y.asinh() - lam["skew"]) * (-lam["log_tail"]).exp()
    slope = -lam["log_tail"] + inner.cosh().log() - 0.5 * y.square().log1p()
    return inner.sinh(), slope.sum(-1)


def _conditioner(lam: Parameters, given: Tensor, k: int) -> tuple[Tensor, Tensor]:
    hidden = torch.tanh(torch.einsum("nij,snj->sni", lam[f"inner_{k}"], given) + lam[f"bias_{k}"])
    out = torch.einsum("nij,snj->sni", lam[f"outer_{k}"], hidden) + lam[f"outer_bias_{k}"]
    shift, raw = out.chunk(2, -1)
    return shift, 2 * torch.tanh(raw / 2)  # within a factor of e^2, so that no step can blow up


def _interleave(y: Vectors, changed: Tensor, side: int) -> Vectors:
    """`y` with every second element replaced."""
    y = y.clone()
    y[..., side::2] = changed
    return y
