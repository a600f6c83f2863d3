"""`Comparison`: one line per row, its summary, its file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import xarray as xr

from pplvae.data import Rows
from pplvae.results.base import Result, pages
from pplvae.statistics.findings import Finding, findings_of
from pplvae.statistics.summary import lines_of, part_of, parts_of, summary_of, worst_of

_SHOWN = 24  # rows of a part whose data are kept for having the largest gaps; and as many of all sizes of gap


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
        shown: the data of some rows of each part, those with the largest gaps among them (see `shown_of`).
        parameters: lambda over dimensions "row", "guide" ("amortised", the encoder's answer, and "local", the row's
            own optimum) and the elements of each parameter, in the distribution's own units; averaged over draws where
            an earlier latent changes it.
    """

    kind: ClassVar[str] = "comparison"
    essential: ClassVar[str] = "amortisation_gap"
    figures: ClassVar[tuple[str, ...]] = ("ladder",)

    shown: xr.Dataset = field(default_factory=xr.Dataset)
    parameters: xr.Dataset = field(default_factory=xr.Dataset)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return [finding.sentence for finding in self.findings]

    @property
    def findings(self) -> list[Finding]:
        """The same with their codes, which `docs/findings` explains."""
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
            left out; `unconverged`, the share of rows whose search did not converge; `imprecise`, of those that float32
            has wrong; `untested`, of those of which that cannot be told; `negative`, the share of gaps below -3
            standard errors by more than the tolerance; with evidence `unreliable`, the share of rows whose k-hat is
            above 0.7: their log evidence may be too low by more than its standard error says. With a screen
            `gap_at_most`, the mean gap over all rows at most. For each family `unnested`, the share of rows whose
            optimum in it lies below that of the guide's own, which it contains, by more than 3 standard errors and the
            tolerance. The attributes are the settings; `simulated` and `missed` say on how many simulated rows better
            optima were looked for, and in how many the search had missed one.
        """
        return summary_of(self.rows)

    def worst(self, part: str, count: int = 5) -> xr.Dataset:
        """The rows of a part with the largest amortisation gaps, largest first."""
        return worst_of(self.rows, part, count)

    def report(
        self,
        path: str | Path,
        *,
        history: xr.Dataset | None = None,
        settings: Mapping[str, Any] | None = None,
        about: Mapping[str, Any] | None = None,
        title: str | None = None,
        beside: Mapping[str, Result] | None = None,
    ) -> Path:
        """Write one self-contained HTML page: charts that are linked, and every row.

        Args:
            path: of the page.
            history: of the fit (`fit.history`), for the learning curves.
            settings: of the fit (`fit.settings`), to be printed.
            about: what else is to be printed of how it was made, by name.
            title: of the page, which names the model and the data; by default it names the rows.
            beside: other results of the same pair, with a section each, by their headings: from `attribute`,
                `latent_use` or `calibrate`; or from `compare_runs(this, other)`, by the name of the other.

        Raises:
            UnknownNameError: a result of another kind.
            DataError: paired runs whose rows are not among those of this comparison.
        """
        return pages().write_report(
            Path(path),
            rows=self.rows,
            shown=self.shown,
            parameters=self.parameters,
            history=history,
            settings=settings,
            about=about,
            title=title,
            beside=beside,
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


def shown_of(rows: xr.Dataset, parts: Mapping[str, Rows]) -> xr.Dataset:
    """The data of some rows of each part: those with the largest gaps, and as many of gaps of every size.

    Args:
        rows: `Comparison.rows`.
        parts: the rows by name.

    Returns:
        `value` over dimensions "shown" and "column", with the coordinates id, part, and place, the position among the
        rows of the part; empty where rows are no vectors of numbers. Attributes: `image_shape` of a row that is an
        image, `named` if the columns have names.
    """
    if any(part.values.ndim != 2 for part in parts.values()) or len({p.values.shape[1] for p in parts.values()}) > 1:
        return xr.Dataset()
    values, ids, names, places = [], [], [], []
    for name, part in parts.items():
        chosen = _to_be_shown(rows["amortisation_gap"].values[rows["part"].values == name])
        values.append(part.values[chosen.tolist()].cpu().numpy())
        ids += part.ids[chosen].tolist()
        names += [name] * len(chosen)
        places += chosen.tolist()
    first = next(iter(parts.values()))
    columns = np.arange(first.values.shape[1]) if first.columns is None else first.columns
    coordinates = {"id": ("shown", ids), "part": ("shown", names), "place": ("shown", places), "column": columns}
    about: dict[str, Any] = {"named": int(first.columns is not None)}
    if first.image_shape is not None:
        about["image_shape"] = list(first.image_shape)
    return xr.Dataset({"value": (("shown", "column"), np.concatenate(values))}, coordinates, about)


def _to_be_shown(gaps: np.ndarray) -> np.ndarray:
    order = np.argsort(-gaps, kind="stable")  # NaN comes last
    spread = np.linspace(0, len(order) - 1, min(_SHOWN, len(order))).round().astype(int)
    return order[np.union1d(np.arange(min(_SHOWN, len(order))), spread)]
