"""Where in a pair of programs a loss that is not a finite number comes from."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pplvae.data import few
from pplvae.errors import ProgramError
from pplvae.isolate import validation
from pplvae.programs.reading import Given, PlateIndex, Program, SiteReader
from pplvae.programs.sites import row_log_prob, values_of
from pplvae.training.preparation import Start


def first_not_finite(
    model: Program,
    guide: Program,
    start: Start,
    batch: Sequence[Tensor],
    index: Tensor,
    ids: np.ndarray,
    error: Exception | None = None,
) -> str:
    """The first number that is not finite, in a parameter or on a new draw of a batch; nothing if there is none.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        start: see `Start`.
        batch: the rows.
        index: their positions in the data.
        ids: of all rows.
        error: what a step on them raised, if it did.

    Returns:
        Sentences: what it is, and what to do.
    """
    if isinstance(error, ProgramError) and error.__cause__ is None:  # a refusal of ours
        return ""
    broken = start.weights.nonfinite()
    if broken:
        return f"The parameter {broken[0]!r} had become NaN or infinite before: lower `lr`, or set `clip`."
    readers, raised = {"guide": SiteReader(), "model": SiteReader()}, None
    with torch.no_grad(), validation(False), PlateIndex(index.to(batch[0].device)):
        try:
            with readers["guide"]:
                guide(*batch)
            with readers["model"], Given(values_of(readers["guide"].sites)):
                model(*batch)
        except Exception as found:  # at such numbers, perhaps: the sites until there are looked at
            raised = found
    for program, name, site in _sites(readers):
        if bool(site["fn"].log_prob(site["value"]).isfinite().all()):
            continue
        dims = {} if start.layout is None else getattr(start.layout, program)
        where = ""
        if name in dims:
            bad = ~row_log_prob(site, dims[name]).isfinite()
            where = f", rows {few(np.sort(ids[index.cpu()[bad.cpu()].numpy()]))}"
        return (
            f"The first log-probability that is not finite is that of the site {name!r} of the {program}{where}. Lower "
            "`lr`, bound the scales of the program, and look at these rows."
        )
    return _of_a_matrix(raised) or _of_a_matrix(error and error.__cause__)


def _sites(readers: dict[str, SiteReader]) -> Iterator[tuple[str, str, Any]]:
    for program, reader in readers.items():
        for name, site in reader.sites.items():
            yield program, name, site


def _of_a_matrix(error: BaseException | None) -> str:
    if not isinstance(error, torch.linalg.LinAlgError):  # type: ignore[attr-defined]
        return ""
    first_line = str(error).split("\n")[0].rstrip(".")
    return f"A matrix of the program could not be factorised ({first_line}). Lower `lr`, or bound its scales."
