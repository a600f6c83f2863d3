"""The ELBO of one row over two of its means: where the encoder stands, where the optimum, and how steep it is between.

References:
    Iterative amortized inference (Marino, Yue and Mandt, 2018), arXiv 1807.09356, figure 1.
"""

import math
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float
from torch import Tensor

from pplvae.errors import DataError, ProgramError
from pplvae.isolate import validation
from pplvae.programs.batch import Batch
from pplvae.programs.elements import element_names
from pplvae.programs.failures import in_users_words
from pplvae.programs.noise import Stream
from pplvae.programs.opening import one_set, opened
from pplvae.programs.reading import Layout, Program, run_guide
from pplvae.programs.sites import values_of
from pplvae.programs.widening import widened
from pplvae.search.density import Density, vectors_of
from pplvae.search.gaussian import Gaussians
from pplvae.search.nodes import nodes_of
from pplvae.search.optimum import Schedule, Status
from pplvae.search.own_guides import OwnGuides

_GUIDES = ("amortised", "local")  # as in `Comparison.parameters`
_BEGINNINGS = ("prior", "encoder")
_PLACES_AT_ONCE = 256
_RATE = 0.25  # of a step, over the steepest curvature: small enough for a smooth path
_NOTHING = 1e-6  # nats
_HALVINGS = 30  # of a step that does not rise
_MARGIN = 0.05  # of the grid, on each side
_REACH = 3.0  # standard deviations of the posterior, and of both guides, that are on the grid

Places = Float[Tensor, "place element"]
One = Float[Tensor, "1 element"]


def elbo_landscape(
    model: Program,
    guide: Program,
    row: Any,
    *,
    latents: tuple[int, int] | None = None,
    begin: str = "prior",
    points: int = 41,
    steps: int = 200,
    particles: int = 200,
    tolerance: float = 0.01,
    max_steps: int = 3000,
    seed: int = 0,
) -> xr.Dataset:
    """One row's ELBO over the means of two latents, at the scales of its own optimum, and the ways to that optimum.

    With more than two latents the surface is a plane through the optimum, and everything else is seen from above it.
    All is measured with the same draws. `plots.optimisation_path` and `plots.posterior_contours` draw it.

    Args:
        model: p(v, h; theta), a Pyro program called as `model(*rows)`. It needs a data plate: the README says what a
            pair needs.
        guide: q(h; lambda_phi(v)), a Pyro program called as `guide(*rows)`.
        row: one row, in any form that rows may have: `v[3:4]`, `data.test[[3]]`.
        latents: positions of two latents among all of a row. By default those of a pair with two; of more, the two
            directions in which the row's posterior is widest, seen from the optimum.
        begin: where gradient ascent begins: "prior", at its mean, or "encoder".
        points: of the grid, on each side.
        steps: of gradient ascent over all means, at most. Their length is a quarter of one over the steepest curvature
            at the optimum, halved where the ELBO would fall; they end where one wins less than 1e-6 nats.
        particles: Monte Carlo draws per row. An even number, the same at every point; from 1024 on, a row of two
            latents is integrated on a grid.
        tolerance: nats per row; a row has converged if the upper 95 % end of its `shortfall` is below that.
        max_steps: steps of the search for each row's own guide, at most.
        seed: names all noise: the same seed gives the same bits.

    Returns:
        A dataset. Over "first" and "second", the coordinates of a mean: `elbo` in nats, and for a pair of two latents
        `log_joint`, log p(v, h) at these h. Over "guide" ("amortised", the encoder's, and "local", the row's own) and
        "axis": `mean`, `covariance`; `guide_elbo`, each with its own scales. Over "step": `path`, the mean after each
        step, and `path_elbo`. `direction` of each axis in the latents, over "latent". The attributes are the settings,
        the row's id, and `status` of its search.

    Raises:
        DataError: no row, several, or one whose ELBO is not finite.
        ProgramError: a pair that cannot be compared row by row, fewer than two latents, or a guide that is no Gaussian.
        ValueError: numbers out of range.
    """
    _check(begin, points, steps, particles)
    some = one_set(row, "row")
    if len(some) != 1:
        raise DataError(f"`row` must be one row, got {len(some)}. Choose it with its axis kept: `rows[3:4]`.")
    schedule = Schedule(tolerance=tolerance, max_steps=max_steps)
    with opened(model, guide, some.tensors, seed) as layout, validation(False):
        with in_users_words("pair of model and guide", some.tensors):
            pair = _OneRow(model, guide, layout, Batch.of(some.tensors), schedule, particles, seed)
        axes = _Axes(pair, latents)
        began = pair.prior_mean() if begin == "prior" else pair.encoder.mean
        path, path_elbo = pair.ascent(began, steps)
        found = _dataset(pair, axes, path, path_elbo, points)
    asked = {"begin": begin, "points": points, "steps": steps, "particles": particles, "seed": seed}
    return found.assign_attrs(asked | schedule.settings() | {"row": some.ids[0], "status": pair.status.name.lower()})


class _OneRow:
    """One row of a pair whose guide is a Gaussian, with its own guide.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        batch: the row.
        schedule: of the search.
        particles: draws of an ELBO.
        seed: names the noise.
    """

    def __init__(
        self,
        model: Program,
        guide: Program,
        layout: Layout,
        batch: Batch,
        schedule: Schedule,
        particles: int,
        seed: int,
    ) -> None:
        own = OwnGuides(model, guide, layout, schedule, seed)
        guides = own.guides(batch, slice(None), 1)
        form = guides.gaussian_form()
        if form is None:
            raise ProgramError(
                "A landscape is drawn over the means of a Gaussian: lambda of this guide is not that of one Gaussian "
                "over the latents of a row. Compare it by `compare`, which takes any family."
            )
        lam = guides.lam()
        optimum = own(batch, own.encoded(batch))
        self.form, self.encoder = form, form.gaussians(lam)
        self.own = form.gaussians({key: lam[key] + optimum.offsets[key] for key in lam})
        self.status = optimum.status[0]
        if self.status is Status.NONFINITE or not bool(self.encoder.is_proper()):
            raise DataError(f"The row has no landscape: {Status.NONFINITE.value}")
        self._model, self._layout, self._batch, self._seed = model, layout, batch, seed
        self.density = Density(model, layout, form.parts, next(iter(lam.values())).dtype)
        self._nodes = nodes_of(self.own, batch, particles, (seed, Stream.SCORE), "matched")
        self.curvature = optimum.curvature if optimum.curvature is not None else self._curvature()

    @property
    def elements(self) -> int:
        """Latents of the row."""
        return self.own.mean.shape[1]

    def names(self) -> list[str]:
        """Of the latents."""
        blank = self.own.mean.new_zeros
        parts = [(part, part.value(blank(1, part.shape.numel()))) for part in self.form.parts]
        return [name for part, value in parts for name in element_names(part.name, value, part.axis)]

    def elbo(self, means: Places, guide: Gaussians | None = None) -> Float[Tensor, " place"]:
        """The ELBO of Gaussians with these means and the scales of a guide, by default the row's own."""
        guide = guide or self.own
        entropy = guide.log_volume() + self.elements / 2 * math.log(2 * math.pi * math.e)
        found = []
        for some in means.split(_PLACES_AT_ONCE):
            drawn = some + guide.deviations(self._nodes.noise)
            found.append(self._nodes.mean(self.density.value(drawn, self._here(len(some)))))
        return torch.cat(found) + entropy

    def ascent(self, mean: One, steps: int) -> tuple[Float[Tensor, "step element"], Float[Tensor, " step"]]:
        """Means on the way up, the first one included, and their ELBOs."""
        rate = _RATE / torch.linalg.eigvalsh(self.curvature[0])[-1].clamp_min(torch.finfo(mean.dtype).tiny)
        path, elbo = [mean], [self.elbo(mean)]
        for _ in range(steps):
            slope = self._slope(path[-1])
            for _ in range(_HALVINGS):
                ahead = path[-1] + rate * slope
                reached = self.elbo(ahead)
                if bool(reached >= elbo[-1]):
                    break
                rate = rate / 2
            else:
                break  # the top, as far as numbers can say
            path.append(ahead)
            elbo.append(reached)
            if bool(elbo[-1] - elbo[-2] < _NOTHING):
                break
        return torch.cat(path), torch.cat(elbo)

    def log_joint(self, h: Places) -> Float[Tensor, " place"]:
        """Log p(v, h) of the row."""
        return self.density.value(h.unsqueeze(0), self._here(len(h)))[0]

    def prior_mean(self) -> One:
        """The mean of the model's own draws; they are matched, so that it is exact where the prior is Gaussian."""
        count = max(1000, 6 * self.elements)
        with torch.no_grad():
            sites = run_guide(
                self._model, self._batch.times(count), self._layout.model, (self._seed, Stream.SIMULATE), "matched"
            )
        return widened(vectors_of(self.form.parts, values_of(sites))).mean(0, keepdim=True)

    def _slope(self, mean: One) -> One:
        drawn = mean + self.own.deviations(self._nodes.noise)
        return self._nodes.weighted(self.density.slope(drawn, self._batch)).mean(0)

    def _curvature(self) -> Tensor:
        noise = self._nodes.noise
        slope = self.density.slope(self.own.mean + self.own.deviations(noise), self._batch)
        return -self.own.curvature(noise, self._nodes.weighted(slope))

    def _here(self, places: int) -> Batch:
        return self._batch.take(torch.zeros(places, dtype=torch.long))


class _Axes:
    """Two directions in the latents of a row, at right angles.

    Args:
        row: whose.
        latents: positions of two latents; None chooses.
    """

    def __init__(self, row: _OneRow, latents: tuple[int, int] | None) -> None:
        elements, names = row.elements, row.names()
        if elements < 2:
            raise ProgramError(f"A landscape is drawn over two latents; a row of this pair has {elements}.")
        if latents is None and elements == 2:
            latents = (0, 1)
        if latents is None:
            # The widest directions of the posterior are those of the smallest curvature.
            _, vectors = torch.linalg.eigh(row.curvature[0])
            directions = vectors[:, :2].T
            signs = directions.gather(1, directions.abs().argmax(1, keepdim=True)).sign()
            self.directions, self.origin = signs * directions, row.own.mean
            self.names = ["widest direction of the posterior", "second widest direction"]
        else:
            if len(set(latents)) != 2 or not all(0 <= latent < elements for latent in latents):
                raise ValueError(f"`latents` must be two different positions from 0 to {elements - 1}, got {latents}.")
            self.directions = torch.eye(elements, dtype=row.own.mean.dtype)[list(latents)].to(row.own.mean)
            self.origin = torch.zeros_like(row.own.mean)
            self.names = [names[latent] for latent in latents]

    def of(self, places: Places) -> np.ndarray:
        """Coordinates of places."""
        return ((places - self.origin) @ self.directions.T).cpu().numpy()

    def spread(self, matrices: Tensor) -> np.ndarray:
        """The covariance in these directions, of a precision."""
        return (self.directions @ torch.linalg.pinv(matrices[0], hermitian=True) @ self.directions.T).cpu().numpy()

    def places(self, through: One, first: np.ndarray, second: np.ndarray) -> Places:
        """A grid on the plane through a place."""
        steps = torch.cartesian_prod(*(torch.as_tensor(axis).to(through) for axis in (first, second)))
        return through + (steps - torch.as_tensor(self.of(through)).to(through)) @ self.directions


def _dataset(row: _OneRow, axes: _Axes, path: Places, path_elbo: Tensor, points: int) -> xr.Dataset:
    guides = (row.encoder, row.own)
    means = np.concatenate([axes.of(guide.mean) for guide in guides])
    spreads = np.stack([axes.spread(guide.precision_matrices()) for guide in guides])
    ways = axes.of(path)
    wide = _REACH * np.sqrt([np.diag(s) for s in (*spreads, axes.spread(row.curvature))])
    centres = np.concatenate([means, means[1:]])
    low = np.concatenate([centres - wide, ways]).min(0)
    high = np.concatenate([centres + wide, ways]).max(0)
    low, high = low - _MARGIN * (high - low), high + _MARGIN * (high - low)
    first, second = (np.linspace(*ends, points) for ends in zip(low, high, strict=True))
    grid = axes.places(row.own.mean, first, second)
    columns = {
        "elbo": (("first", "second"), row.elbo(grid).reshape(points, points).cpu().numpy(), {"units": "nats"}),
        "path": (("step", "axis"), ways),
        "path_elbo": ("step", path_elbo.cpu().numpy(), {"units": "nats"}),
        "mean": (("guide", "axis"), means),
        "covariance": (("guide", "axis", "other_axis"), spreads),
        "guide_elbo": ("guide", [float(row.elbo(guide.mean, guide)) for guide in guides], {"units": "nats"}),
        "direction": (("axis", "latent"), axes.directions.cpu().numpy()),
    }
    if row.elements == 2:
        log_joint = row.log_joint(grid).reshape(points, points).cpu().numpy()
        columns["log_joint"] = (("first", "second"), log_joint, {"units": "nats"})
    coordinates = {"first": first, "second": second, "guide": list(_GUIDES), "axis": axes.names}
    return xr.Dataset(columns, coords=coordinates | {"latent": row.names(), "step": np.arange(len(ways))})


def _check(begin: str, points: int, steps: int, particles: int) -> None:
    if begin not in _BEGINNINGS:
        raise ValueError(f"`begin` must be one of {', '.join(map(repr, _BEGINNINGS))}, got {begin!r}.")
    for name, value, least in (("points", points, 2), ("steps", steps, 1), ("particles", particles, 2)):
        if value < least:
            raise ValueError(f"`{name}` must be at least {least}, got {value}.")
    if particles % 2:
        raise ValueError(f"`particles` must be even, half of them mirror the others; got {particles}.")
