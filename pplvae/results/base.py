"""`Result`: what every result has, under the same name and with the same meaning."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from itertools import takewhile
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import xarray as xr

from pplvae.errors import StoreError, printable
from pplvae.results.arviz import to_arviz
from pplvae.results.observations import write_observations
from pplvae.statistics.means import frame_of
from pplvae.statistics.settings import settings_of
from pplvae.store import open_datasets, write_datasets

Datasets = Mapping[str, xr.Dataset]
PREFIX = "pplvae_"  # of columns among those of others
_Some = TypeVar("_Some", bound="Result")


@dataclass(frozen=True, eq=False, repr=False)
class Result(ABC):
    """A measurement, row by row. Two are equal if they are of one class and hold the same datasets.

    A subclass is a frozen dataclass (`eq=False, repr=False`) whose fields are datasets.

    Attributes:
        rows: one entry per row over dimension and coordinate "row", the ids. Its attributes are the settings, and what
            was found of all rows together (see `statistics.settings`).
    """

    kind: ClassVar[str]  # what a file of it is called
    essential: ClassVar[str]  # a column that its rows cannot do without
    figures: ClassVar[tuple[str, ...]]  # functions of `plots` that draw it, the one that a notebook shows first

    rows: xr.Dataset

    @abstractmethod
    def summary(self) -> xr.Dataset:
        """The table that the text prints."""

    @abstractmethod
    def _lines(self) -> list[str]:
        """The text without warnings, a line each."""

    def _words(self) -> list[str]:
        """What it says before its tables, a line each."""
        return list(takewhile(bool, self._lines()))

    @property
    def settings(self) -> dict[str, Any]:
        """Everything that the numbers depend on besides programs and rows, by name; nothing that was found."""
        return settings_of(self.rows.attrs)

    @property
    def warnings(self) -> list[str]:
        """What a reader must know, a sentence each."""
        return []

    def save(self, path: str | Path) -> Path:
        """Write a netCDF file, whole or not at all; `load` of the same class reads it.

        Raises:
            StoreError: something in it cannot be written, such as text with a NUL character.
        """
        return write_datasets(Path(path), self.kind, self._groups())

    @classmethod
    def load(cls: type[_Some], path: str | Path) -> _Some:
        """Read what `save` wrote.

        Raises:
            StoreError: no such file, damaged, of another kind of result, or of another version.
        """
        groups = open_datasets(Path(path), cls.kind)
        try:
            found = cls._of_groups(groups)
            found.rows[cls.essential]
        except KeyError as error:
            raise StoreError(
                f"{str(path)!r} holds no {cls.kind} (it lacks {error}); expected a file written by "
                f"`{cls.__name__}.save`."
            ) from error
        return found

    def to_arviz(self) -> Any:
        """Its datasets, and `summary`, as groups: `InferenceData` in ArviZ 0.x, `DataTree` in 1.x."""
        return to_arviz({**self._groups(), "summary": self.summary()})

    def to_dataframe(self) -> Any:
        """The rows as a pandas `DataFrame`, one line each; what has several entries per row has a column for each."""
        return frame_of(self.rows)

    def to_obs(self, adata: Any, *, prefix: str = PREFIX) -> None:
        """Write the rows into `adata.obs`, a column for each, matched by the names of rows and never by their order.

        A row of `adata` that this result does not have gets NaN; columns of the same name are replaced.

        Args:
            adata: an AnnData object.
            prefix: of the columns' names.

        Raises:
            DataError: it has no `obs`, names a row twice, or has no row of this result.
        """
        write_observations(self.rows, adata, prefix)

    def report(self, path: str | Path) -> Path:
        """Write one self-contained HTML page: text, summary, settings, and the figures there are.

        Args:
            path: of the page.
        """
        return pages().write_plain(
            Path(path),
            title=self.kind.capitalize(),
            lines=[_on_one_line(line) for line in self._lines()],
            warnings=self.warnings,
            summary=self.summary(),
            settings=self.settings,
            figures=dict.fromkeys(self.figures, self),
        )

    def __str__(self) -> str:
        warnings = self.warnings
        return "\n".join(map(_on_one_line, [*self._lines(), *(["", *warnings] if warnings else [])]))

    def __repr__(self) -> str:
        return str(self)

    def _repr_html_(self) -> str:
        return pages().notebook_html(
            self,
            title=self.kind.capitalize(),
            words=[_on_one_line(line) for line in self._words()],
            warnings=[_on_one_line(warning) for warning in self.warnings],
            summary=self.summary(),
            text=str(self),
            figure=self.figures[0],
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Result) or type(other) is not type(self):
            return NotImplemented
        mine, theirs = self._groups(), other._groups()
        return mine.keys() == theirs.keys() and all(mine[name].identical(theirs[name]) for name in mine)

    def _groups(self) -> Datasets:
        """The datasets that it is made of; the rows are called by its kind."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        rows = {self._group(): found.pop("rows")}
        return rows | {name: dataset for name, dataset in found.items() if dataset.variables}

    @classmethod
    def _of_groups(cls: type[_Some], groups: Datasets) -> _Some:
        """The other way round.

        Raises:
            KeyError: a dataset is missing.
        """
        others = [field for field in fields(cls) if field.name != "rows"]
        given = {f.name: groups[f.name] for f in others if f.name in groups or f.default_factory is MISSING}
        return cls(groups[cls._group()], **given)

    @classmethod
    def _group(cls) -> str:
        return cls.kind.replace(" ", "_")


def _on_one_line(line: str) -> str:
    """A line whose names from outside cannot break it, nor move a terminal's cursor."""
    return printable(line).replace("\n", "\\n")


def pages() -> Any:
    """`pplvae.report`, imported when a page is asked for, since matplotlib and jinja2 come with it."""
    from pplvae import report

    return report
