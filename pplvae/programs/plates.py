"""Which plates of a program hold the rows, where they lie in each site, and what is wrong with a plate."""

from collections.abc import Iterator, Sequence
from typing import Any

from pplvae.errors import PLATE_HINT, ProgramError, RowwiseError
from pplvae.programs.failures import TRIED_ON, beside_plate
from pplvae.programs.refusals import Refusals

_FEW, _MORE = TRIED_ON


def data_plates(fewer: dict[str, Any], more: dict[str, Any]) -> list[str]:
    """The plates whose size follows the number of rows, by name."""
    plates: dict[str, bool] = {}
    for name, site in more.items():
        before = {frame.name: frame for frame in fewer[name]["cond_indep_stack"]} if name in fewer else {}
        for frame in site["cond_indep_stack"]:
            follows = (
                frame.name in before and _size(frame, site) == _MORE and _size(before[frame.name], fewer[name]) == _FEW
            )
            plates[frame.name] = plates.get(frame.name, False) or follows
    return [name for name, follows in plates.items() if follows]


def whole_plates(sites: Sequence[dict[str, Any]]) -> frozenset[str]:
    """The data plates that hold all of their members, on three rows and on five, by name."""
    runs = [{frame.name: frame for site in some.values() for frame in site["cond_indep_stack"]} for some in sites]
    return frozenset(
        name for name in data_plates(*sites) if all(run[name].full_size in (None, run[name].size) for run in runs)
    )


def _size(frame: Any, site: Any) -> int:
    """How many members a plate has; one without a size has as many as its site shows."""
    return frame.size if frame.size != -1 or frame.dim is None else site["fn"].batch_shape[frame.dim]


def _unsized(what: str, sites: dict[str, Any]) -> Iterator[ProgramError]:
    """Sites whose rows lie elsewhere than a plate without a size expects them: it takes any shape."""
    for site in sites.values():
        for frame in site["cond_indep_stack"]:
            if frame.size == -1 and frame.dim is not None and site["fn"].batch_shape[frame.dim] not in (1, _MORE):
                told = beside_plate(site, frame.name, frame.dim, _MORE)
                if "to_event" in told:
                    yield ProgramError(told, code="PV204", at=(what, site["name"]))


def row_axes(
    what: str, fewer: dict[str, Any], more: dict[str, Any], told: Refusals
) -> tuple[dict[str, int], list[str]]:
    """The axis of the data plate, whose size follows the number of rows, in every site; the latents outside it.

    Args:
        what: the program.
        fewer: its sites on three rows.
        more: its sites on five.
        told: what is wrong.
    """
    plates = {frame.name: frame for site in more.values() for frame in site["cond_indep_stack"]}
    data = data_plates(fewer, more)
    if not data:
        told.tell(_without_data_plate(what, more, plates))
        return {}, []
    told.tell(_unsized(what, more))
    axes: dict[str, int] = {}
    held: list[str] = []
    for name, site in more.items():
        frame = next((frame for frame in site["cond_indep_stack"] if frame.name in data), None)
        if frame is None:
            told.tell(_outside(what, name, fewer, site, data[0]))
            held += [] if site["is_observed"] else [name]
        elif frame.dim is None:
            told.tell([_loop(what, name, data[0])])
        else:
            axes[name] = frame.dim
    return axes, held


def _without_data_plate(what: str, more: dict[str, Any], plates: dict[str, Any]) -> Iterator[ProgramError]:
    at, right = (what, next(iter(plates), "")), 'with pyro.plate("data", len(v)):'
    if not plates:
        yield RowwiseError(
            f"The {what} has no plate, so its rows cannot be told apart: {PLATE_HINT}.",
            code="PV220",
            at=at,
            instead=right,
        )
        return
    unsized = [*_unsized(what, more)]
    yield from unsized
    if not unsized:
        sizes = ", ".join(f"{name!r} (size {frame.size})" for name, frame in plates.items())
        yield ProgramError(
            f"No plate of the {what} has the number of rows as its size: with {_MORE} rows it has {sizes}. Either none "
            "is over the rows, or its size is written down or taken from the training set and does not fit other rows: "
            f"{PLATE_HINT}, or give a subsampling plate its rows with `subsample_size=len(v)`.",
            code="PV221",
            at=at,
            instead=right,
        )


def _outside(what: str, name: str, fewer: dict[str, Any], site: Any, plate: str) -> Iterator[ProgramError]:
    """Why a site may not lie outside the data plate: it is observed, or its shape follows the rows."""
    right = f'with pyro.plate("{plate}", len(v)):\n    pyro.sample("{name}", ...)'
    if site["is_observed"]:
        yield RowwiseError(
            f"The observed site {name!r} of the {what} lies outside the data plate {plate!r}: it belongs to all "
            "rows at once, so no row has a gap of its own. Move it into the plate.",
            code="PV226",
            at=(what, name),
            instead=right,
        )
    elif name in fewer and fewer[name]["fn"].shape() != site["fn"].shape():
        yield RowwiseError(
            f"The latent {name!r} of the {what} lies outside the data plate {plate!r}, and its shape follows the rows: "
            f"{tuple(fewer[name]['fn'].shape())} on {_FEW} rows, {tuple(site['fn'].shape())} on {_MORE}. Without the "
            "plate it would be one latent of all rows together. Move it into the plate.",
            code="PV226",
            at=(what, name),
            instead=right,
        )


def _loop(what: str, name: str, plate: str) -> ProgramError:
    return ProgramError(
        f"The plate {plate!r} of the {what} is a Python loop over rows; use it as a context: {PLATE_HINT}.",
        code="PV222",
        at=(what, name),
        instead=f'with pyro.plate("{plate}", len(v)):',
    )
