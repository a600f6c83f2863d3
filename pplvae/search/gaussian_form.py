"""How lambda of a pair is a Gaussian over its latents: from lambda to Gaussians and back."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributions as td

from pplvae.programs.batch import Batch
from pplvae.programs.families import unwrapped
from pplvae.programs.noise import RowNoise
from pplvae.programs.reading import Layout
from pplvae.programs.shapes import Lambda, Vectors
from pplvae.programs.sites import counted
from pplvae.programs.widening import widened
from pplvae.search.density import Part
from pplvae.search.gaussian import Factorised, FullCovariance, Gaussians, inverse_of, root_of


class GaussianForm:
    """How lambda of a pair is a Gaussian over its latents, side by side.

    Args:
        parts: the latents.
        full: whether their covariance is a matrix.
    """

    def __init__(self, parts: Sequence[Part], full: bool) -> None:
        self.parts, self._full = parts, full

    @classmethod
    def of(cls, sites: Mapping[str, Any], layout: Layout) -> "GaussianForm | None":
        """The form of a guide; None if lambda is no Gaussian that can be moved as a whole.

        Args:
            sites: of the guide.
            layout: of the pair.
        """
        odd = layout.held or layout.discrete or layout.summed or not layout.fixed
        latent = {name: site for name, site in sites.items() if name in layout.axes}
        kinds = {_kind(site, layout.guide[name]) for name, site in latent.items()}
        if odd or len(latent) < len(sites) or kinds not in ({"loc scale"}, {"loc scale_tril"}):
            return None
        full = kinds == {"loc scale_tril"}
        names = {f"{name}.{parameter}" for name in latent for parameter in next(iter(kinds)).split()}
        if set(layout.free) != names or (full and len(latent) > 1):
            return None
        shapes = {name: site["value"].movedim(layout.axes[name], 0).shape[1:] for name, site in latent.items()}
        return cls([Part(name, layout.axes[name], shapes[name]) for name in latent], full)

    def gaussians(self, lam: Lambda) -> Gaussians:
        """The Gaussians at lambda."""
        mean = self._joined(lam, "loc")
        if not self._full:
            return Factorised(mean, (-2 * self._joined(lam, "scale")).exp())
        root = td.transforms.LowerCholeskyTransform()(widened(lam[f"{self.parts[0].name}.scale_tril"]))
        return FullCovariance(mean, inverse_of(root))  # type: ignore[arg-type]

    def lam(self, gaussians: Gaussians, dtype: torch.dtype) -> Lambda:
        """Lambda of Gaussians, as a guide of this dtype has it."""
        found = self._split(gaussians.mean, "loc")
        if not self._full:
            found |= self._split(-0.5 * gaussians.precision.log(), "scale")
        else:
            root = root_of(inverse_of(root_of(gaussians.precision)))
            found[f"{self.parts[0].name}.scale_tril"] = td.transforms.LowerCholeskyTransform().inv(root)  # type: ignore[assignment]
        return {key: values.to(dtype) for key, values in found.items()}

    def noise(self, like: Gaussians, batch: Batch, draws: int, address: tuple[int, ...]) -> Vectors:
        """Standard normals, mirrored ones last: those that the guide would draw at this address, site by site."""
        noise = RowNoise(batch.keys, draws, address, "antithetic")
        blank = like.mean.new_zeros(())
        blanks = [blank.expand(draws * len(batch), part.shape.numel()) for part in self.parts]
        return torch.cat([noise.normals(blank) for blank in blanks], 1).unflatten(0, (draws, len(batch)))

    def _joined(self, lam: Lambda, parameter: str) -> Tensor:
        return torch.cat([widened(_flat(lam[f"{part.name}.{parameter}"])) for part in self.parts], 1)

    def _split(self, joined: Tensor, parameter: str) -> Lambda:
        pieces = joined.split([part.shape.numel() for part in self.parts], dim=1)
        return {
            f"{part.name}.{parameter}": piece.reshape(len(piece), *part.shape)
            for part, piece in zip(self.parts, pieces, strict=True)
        }


def _flat(values: Tensor) -> Tensor:
    return values.reshape(len(values), -1)


def _kind(site: Any, dim: int) -> str:
    """Names of the parameters of a site that is a plain Gaussian with one matrix, or none, for each row."""
    fn = unwrapped(site["fn"])
    if not bool(counted(site).all()):
        return "masked"
    if isinstance(fn, td.Normal):
        return "loc scale"
    rows_only = isinstance(fn, td.MultivariateNormal) and len(fn.batch_shape) == -dim == 1
    return "loc scale_tril" if rows_only else "other"
