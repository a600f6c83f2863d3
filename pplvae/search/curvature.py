"""The Gauss-Newton curvature of -log p(v_i, h) in the latents, for any decoder and any likelihood.

The latents act on the rows through the parameters eta of the likelihood, each on the whole space (logits, log rates,
means). Of the second derivative the part that the decoder's own curvature makes is left out; what stays, J' W J with J
the Jacobian of eta and W minus the second derivative of the log-likelihood in eta, is not negative for exponential
families in their natural parameters.

References:
    Practical Gauss-Newton optimisation for deep learning (Botev, Ritter and Barber, 2017), arXiv 1706.03662, section 3.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, jvp, vmap

from pplvae.isolate import unwarned
from pplvae.programs.batch import Batch
from pplvae.programs.chunking import rows_at_once
from pplvae.programs.families import constrained, map_parameters, unconstrained
from pplvae.programs.reading import Layout, Program, run_model, run_prior
from pplvae.programs.shapes import Matrices
from pplvae.programs.sites import sum_sites
from pplvae.programs.transforms import Parameter
from pplvae.search.density import Part, log_det_at, values_at

Etas = tuple[Float[Tensor, "row _"], ...]  # each of its own width


class Curvature:
    """Minus the second derivative of log p(v_i, u), positive where the likelihood is well parametrised.

    Args:
        model: p(v, h; theta).
        layout: of the pair.
        parts: the latents, in the order in which they stand in a vector.
    """

    def __init__(self, model: Program, layout: Layout, parts: Sequence[Part]) -> None:
        self._model, self._layout, self._parts = model, layout, parts
        self._diagonal: bool | None = None

    def at(self, u: Float[Tensor, "row element"], batch: Batch) -> Matrices:
        """The curvature of each row, by pieces of rows.

        Raises:
            Exception: whatever a program raises that torch.func cannot follow.
        """
        pieces = torch.arange(len(u)).split(rows_at_once(batch.tensors, u.shape[1]))
        with torch.no_grad(), unwarned():
            return torch.cat([self._of_piece(u[piece], batch.take(piece)) for piece in pieces])

    def _of_piece(self, u: Tensor, batch: Batch) -> Matrices:
        # Made now: kept from inside a transform of torch.func, they could not be used outside of it.
        _ = batch.tiled, batch.index
        latents = torch.eye(u.shape[1], dtype=u.dtype, device=u.device).unsqueeze(1).expand(-1, *u.shape)
        prior = vmap(lambda along: jvp(grad(lambda u: self._log_prior(u, batch).sum()), (u,), (along,))[1])(latents)
        curvature = -prior.transpose(0, 1)
        etas, jacobian = self._jacobian(u, batch, latents)
        if etas:
            for lines, weighted in zip(jacobian, self._weighted(etas, jacobian, u, batch), strict=True):
                curvature = curvature - torch.matmul(lines.transpose(0, 1), weighted.transpose(0, 1).mT)
        return 0.5 * (curvature + curvature.mT)

    def _jacobian(self, u: Tensor, batch: Batch, latents: Tensor) -> tuple[Etas, Sequence[Tensor]]:
        """The parameters that change with the latents, and how: one line for each latent."""
        with torch.enable_grad():
            probe = u.detach().requires_grad_()
            slopes = [_slope(eta, probe) for eta in self._etas(probe, batch)]
        chosen = [slope is not None for slope in slopes]

        def moved(u: Tensor) -> Etas:
            return tuple(eta for eta, keep in zip(self._etas(u, batch), chosen, strict=True) if keep)

        self._chosen = chosen
        if not any(chosen):
            return (), ()
        return moved(u), vmap(lambda along: jvp(moved, (u,), (along,))[1])(latents)

    def _weighted(self, etas: Etas, jacobian: Sequence[Tensor], u: Tensor, batch: Batch) -> Sequence[Tensor]:
        """The second derivative of the log-likelihood in eta, times each line of the Jacobian."""

        def along(*directions: Tensor) -> Etas:
            slope = grad(lambda etas: self._log_likelihood(etas, u, batch).sum())
            return jvp(slope, (etas,), (directions,))[1]

        if self._diagonal is None:
            # Where no parameter meets another in a second derivative, one product with ones tells them all.
            signs = tuple(_signs(eta, k) for k, eta in enumerate(etas))
            ones = tuple(torch.ones_like(eta) for eta in etas)
            self._diagonal = all(
                torch.allclose(a, b * sign, rtol=1e-4, atol=1e-6, equal_nan=True)
                for a, b, sign in zip(along(*signs), along(*ones), signs, strict=True)
            )
        if self._diagonal:
            weights = along(*(torch.ones_like(eta) for eta in etas))
            return [lines * weight for lines, weight in zip(jacobian, weights, strict=True)]
        return vmap(along)(*jacobian)

    def _log_prior(self, u: Tensor, batch: Batch) -> Tensor:
        sites = run_prior(self._model, batch, values_at(self._parts, u))
        prior = sum_sites({name: site for name, site in sites.items() if not site["is_observed"]}, self._layout.model)
        return prior + log_det_at(self._parts, u)

    def _observed(self, u: Tensor, batch: Batch) -> dict[str, Any]:
        sites = run_model(self._model, batch, values_at(self._parts, u))
        return {name: site for name, site in sites.items() if site["is_observed"]}

    def _etas(self, u: Tensor, batch: Batch) -> list[Tensor]:
        """Every parameter of the likelihood, on the whole space, one line per row."""
        found: list[Tensor] = []

        def collect(parameter: Parameter) -> Tensor:
            rows_first = unconstrained(parameter).movedim(parameter.axis, 0)
            # A derivative forwards cannot start from an expanded tensor.
            found.append(rows_first.reshape(len(rows_first), -1).contiguous())
            return parameter.value

        for name, site in self._observed(u, batch).items():
            map_parameters(site["fn"], collect, self._layout.model[name])
        return found

    def _log_likelihood(self, etas: Etas, u: Tensor, batch: Batch) -> Tensor:
        """Log p(v_i | eta_i) with other parameters where they change with the latents."""
        given, chosen = iter(etas), iter(self._chosen)

        def replace(parameter: Parameter) -> Tensor:
            if not next(chosen):
                return parameter.value
            like = parameter.value.movedim(parameter.axis, 0)
            return constrained(parameter.constraint, next(given).reshape(like.shape).movedim(0, parameter.axis))

        sites, dims = self._observed(u, batch), self._layout.model
        moved = {name: map_parameters(site["fn"], replace, dims[name]) for name, site in sites.items()}
        return sum_sites(sites, dims, moved)


def _slope(eta: Tensor, u: Tensor) -> Tensor | None:
    """The gradient of a sum of parameters with respect to the latents; None where it does not depend on them."""
    if not eta.requires_grad:
        return None
    return torch.autograd.grad(eta.sum(), u, retain_graph=True, allow_unused=True)[0]


def _signs(like: Tensor, k: int) -> Tensor:
    """Plus and minus ones, in another order for each k, so that two parameters do not have the same ones throughout."""
    index = torch.arange(like.shape[1], device=like.device)
    minus = (index * (2 * k + 3) + k * k) % 5 < 2
    return torch.where(minus, -1.0, 1.0).to(like.dtype).expand_as(like)
