"""`Comparison`: one line per row, its summary, its file."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from pplvae.comparison.arviz import to_arviz
from pplvae.data import Rows
from pplvae.errors import StoreError
from pplvae.store import open_datasets, write_datasets

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
_TERMS = ("elbo_amortised", "elbo_local", "amortisation_gap", "log_evidence", "approximation_gap", "inference_gap")
_K_HATS = ("pareto_k_ais", "pareto_k_importance")  # of the weights that the evidence rests on
_WORST = 24  # pictures kept of the rows with the largest gaps, per part


@dataclass(frozen=True)
class Comparison:
    """What amortisation costs each row.

    Attributes:
        rows: over dimension "row" (coordinates: the row's id, its part, its label where there is one), in nats:
            `elbo_amortised`, `elbo_local`, `amortisation_gap`, each with `<name>_stderr` (Monte Carlo); `draws`, how
            many it took; `status`, `steps` and `method` of each row's optimisation; where asked for `log_evidence`,
            `approximation_gap`, `inference_gap`, `pareto_k_amortised`, `pareto_k_local`; for each family
            `elbo_local_<family>` and `family_gap_<family>`.
            Its attributes are the settings. Nothing is clipped: a negative gap is an optimisation that failed, or
            noise.
        pictures: where rows are images, those with the largest gaps.
        parameters: lambda over dimensions "row", "guide" ("amortised", the encoder's answer, and "local", the row's
            own optimum) and the elements of each parameter, in the distribution's own units; averaged over draws where
            an earlier latent changes it.
    """

    rows: xr.Dataset
    pictures: xr.Dataset = field(default_factory=xr.Dataset, repr=False)
    parameters: xr.Dataset = field(default_factory=xr.Dataset, repr=False)

    @property
    def parts(self) -> list[str]:
        """Names of the compared sets of rows, in order."""
        return list(dict.fromkeys(self.rows["part"].values.tolist()))

    def part(self, name: str) -> xr.Dataset:
        """The rows of one part."""
        return self.rows.isel(row=np.flatnonzero(self.rows["part"].values == name))

    def summary(self) -> xr.Dataset:
        """Means over rows, with both errors, quantiles and shares.

        Rows whose optimisation or score is not finite, and rows that a screen skipped, are left out of means and
        quantiles, and counted.

        Returns:
            Over dimensions "part", "term" and "quantile": `mean` in nats per row; `stderr`, its standard error over
            rows (for a gap from paired differences, Monte Carlo noise included); `mc_stderr`, the part of it that more
            draws would remove; `quantiles` over rows. Per part: `count`; `nonfinite` and `skipped`, the numbers of rows
            left out; `unconverged`, the share of rows whose search did not converge; `negative`, the share of gaps
            below -3 standard errors by more than the tolerance; with evidence `unreliable`, the share of
            rows whose k-hat is above 0.7: their log evidence may be too low by more than its standard error says. With
            a screen `gap_at_most`, the mean gap over all rows at most. For each family `unnested`, the share of rows
            whose optimum in it lies below that of the guide's own, which it contains, by more than 3 standard errors and
            the tolerance.
        """
        everything = [self.part(name) for name in self.parts]
        parts = [part.isel(row=np.flatnonzero(_is_counted(part))) for part in everything]
        ladder = [
            str(name) for name in self.rows if str(name).startswith(_LADDER) and not str(name).endswith("_stderr")
        ]
        terms = [term for term in _TERMS if term in self.rows] + sorted(ladder, key=_family_first)

        def table(statistic: Any) -> np.ndarray:
            return np.array([[statistic(part, term) for term in terms] for part in parts])

        def share(condition: Any) -> tuple[str, list[float]]:
            return "part", [float(condition(part).values.mean()) if part.sizes["row"] else np.nan for part in parts]

        columns = {
            "mean": (("part", "term"), table(_mean)),
            "stderr": (("part", "term"), table(_stderr_over_rows)),
            "mc_stderr": (("part", "term"), table(_monte_carlo_stderr)),
            "quantiles": (("part", "term", "quantile"), table(_quantiles)),
            "count": ("part", [part.sizes["row"] for part in everything]),
            "nonfinite": ("part", [int((part["status"] == "nonfinite").sum()) for part in everything]),
            "skipped": ("part", [int((part["status"] == "skipped").sum()) for part in everything]),
            "unconverged": share(lambda part: part["status"] != "converged"),
            "negative": share(lambda part: self._is_below(part, "amortisation_gap")),
        }
        k_hat = next((name for name in _K_HATS if name in self.rows), None)
        if k_hat is not None:
            columns["unreliable"] = share(lambda part: part[k_hat] > 0.7)
        if "amortisation_gap_bound" in self.rows:
            columns["gap_at_most"] = ("part", [_gap_at_most(part) for part in everything])
        for term in terms:
            if term.startswith("family_gap_"):
                name = term.removeprefix("family_gap_")
                columns[f"unnested_{name}"] = share(lambda part, term=term: self._is_below(part, term))
        coordinates = {"part": self.parts, "term": terms, "quantile": list(QUANTILES)}
        return xr.Dataset(columns, coords=coordinates, attrs=dict(self.rows.attrs))

    def _is_below(self, part: xr.Dataset, term: str) -> xr.DataArray:
        """Which gaps are below zero by more than noise and the tolerance of the search explain."""
        return part[term] < -3 * part[f"{term}_stderr"] - float(self.rows.attrs.get("tolerance", 0.0))

    def worst(self, part: str, count: int = 5) -> xr.Dataset:
        """The rows of a part with the largest amortisation gaps, largest first."""
        rows = self.part(part)
        return rows.isel(row=np.argsort(-rows["amortisation_gap"].values, kind="stable")[:count])

    def to_arviz(self) -> Any:
        """Groups `comparison` and `summary` (and `pictures`): `InferenceData` in ArviZ 0.x, `DataTree` in 1.x."""
        return to_arviz(self._groups() | {"summary": self.summary()})

    def save(self, path: str | Path) -> Path:
        """Write a netCDF file (whole or not at all); `pplvae.load_comparison` reads it."""
        return write_datasets(Path(path), "comparison", self._groups())

    def report(self, path: str | Path, *, history: xr.Dataset | None = None, settings: Any = None) -> Path:
        """Write one self-contained HTML page.

        Args:
            path: of the page.
            history: of the fit (`fit.history`), for the learning curves.
            settings: of the fit (`fit.settings`), a mapping that is printed as it is.
        """
        from pplvae.report import write_report  # the page stands above the comparison: imported when it is asked for

        return write_report(Path(path), self, history=history, settings=settings)

    def __str__(self) -> str:
        return "\n".join(_lines(self.summary()))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(str(self))}</pre>"

    def _groups(self) -> dict[str, xr.Dataset]:
        others = {"pictures": self.pictures, "parameters": self.parameters}
        return {"comparison": self.rows} | {name: group for name, group in others.items() if group.sizes}


def load_comparison(path: str | Path) -> Comparison:
    """Read what `Comparison.save` wrote.

    Raises:
        StoreError: no such file, damaged, or not a comparison of this version.
    """
    groups = open_datasets(Path(path), "comparison")
    if "comparison" not in groups or "amortisation_gap" not in groups["comparison"]:
        raise StoreError(f"{str(path)!r} holds no comparison; expected a file written by `Comparison.save`.")
    return Comparison(*(groups.get(name, xr.Dataset()) for name in ("comparison", "pictures", "parameters")))


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


_LADDER = ("elbo_local_", "family_gap_")


def _family_first(term: str) -> str:
    """Sorts the terms of a family together."""
    return term.removeprefix("elbo_local_").removeprefix("family_gap_")


def _is_counted(part: xr.Dataset) -> np.ndarray:
    return ~np.isin(part["status"].values, ("nonfinite", "skipped"))


def _gap_at_most(part: xr.Dataset) -> float:
    """The mean gap over all rows, the skipped ones at their bounds."""
    gaps = np.where(part["status"] == "skipped", part["amortisation_gap_bound"], part["amortisation_gap"])
    return float(np.nanmean(gaps))


def _mean(part: xr.Dataset, term: str) -> float:
    return float(part[term].values.mean()) if part.sizes["row"] else float("nan")


def _quantiles(part: xr.Dataset, term: str) -> np.ndarray:
    return np.quantile(part[term].values, QUANTILES) if part.sizes["row"] else np.full(len(QUANTILES), np.nan)


def _stderr_over_rows(part: xr.Dataset, term: str) -> float:
    values = part[term].values
    return float(values.std(ddof=1) / np.sqrt(len(values))) if len(values) > 1 else float("nan")


def _monte_carlo_stderr(part: xr.Dataset, term: str) -> float:
    # Rows with the same content share their noise, so their errors add up; equal rows have equal results.
    _, groups = np.unique(part["elbo_amortised"].values.round(9), return_inverse=True)
    if part.attrs.get("held"):
        groups = np.zeros_like(groups)  # a latent that belongs to all rows is drawn for all of them at once
    errors = np.bincount(groups, weights=part[f"{term}_stderr"].values)
    return float(np.sqrt((errors**2).sum()) / part.sizes["row"]) if part.sizes["row"] else float("nan")


def warnings_of(summary: xr.Dataset) -> list[str]:
    """What a reader of a summary must know before believing it, a sentence each."""
    found = []
    if summary.attrs.get("held"):
        found.append(
            f"The latents {summary.attrs['held']} belong to all rows: they are drawn from their guide as it is, and "
            "the gaps are those of the other latents."
        )
    for name in summary["part"].values:
        part = summary.sel(part=name)
        if int(part["nonfinite"]):
            found.append(f"{name}: {int(part['nonfinite'])} rows have no finite ELBO or gradient and are left out.")
        if int(part["skipped"]):
            found.append(
                f"{name}: {int(part['skipped'])} rows were screened out and are not in these means; over all rows the "
                f"mean amortisation gap is at most {float(part['gap_at_most']):.3f}."
            )
        for term in (str(t) for t in part if str(t).startswith("unnested_")):
            if float(part[term]) > 0.01:
                found.append(
                    f"{name}: on {100 * float(part[term]):.1f} % of the rows the optimum in the richer family "
                    f"{term.removeprefix('unnested_')} lies below that of the guide's own: its search failed there."
                )
        if float(part["unconverged"]) > 0:
            share = f"{100 * float(part['unconverged']):.1f} %"
            found.append(f"{name}: {share} of the rows did not converge, so their gaps are lower bounds.")
        if float(part["negative"]) > 0.01:
            share = f"{100 * float(part['negative']):.1f} %"
            found.append(
                f"{name}: {share} of the gaps lie below zero by more than 3 standard errors and the tolerance: the "
                "search failed there."
            )
        if "unreliable" in part and float(part["unreliable"]) > 0.01:
            share = f"{100 * float(part['unreliable']):.1f} %"
            found.append(
                f"{name}: {share} of the rows have k-hat above 0.7: log evidence and approximation gap may be too "
                "low there by more than their standard errors say."
            )
    return found


def _lines(summary: xr.Dataset) -> list[str]:
    width = max(len(str(term)) for term in summary["term"].values)
    lines = ["Nats per row (mean ± standard error over rows | Monte Carlo error | quantiles over rows)"]
    for name in summary["part"].values:
        part = summary.sel(part=name)
        lines += [
            "",
            f"{name}: {int(part['count'])} rows",
            " " * (width + 24) + "| ± MC   |" + "".join(f"{100 * q:>8.0f}%" for q in summary["quantile"].values),
        ]
        for term in summary["term"].values:
            line = part.sel(term=term)
            spread = "".join(f"{float(q):>9.3f}" for q in line["quantiles"])
            lines.append(
                f"{term:<{width}}  {float(line['mean']):>9.3f} ± {float(line['stderr']):<8.3f}  "
                f"| {float(line['mc_stderr']):<7.4f}|{spread}"
            )
    warnings = warnings_of(summary)
    return lines + (["", *warnings] if warnings else [])
