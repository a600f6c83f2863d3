"""`Comparison`: one line per row, its summary, its file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr
from torch import Tensor

from pplvae.data import Rows
from pplvae.results.base import Result, pages
from pplvae.statistics.findings import Finding, findings_of
from pplvae.statistics.summary import lines_of, part_of, parts_of, summary_of, worst_of

_WORST = 24  # pictures kept of the rows with the largest gaps, per part


@dataclass(frozen=True, eq=False, repr=False)
class Comparison(Result):
    """What amortisation costs each row.

    Attributes:
        rows: over dimension "row" (coordinates: the row's id, its part, its label where there is one), in nats:
            `elbo_amortised`, `elbo_local`, `amortisation_gap`, each with `<name>_stderr` (Monte Carlo); `draws`, how
            many it took; `shortfall` with its standard error, `status`, `steps` and `method` of each row's optimisation
            (see `amortisation_gap`); where asked for `log_evidence`, `approximation_gap`, `inference_gap`,
            `pareto_k_amortised`, `pareto_k_local`; for each family `elbo_local_<family>` and `family_gap_<family>`.
            Nothing is clipped: a negative gap is an optimisation that failed, or noise.
        pictures: where rows are images, those with the largest gaps.
        parameters: lambda over dimensions "row", "guide" ("amortised", the encoder's answer, and "local", the row's
            own optimum) and the elements of each parameter, in the distribution's own units; averaged over draws where
            an earlier latent changes it.
    """

    kind: ClassVar[str] = "comparison"
    essential: ClassVar[str] = "amortisation_gap"

    pictures: xr.Dataset = field(default_factory=xr.Dataset)
    parameters: xr.Dataset = field(default_factory=xr.Dataset)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return [finding.sentence for finding in self.findings]

    @property
    def findings(self) -> list[Finding]:
        """The same with their codes, which `docs/findings.md` explains."""
        return findings_of(self.summary())

    @property
    def parts(self) -> list[str]:
        """Names of the compared sets of rows, in order."""
        return parts_of(self.rows)

    def part(self, name: str) -> xr.Dataset:
        """The rows of one part."""
        return part_of(self.rows, name)

    def summary(self) -> xr.Dataset:
        """Means over rows, with both errors, quantiles and shares.

        Rows whose optimisation or score is not finite, and rows that a screen skipped, are left out of means and
        quantiles, and counted.

        Returns:
            Over dimensions "part", "term" and "quantile": `mean` in nats per row; `stderr`, its standard error over
            rows (for a gap from paired differences, Monte Carlo noise included); `mc_stderr`, the part of it that more
            draws would remove; `quantiles` over rows. Per part: `count`; `nonfinite` and `skipped`, the numbers of rows
            left out; `unconverged`, the share of rows whose search did not converge; `untested`, of those of which that
            cannot be told; `negative`, the share of gaps below -3 standard errors by more than the tolerance; with
            evidence `unreliable`, the share of rows whose k-hat is above 0.7: their log evidence may be too low by more
            than its standard error says. With a screen `gap_at_most`, the mean gap over all rows at most. For each
            family `unnested`, the share of rows whose optimum in it lies below that of the guide's own, which it
            contains, by more than 3 standard errors and the tolerance. The attributes are the settings; `simulated` and
            `missed` say on how many simulated rows better optima were looked for, and in how many the search had missed
            one.
        """
        return summary_of(self.rows)

    def worst(self, part: str, count: int = 5) -> xr.Dataset:
        """The rows of a part with the largest amortisation gaps, largest first."""
        return worst_of(self.rows, part, count)

    def report(self, path: str | Path, *, history: xr.Dataset | None = None, settings: Any = None) -> Path:
        """Write one self-contained HTML page.

        Args:
            path: of the page.
            history: of the fit (`fit.history`), for the learning curves.
            settings: of the fit (`fit.settings`), a mapping that is printed as it is.
        """
        return pages().write_report(
            Path(path),
            rows=self.rows,
            pictures=self.pictures,
            parameters=self.parameters,
            history=history,
            settings=settings,
        )

    def _lines(self) -> list[str]:
        return lines_of(self.summary())


def load_comparison(path: str | Path) -> Comparison:
    """Read what `Comparison.save` wrote.

    Args:
        path: of the file.

    Raises:
        StoreError: no such file, damaged, or not a comparison of this version.
    """
    return Comparison.load(path)


def pictures_of(rows: xr.Dataset, parts: Mapping[str, Rows]) -> xr.Dataset:
    """The pictures with the largest gaps of each part, over (picture, y, x); empty where rows are no images."""
    images, ids, names = [], [], []
    for name, part in parts.items():
        if part.image_shape is None:
            continue
        gaps = rows["amortisation_gap"].values[rows["part"].values == name]
        worst = np.argsort(-gaps, kind="stable")[:_WORST]
        values: Tensor = part.values
        images += list(values[worst.tolist()].reshape(-1, *part.image_shape).cpu().numpy())
        ids += part.ids[worst].tolist()
        names += [name] * len(worst)
    if not images or len({image.shape for image in images}) > 1:
        return xr.Dataset()
    coordinates = {"id": ("picture", ids), "part": ("picture", names)}
    return xr.Dataset({"image": (("picture", "y", "x"), np.stack(images))}, coords=coordinates)
