"""The latents of rows as vectors under Gaussians that have the posterior's own shape: where annealing starts.

A factorised guide is narrower than the posterior wherever latents are correlated, and chains that start there begin
with weights of a heavy tail. The search knows the mean curvature, and with it a Gaussian that is not. Chains do not
cross from one mode to another, so they start at all of them: from a mixture.
"""

import math
from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from pplvae.programs.batch import Batch
from pplvae.programs.noise import RowNoise
from pplvae.programs.reading import Layout, Program, log_model, run_guide
from pplvae.programs.shapes import PerDraw, Vectors
from pplvae.programs.sites import values_of
from pplvae.search.density import Part, log_det_at, values_at, vectors_of
from pplvae.search.gaussian import Gaussians, root_of


def most_starts(particles: int) -> int:
    """In how many modes so many draws can begin: two in each, but for a single one."""
    return max(1, particles // 2)


class GaussianSpace:
    """What annealing asks of a space, as `LatentSpace` has it for guides of any family.

    Args:
        model: p(v, h; theta).
        layout: of the pair.
        parts: the latents, in the order in which they stand in a vector.
        modes: Gaussians of every row, whose mixture is the base. As many draws begin at each, but for one, and two at
            least: where there are fewer draws, the first modes have them.
        batch: the rows, at the number of draws that every call here will have.
        dtype: of the latents in the model.
    """

    def __init__(
        self,
        model: Program,
        layout: Layout,
        parts: Sequence[Part],
        modes: Sequence[Gaussians],
        batch: Batch,
        dtype: torch.dtype,
    ) -> None:
        self._model, self._layout, self._parts, self._batch = model, layout, parts, batch
        modes = modes[: most_starts(batch.particles)]
        self._means = torch.stack([mode.mean.to(dtype) for mode in modes])
        roots = torch.stack([root_of(mode.precision_matrices()) for mode in modes])
        self._roots = roots.to(dtype)
        self._counts = [len(range(k, batch.particles, len(modes))) for k in range(len(modes))]
        shares = torch.tensor([count / batch.particles for count in self._counts]).to(roots)
        volumes = roots.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        self._constants = (volumes + shares.log().unsqueeze(1)).to(dtype)

    def draw(self, address: tuple[int, ...]) -> tuple[Vectors, PerDraw]:
        """Draws of the mixture, with their log-density; those of a mode stand together."""
        count, (_, rows, elements) = self._batch.particles, self._means.shape
        blank = self._means.new_zeros(()).expand(count * rows, elements)
        noise = RowNoise(self._batch.keys, count, address).normals(blank).unflatten(0, (count, rows))
        drawn = [
            mean + torch.linalg.solve_triangular(root.mT, some.permute(1, 2, 0), upper=True).permute(2, 0, 1)
            for mean, root, some in zip(self._means, self._roots, noise.split(self._counts), strict=True)
        ]
        u = torch.cat(drawn)
        return u, self.log_guide(u)

    def values(self, u: Vectors) -> dict[str, Float[Tensor, "particle row _"]]:
        """The latents by site, the elements of each in one axis."""
        values = values_at(self._parts, u.flatten(0, 1))
        rows_first = {part.name: values[part.name].movedim(part.axis, 0) for part in self._parts}
        return {name: value.reshape(*u.shape[:2], -1) for name, value in rows_first.items()}

    def scale(self, u: Vectors) -> Float[Tensor, "row element"]:
        """Standard deviations within a mode, the mean over modes."""
        return torch.cholesky_inverse(self._roots).diagonal(dim1=-2, dim2=-1).sqrt().mean(0)

    def draw_prior(self, address: tuple[int, ...]) -> Vectors:
        """Draws of the latents from the model itself."""
        return self.vectors(values_of(run_guide(self._model, self._batch, self._layout.model, address)))

    def log_guide(self, u: Vectors) -> PerDraw:
        """Log-density of the mixture."""
        standard = torch.einsum("mrkl,msrk->msrl", self._roots, u - self._means.unsqueeze(1))
        each = self._constants.unsqueeze(1) - 0.5 * (standard.square() + math.log(2 * math.pi)).sum(-1)
        return each.logsumexp(0)

    def log_joint(self, u: Vectors) -> PerDraw:
        """Log p(v, u) of the model."""
        return self._both(u)[0]

    def log_prior_and_likelihood(self, u: Vectors) -> tuple[PerDraw, PerDraw]:
        """Log p(u) and log p(v | u)."""
        joint, prior = self._both(u)
        return prior, joint - prior

    def vectors(self, values: Mapping[str, Tensor]) -> Vectors:
        """Latents by site as vectors."""
        return vectors_of(self._parts, values).unflatten(0, (self._batch.particles, len(self._batch)))

    def _both(self, u: Vectors) -> tuple[PerDraw, PerDraw]:
        tiled = u.flatten(0, 1)
        joint, prior = log_model(self._model, self._batch, values_at(self._parts, tiled), self._layout)
        log_det = log_det_at(self._parts, tiled)
        return (joint + log_det).reshape(u.shape[:2]), (prior + log_det).reshape(u.shape[:2])
