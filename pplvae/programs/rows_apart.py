"""Whether a row's log-probability is its own: the same beside other rows, and in a second run; and if not, why not."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import Any

import torch
from torch import Tensor, nn

from pplvae.errors import ProgramError
from pplvae.isolate import calls_of_modules
from pplvae.programs.elements import rows_first
from pplvae.programs.failures import TRIED_ON
from pplvae.programs.families import family_name
from pplvae.programs.sites import row_log_prob
from pplvae.programs.widening import widened

_FEW, _MORE = TRIED_ON
_KEPT = [0, 1, 2, 0], [0, 1, 2, 4]  # places of the same rows in both runs
Sites = Mapping[str, Any]
Run = Callable[[bool], Sites]  # a program on few rows, or on more, always with the same noise


def meeting(what: str, fewer: Sites, more: Sites, dims: Mapping[str, int], run: Run) -> Iterator[ProgramError]:
    """Sites at which rows 0, 1 and 2 change their log-probabilities when another row, and row 0, follow them.

    Args:
        what: the program.
        fewer: its sites on three rows.
        more: its sites on five.
        dims: axis of the rows in each.
        run: runs the program again, to find out why.
    """
    for name, dim in dims.items():
        first, second = row_log_prob(fewer[name], dim), row_log_prob(more[name], dim)
        odd = next((lp for lp, rows in ((first, _FEW), (second, _MORE)) if lp.shape != (rows,)), None)
        if odd is not None:
            yield ProgramError(
                f"The site {name!r} of the {what} gives log-probabilities of shape {tuple(odd.shape)} for "
                f"{_FEW if odd is first else _MORE} rows: one per row was expected. Does a `.to_event(1)` miss?",
                code="PV204",
                at=(what, name),
            )
        elif not _alike(*_kept(first, second)) or not _drawn_alike(fewer[name], more[name], dim):
            yield _spread(what, fewer[name], dim) or _influenced(what, name, dim, first, second, run)


def _drawn_alike(fewer: Any, more: Any, dim: int) -> bool:
    """Whether rows draw the same beside others: where log q stays as it is, as of a shifted normal, log p may not."""
    one, other = (rows_first(widened(site["value"]), len(site["fn"].batch_shape) + dim) for site in (fewer, more))
    discrete = not fewer["value"].is_floating_point()  # which a rounding may turn over
    return fewer["is_observed"] or discrete or _alike(*_kept(one, other), fewer["value"].dtype)


def _kept(fewer: Tensor, more: Tensor) -> tuple[Tensor, Tensor]:
    """The same rows of both runs."""
    one, other = (torch.tensor(places, device=fewer.device) for places in _KEPT)
    return fewer[one], more[other]


def _spread(what: str, site: Any, dim: int) -> ProgramError | None:
    """Why a site's rows stand on two axes, if they do: of its distribution, or of its value."""
    fn, at, shape = site["fn"], (what, site["name"]), tuple(site["fn"].batch_shape)
    covered = {frame.dim for frame in site["cond_indep_stack"]}
    axes = range(-1, -1 - len(shape), -1)
    further = [axis for axis in axes if axis < dim and axis not in covered and shape[axis] > 1]
    if further:
        right = f"{family_name(fn)}(...).to_event({len(fn.event_shape) + dim - further[0]})"
        return ProgramError(
            f"The site {site['name']!r} of the {what} has batch shape {shape}: its rows lie at axis "
            f"{further[0]}, and the plate around it is at axis {dim}, where it was spread over the rows once more. "
            f"Make the axes right of the rows its event dimensions: `{right}`.",
            code="PV204",
            at=at,
            instead=right,
        )
    spread = tuple(fn.log_prob(site["value"], *site["args"], **site["kwargs"]).shape)
    if spread == shape:
        return None
    value = tuple(site["value"].shape)
    return ProgramError(
        f"At the site {site['name']!r} of the {what} the value has shape {value} (with {_FEW} rows) and its "
        f"{family_name(fn)} {tuple(fn.shape())}: together they were broadcast to {spread}, so that every row was held "
        "against the parameters of all others. Give both one shape: `obs=v.squeeze(-1)`, or parameters with a last "
        "axis of 1 and `.to_event(1)`.",
        code="PV205",
        at=at,
        instead=f'pyro.sample("{site["name"]}", {family_name(fn)}(...), obs=v.squeeze(-1))',
    )


def _influenced(what: str, name: str, dim: int, first: Tensor, second: Tensor, run: Run) -> ProgramError:
    """The random numbers, or the other rows, that a row's log-probability changes with."""
    with calls_of_modules() as once:
        one = run(False)
    with calls_of_modules() as again:
        other = run(False)
    log_probs = [row_log_prob(sites[name], dim) for sites in (one, other)]
    if not _alike(log_probs[0], log_probs[1]) or not _same(one[name]["value"], other[name]["value"]):
        return ProgramError(
            f"At the site {name!r} of the {what}, a row has another log-probability, or draw, in a second run with "
            "the same noise: the program draws random numbers outside `pyro.sample` in eval mode (dropout that ignores "
            f"`training`, say).{_where(once, again)} Draw what is random at a sample site, and write dropout as "
            "`nn.Dropout(p)`, which eval mode switches off.",
            code="PV241",
            at=(what, name),
            instead="self.dropout = nn.Dropout(p)",
        )
    with calls_of_modules() as beside:
        run(True)
    expected, came = _kept(first, second)
    odd = int((expected - came).abs().argmax())
    return ProgramError(
        f"At the site {name!r} of the {what}, a row's log-probability changed when other rows were added "
        f"({float(expected[odd]):.6g} and {float(came[odd]):.6g} for the same row and the same noise): rows influence "
        f"each other, as in a mean or a softmax over the first axis.{_where(once, beside)}",
        code="PV240",
        at=(what, name),
    )


def _where(once: Sequence[Any], again: Sequence[Any]) -> str:
    """The innermost module that is given the same and gives something else, in a sentence."""
    for (module, given, gives), (other, given_then, gives_then) in zip(once, again, strict=False):
        if module is not other:
            break
        if _same(given, given_then) and not _same(gives, gives_then):
            return f" It happens in {_in_short(module)}.{_cure(module)}"
    return ""


def _in_short(module: nn.Module) -> str:
    text = repr(module).split("\n")[0].rstrip("(")
    return f"`{text}`"


def _cure(module: nn.Module) -> str:
    if isinstance(module, nn.modules.batchnorm._BatchNorm):
        return (
            " It normalises by the rows beside it in eval mode too: leave `track_running_stats` as it is (True), or "
            "write `nn.LayerNorm`."
        )
    if isinstance(module, nn.MultiheadAttention) and not module.batch_first:
        return (
            " It takes the first axis for the sequence: write `batch_first=True`, with rows of shape (row, step, ...)."
        )
    return ""


def _same(one: Any, other: Any) -> bool:
    """Whether tensors agree in their first rows, where one run has more of them."""
    pairs = list(zip_longest(_tensors(one), _tensors(other)))
    return all(a is not None and b is not None and _same_tensors(a, b) for a, b in pairs)


def _same_tensors(one: Tensor, other: Tensor) -> bool:
    if one.ndim != other.ndim:
        return False
    for axis, (few, many) in enumerate(zip(one.shape, other.shape, strict=True)):
        if few < many:  # the rows: those of the first run come first
            other = other.narrow(axis, 0, few)
    return one.shape == other.shape and _alike(one, other)


def _tensors(nested: Any) -> Iterator[Tensor]:
    if isinstance(nested, Tensor):
        yield nested
    elif isinstance(nested, list | tuple):
        for each in nested:
            yield from _tensors(each)


def _alike(one: Tensor, other: Tensor, dtype: torch.dtype | None = None) -> bool:
    if not one.is_floating_point():
        return torch.equal(one, other)
    tolerance = 1e-3 if (dtype or one.dtype) == torch.float32 else 1e-6
    return torch.allclose(one, other, rtol=tolerance, atol=tolerance, equal_nan=True)
