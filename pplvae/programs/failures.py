"""Why a user's program failed, in words: which site, what was expected, what came, what to write instead.

A traceback says where Python stopped. What its reader needs stands in the frames: the site that was being worked on,
its distribution, and the line of the program that asked for it.
"""

import re
import sysconfig
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pyro
import torch
from torch import Tensor
from torch import distributions as td

from pplvae import errors
from pplvae.errors import PLATE_HINT, PplvaeError, ProgramError
from pplvae.isolate import isolated
from pplvae.programs.families import family_name

TRIED_ON = 3, 5  # rows on which `inspection` tries programs
_LARGE = 30  # of a number in the rows, where networks expect some around 1
# Lines that are not the user's.
_LIBRARIES = (
    *(str(Path(str(file)).parent) for file in (torch.__file__, pyro.__file__, errors.__file__)),
    sysconfig.get_paths()["stdlib"],
)


@contextmanager
def in_users_words(what: str, tensors: Sequence[Any]) -> Iterator[None]:
    """Say which program failed, why, and on rows of which shape, when a user's program raises.

    Args:
        what: the program.
        tensors: its rows.

    Raises:
        ProgramError: in place of whatever the program raises, but for what pplvae itself has said.
    """
    try:
        yield
    except PplvaeError:
        raise
    except Exception as error:
        raise _explained(what, tensors, error) from error


def _explained(what: str, tensors: Sequence[Any], error: Exception) -> ProgramError:
    """Why a program failed."""
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    site = _site(frames)
    at = what, site["name"] if site else ""
    told, code = _of_numbers(frames, tensors), "PV201"
    if site is not None and not told:
        told, code = _of_plate(site, str(error), len(tensors[0]))
        if not told:
            told, code = _of_sizes(site), "PV207"
    if told:
        return ProgramError(f"The {what} failed. {told}{_where(error)}", code=code, at=at)
    return ProgramError(_as_it_came(what, tensors, error), code="PV201", at=at)


def _as_it_came(what: str, tensors: Sequence[Any], error: Exception) -> str:
    """What a program raised, on rows of which shape."""
    where = _where(error)
    shapes = ", ".join(str((len(tensor), *tensor.shape[1:])) for tensor in tensors)
    said = str(error).rstrip(".") or "without a word"
    begin = f"The {what} raised {type(error).__name__} on rows of shape {shapes}: {said}{where}."
    if isinstance(error, TypeError) and "positional argument" in str(error):
        return (
            f"{begin} It is called as `{what}(*rows)`, here with {len(tensors)}: pass all that it takes, `rows=(v, c)`."
        )
    if len(tensors[0]) <= TRIED_ON[1] and isinstance(error, RuntimeError | ValueError | IndexError | AssertionError):
        few, more = TRIED_ON
        begin += f" (Programs are tried on {few} and {more} rows first: sizes must come from the rows passed in.)"
    return begin


def check_dtypes(error: Exception, tensors: Sequence[Tensor], run: Callable[[Sequence[Tensor]], Any]) -> None:
    """Say so if programs failed only because of the dtype of their rows.

    Args:
        error: why they failed.
        tensors: the rows.
        run: runs them on other rows.

    Raises:
        ProgramError: they run on the same numbers in another dtype.
    """
    for dtype in (torch.float32, torch.float64):
        others = [tensor.to(dtype) for tensor in tensors]
        if all(one.dtype == other.dtype for one, other in zip(tensors, others, strict=True)):
            continue
        try:
            with isolated(0, dtype=dtype):
                run(others)
        except Exception:  # then the dtype is not the reason, or not all of it
            continue
        came = ", ".join(str(tensor.dtype).removeprefix("torch.") for tensor in tensors)
        name = str(dtype).removeprefix("torch.")
        cast = {torch.float32: "float", torch.float64: "double"}[dtype]
        raise ProgramError(
            f"The rows are {came}, and the programs work with {name}: on the same rows as {name} they run. Pass "
            f'`rows.{cast}()`, of an array `rows.astype("{name}")`.',
            code="PV202",
            instead=f"rows = rows.{cast}()",
        ) from error


def _site(frames: Sequence[FrameType]) -> Any:
    """The sample site that was being worked on, if there was one."""
    for frame in reversed(frames):
        for name in ("msg", "site"):
            site = frame.f_locals.get(name)
            if isinstance(site, dict) and site.get("type") == "sample" and isinstance(site["fn"], td.Distribution):
                return site
    return None


def is_of_user(file: str) -> bool:
    """Whether code is neither a library's nor ours."""
    return not file.startswith(_LIBRARIES) and "site-packages" not in file


def line_of_user(error: BaseException) -> traceback.FrameSummary | None:
    """The line of the user's program, if the traceback shows one."""
    for entry in reversed(traceback.extract_tb(error.__traceback__)):
        if is_of_user(entry.filename) and Path(entry.filename).suffix == ".py" and entry.line:
            return entry
    return None


def _where(error: Exception) -> str:
    entry = line_of_user(error)
    return f" ({Path(entry.filename).name}, line {entry.lineno}: `{entry.line}`)" if entry else ""


_PLATE = re.compile(r"Shape mismatch inside plate\('(.*)'\) at site .* dim (-\d+), (\d+) vs")


def _of_plate(site: Any, text: str, rows: int) -> tuple[str, str]:
    """A site whose batch shape does not fit the plate around it, and the code of that."""
    found = _PLATE.search(text)
    if found is None:
        return "", "PV204"
    plate, dim, size = found[1], int(found[2]), int(found[3])
    told = beside_plate(site, plate, dim, size)
    if "to_event" in told:
        return told, "PV204"
    lines = _one_for_each(site["fn"].batch_shape[dim]) if size == rows else []
    if lines:
        return (
            f"{told} The plate is right. The parameters {lines} hold a line for each of "
            f"{site['fn'].batch_shape[dim]} rows: so each row has a guide of its own already, and other rows have "
            "none. Compute lambda from the rows, `loc, scale = encoder(v)`; let an autoguide cover the latents of all "
            'rows only, `AutoNormal(pyro.poutine.block(model, hide=["h"]))`.',
            "PV204",
        )
    return f"{told} The plate's size must be the number of rows that are passed in: {PLATE_HINT}.", "PV221"


def beside_plate(site: Any, plate: str, dim: int, size: int) -> str:
    """What lies where a plate expects the rows of a site; and what to write, if they lie left of that.

    Args:
        site: in the plate.
        plate: its name.
        dim: its axis.
        size: how many rows it has.
    """
    fn, shape = site["fn"], tuple(site["fn"].batch_shape)
    begin = (
        f"The site {site['name']!r} has batch shape {shape} ({family_name(fn)}). At its axis {dim} it has "
        f"{shape[dim]}, where the plate {plate!r} has {size}."
    )
    # `to_event` should have taken as many axes as lie between the rows and where the plate expects them.
    missing = next((k for k in range(1, len(shape) + dim + 1) if shape[dim - k] == size), 0)
    if not missing:
        return begin
    return (
        f"{begin} The rows are {missing} further left, and the axes right of them belong to one row: make these its "
        f"event dimensions, `{family_name(fn)}(...).to_event({len(fn.event_shape) + missing})`."
    )


def _one_for_each(rows: int) -> list[str]:
    """Parameters, outside of networks, with so many lines, or all of these in one."""
    store = pyro.get_param_store()
    shapes = {name: store[name].shape for name in store.keys() if "$$$" not in name}
    return [
        name
        for name, shape in shapes.items()
        if shape[:1] == (rows,) or (len(shape) == 1 and rows > 1 and shape[0] % rows == 0)
    ]


def _of_numbers(frames: Sequence[FrameType], tensors: Sequence[Any]) -> str:
    """Numbers that a distribution does not take, as its parameters or as a value; torch prints them all."""
    for frame in reversed(frames):
        fn, value, valid = (frame.f_locals.get(name) for name in ("self", "value", "valid"))
        if not isinstance(fn, td.Distribution) or not isinstance(value, Tensor) or not isinstance(valid, Tensor):
            continue
        odd = value.detach()[~valid.expand(value.shape[: valid.ndim])].flatten()
        if len(odd) == 0:
            continue
        what, allowed = f"A value of {type(fn).__name__}", frame.f_locals.get("support")
        if allowed is None:
            what, allowed = f"`{frame.f_locals['param']}` of {type(fn).__name__}", frame.f_locals["constraint"]
        return (
            f"{what} must be {_allowed(allowed)}. Of {value.numel()} numbers {int((~valid).sum())} are not, such as "
            f"{float(odd[0]):.4g}.{_of_scale(tensors)}"
        )
    return ""


def _of_scale(tensors: Sequence[Any]) -> str:
    """Networks that begin with small weights make of large numbers what no distribution takes."""
    numbers = [tensor for tensor in tensors if tensor.is_floating_point() and tensor.numel()]
    if max((float(tensor.abs().max()) for tensor in numbers), default=0.0) < _LARGE:
        return ""
    lowest, highest = min(float(t.min()) for t in numbers), max(float(t.max()) for t in numbers)
    return (
        f" The rows hold values from {lowest:.3g} to {highest:.3g}, and networks expect numbers around 1: standardise "
        "the columns, `load_data(..., standardise=True)`, or divide them, `load_data(..., scale=255)`."
    )


def _allowed(constraint: Any) -> str:
    inner = getattr(constraint, "base_constraint", constraint)
    bound = getattr(inner, "lower_bound", None)
    if type(inner).__name__ == "_Real":
        return "finite"
    if type(inner).__name__ in ("_GreaterThan", "_GreaterThanEq") and not isinstance(bound, Tensor):
        return f"above {bound:g}" if type(inner).__name__ == "_GreaterThan" else f"{bound:g} or more"
    return f"in {str(constraint).lstrip('_')}"


def _of_sizes(site: Any) -> str:
    """A value that does not fit the distribution that it is held against."""
    fn, value = site["fn"], site["value"]
    if not isinstance(value, Tensor):
        return ""
    ours, theirs = tuple(value.shape), tuple(fn.shape())
    if _fit(ours, theirs):
        return ""
    what = "observed site" if site["is_observed"] else "latent"
    begin = f"At the {what} {site['name']!r} the value has shape {ours} and its {family_name(fn)} {theirs}"
    if not site["is_observed"]:
        return f"{begin}: the model and the guide must give a latent one shape."
    numbers, given = (torch.Size(shape[1:]).numel() for shape in (ours, theirs))
    if numbers != given:
        return f"{begin}: a row has {numbers} numbers, and the model gives it {given}."
    return (
        f"{begin}: the numbers of a row are as many, in another shape. Write `obs=v.flatten(1)`, or end the decoder "
        f"with `nn.Unflatten(1, {ours[1:]})`."
    )


def _fit(one: Sequence[int], other: Sequence[int]) -> bool:
    try:
        torch.broadcast_shapes(one, other)
    except RuntimeError:
        return False
    return True
