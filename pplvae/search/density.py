"""Log p(v_i, h) of every row, and its slope, for latents given as vectors of real numbers."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.capture import Replayed
from pplvae.programs.chunking import rows_at_once
from pplvae.programs.reading import Layout, Program, log_model, run_guide, run_prior
from pplvae.programs.shapes import PerDraw, Vectors
from pplvae.programs.sites import sum_sites, values_of
from pplvae.programs.widening import widened

_MOST_AT_ONCE = 4096  # tiled rows: more are no faster, and pieces that are alike can be captured


@dataclass(frozen=True)
class Part:
    """One latent site as a piece of a row's vector.

    Attributes:
        name: of the site.
        axis: of the rows in its value.
        shape: of a row's piece.
        transform: from the whole space to the site's support, if that is another one.
    """

    name: str
    axis: int
    shape: torch.Size
    transform: Any = None

    def value(self, piece: Float[Tensor, "batch element"]) -> Tensor:
        """The site's value for tiled rows."""
        free = self._shaped(piece)
        return free if self.transform is None else self.transform(free)

    def piece(self, value: Tensor) -> Float[Tensor, "batch element"]:
        """The inverse of `value`."""
        free = value if self.transform is None else self.transform.inv(value)
        free = free.movedim(self.axis, 0)
        return free.reshape(len(free), -1)

    def log_det(self, piece: Float[Tensor, "batch element"]) -> Float[Tensor, " batch"]:
        """By how much the log-density of the piece is above that of the site's value."""
        free = self._shaped(piece)
        found = self.transform.log_abs_det_jacobian(free, self.transform(free)).movedim(self.axis, 0)
        return found.reshape(len(found), -1).sum(1)

    def _shaped(self, piece: Float[Tensor, "batch element"]) -> Tensor:
        return piece.reshape(-1, *self.shape).movedim(0, self.axis)


def values_at(parts: Sequence[Part], u: Float[Tensor, "batch element"]) -> dict[str, Tensor]:
    """Latents by site, for tiled rows."""
    return {part.name: part.value(piece) for part, piece in _pieces(parts, u)}


def log_det_at(parts: Sequence[Part], u: Float[Tensor, "batch element"]) -> Float[Tensor, " batch"]:
    """By how much the log-density of vectors is above that of the latents that they stand for."""
    found = [part.log_det(piece) for part, piece in _pieces(parts, u) if part.transform is not None]
    return torch.stack(found).sum(0) if found else u.new_zeros(len(u))


def vectors_of(parts: Sequence[Part], values: Mapping[str, Tensor]) -> Float[Tensor, "batch element"]:
    """The inverse of `values_at`."""
    return torch.cat([part.piece(values[part.name]) for part in parts], 1)


def _pieces(parts: Sequence[Part], u: Float[Tensor, "batch element"]) -> Iterator[tuple[Part, Tensor]]:
    return zip(parts, u.split([part.shape.numel() for part in parts], dim=1), strict=True)


class Density:
    """Log p(v_i, u) of a model as a function of the latents.

    Rows go through the model some at a time. Values and slopes are asked for again and again on the same shapes, so
    both are captured: the graphs have nothing of the Python of the program, nor what is the same in every call.

    Args:
        model: p(v, h; theta).
        layout: of the pair.
        parts: the latents, in the order in which they stand in a vector.
        dtype: of the latents in the model.

    Attributes:
        parts: see above.
        dtype: see above.
    """

    def __init__(self, model: Program, layout: Layout, parts: Sequence[Part], dtype: torch.dtype) -> None:
        self._model, self._layout, self.parts, self.dtype = model, layout, parts, dtype
        self._is_bent = any(part.transform is not None for part in parts)
        self._value, self._slope = Replayed(self._value_of), Replayed(self._slope_of)

    def value(self, u: Vectors, batch: Batch) -> PerDraw:
        """Log p(v_i, u_si) in nats, in the widest floats; the model runs in its own."""
        return self._in_pieces(self._value, u, batch).squeeze(-1)

    def prior(self, u: Vectors, batch: Batch) -> PerDraw:
        """Log p(u_si) in nats, in the widest floats."""
        return self._in_pieces(self._prior_of, u, batch).squeeze(-1)

    def draw_prior(self, batch: Batch, count: int, address: tuple[int, ...]) -> Vectors:
        """Draws of the latents from the model itself; the address names the noise."""
        found = []
        for rows in torch.arange(len(batch)).split(rows_at_once(batch.tensors, count)):
            here = batch.take(rows).times(count)
            with torch.no_grad():
                values = values_of(run_guide(self._model, here, self._layout.model, address))
            found.append(vectors_of(self.parts, values).unflatten(0, (count, len(rows))))
        return widened(torch.cat(found, 1))

    def slope(self, u: Vectors, batch: Batch) -> Vectors:
        """The gradient of log p(v_i, u_si) with respect to u, in nats per unit, in the widest floats."""
        return self._in_pieces(self._slope, u, batch)

    def _in_pieces(
        self, function: Callable[..., Sequence[Tensor]], u: Vectors, batch: Batch
    ) -> Float[Tensor, "particle row number"]:
        """A function of tiled rows and their latents, some rows at a time."""
        found, most = [], _draws_of_a_piece(u, batch)
        for rows in torch.arange(len(batch)).split(_rows_of_a_piece(u, batch)):
            order, some = rows.repeat(len(u)), u[:, rows].flatten(0, 1).to(self.dtype)
            # Filled up with the first again, pieces have the shape of those that were captured, whatever the draws.
            missing = most - len(order) if most // 2 < len(order) < most else 0
            order, some = (torch.cat([t, t[:1].expand(missing, *t.shape[1:])]) for t in (order, some))
            here = batch.take(order)
            (values,) = function(some, here.positions, *here.tensors)
            found.append(values[: len(values) - missing].reshape(len(u), len(rows), -1))
        return widened(torch.cat(found, 1))

    def _log_joint(self, u: Tensor, batch: Batch) -> Tensor:
        joint = log_model(self._model, batch, values_at(self.parts, u), self._layout)[0]
        return joint + log_det_at(self.parts, u) if self._is_bent else joint

    def _value_of(self, u: Tensor, positions: Tensor, *tensors: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            return [self._log_joint(u, Batch.without_keys(tensors, positions))]

    def _prior_of(self, u: Tensor, positions: Tensor, *tensors: Tensor) -> Sequence[Tensor]:
        with torch.no_grad():
            sites = run_prior(self._model, Batch.without_keys(tensors, positions), values_at(self.parts, u))
            latent = {name: site for name, site in sites.items() if not site["is_observed"]}
            return [sum_sites(latent, self._layout.model) + log_det_at(self.parts, u)]

    def _slope_of(self, u: Tensor, positions: Tensor, *tensors: Tensor) -> Sequence[Tensor]:
        batch = Batch.without_keys(tensors, positions)
        with torch.enable_grad():
            u = u.detach().requires_grad_()
            return torch.autograd.grad(self._log_joint(u, batch).sum(), u)


def _rows_of_a_piece(u: Vectors, batch: Batch) -> int:
    """Rows that go through the model at once, with all of their draws."""
    return max(1, _draws_of_a_piece(u, batch) // len(u))


def _draws_of_a_piece(u: Vectors, batch: Batch) -> int:
    """How many tiled rows go through the model at once."""
    most = _MOST_AT_ONCE if u.device.type == "cpu" else len(batch) * len(u)
    return min(rows_at_once(batch.tensors, 1), most)
