"""The sites of a pair, one line each: what is drawn, of which shape, in which plates."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from pplvae.checking.pair import Pair
from pplvae.programs.families import family_name

_MOST = 40  # lines of a table


@dataclass(frozen=True)
class Site:
    """A sample site on a few rows.

    Attributes:
        program: "model" or "guide".
        name: of the site.
        kind: "latent" or "observed".
        distribution: its class.
        rows: axis of the rows in the batch shape, counted from the right; None where the site belongs to all of them.
        batch: the batch shape.
        event: the event shape.
        plates: names, outermost first.
    """

    program: str
    name: str
    kind: str
    distribution: str
    rows: int | None
    batch: tuple[int, ...]
    event: tuple[int, ...]
    plates: tuple[str, ...]


def sites_of(pair: Pair) -> list[Site]:
    """All sites, the guide's first."""
    layout = pair.layout
    guide, model = (layout.guide, layout.model) if layout else ({}, {})
    return [
        Site(
            program,
            name,
            "observed" if site["is_observed"] else "latent",
            family_name(site["fn"]),
            dims.get(name),
            tuple(site["fn"].batch_shape),
            tuple(site["fn"].event_shape),
            tuple(frame.name for frame in site["cond_indep_stack"]),
        )
        for program, sites, dims in (("guide", pair.run.guide, guide), ("model", pair.run.model, model))
        for name, site in sites.items()
    ]


def as_lines(sites: Sequence[Site]) -> Iterator[str]:
    """A table as text, of the first sites where there are many."""
    head = ("program", "site", "kind", "distribution", "rows at", "batch", "event", "plates")
    yield from aligned([head, *(tuple(vars(site).values()) for site in sites)])


def aligned(lines: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    """A table as text: its head, and the first lines where there are many."""
    table = [tuple(map(_cell, line)) for line in lines[: _MOST + 1]]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    yield from ("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in table)
    if len(lines) > len(table):
        yield f"... and {len(lines) - len(table)} more sites"


def _cell(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(str, value)) if value and isinstance(value[0], str) else str(value)
    return "-" if value is None else str(value)
