"""What the samples of some rows say, as columns."""

from typing import NamedTuple

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from pplvae.programs.estimates import mean_and_stderr
from pplvae.programs.shapes import PerDraw, PerRow
from pplvae.programs.widening import widened
from pplvae.results.arviz import pareto_k
from pplvae.scoring.chunks import Chunk
from pplvae.scoring.gaps import GUIDES, Sample
from pplvae.scoring.tables import Columns, add


class Screened(NamedTuple):
    """What a screen says of each row.

    Attributes:
        bound: nats that its gap is at most.
        worth: whether it is to be refined.
    """

    bound: PerRow
    worth: Tensor


def encoder_columns(sample: Sample) -> Columns:
    """The encoder's ELBO alone."""
    columns: Columns = {}
    add(columns, "elbo_amortised", *mean_and_stderr(sample["amortised"].elbo))
    return columns


def skipped_columns(index: Tensor) -> Columns:
    """What is said of rows that get no guide of their own."""
    columns: Columns = {"status": np.full(len(index), "skipped"), "steps": torch.zeros_like(index)}
    for name in ("elbo_local", "amortisation_gap"):
        add(columns, name, *torch.full((2, len(index)), torch.nan, dtype=torch.float64))
    return columns


def worth_refining(elbo: PerRow, log_weights: PerDraw, evidence: PerRow, stderr: PerRow, screen: float) -> Screened:
    """An upper bound on each row's gap, and the rows whose gap may exceed the screen.

    Log p(v) less the amortised ELBO is more than the gap; the importance-weighted estimate of it can be trusted where
    k-hat is low.

    Args:
        elbo: of the encoder's guide.
        log_weights: that the evidence rests on.
        evidence: log p(v).
        stderr: its standard error.
        screen: nats.
    """
    bound = evidence - elbo + 2 * stderr
    trusted = torch.from_numpy(pareto_k(log_weights) < 0.7).to(bound.device)
    bound = torch.where(trusted, bound, torch.inf)
    return Screened(bound, ~(bound < screen))


def evidence_gaps(gaps: Columns, evidence: Columns, method: str) -> Columns:
    """Log p(v) from draws of its own, so that its errors are independent of those of the ELBOs, and the gaps to it."""
    columns: Columns = {}
    value, stderr = evidence["log_evidence"], evidence["log_evidence_stderr"]
    add(columns, "log_evidence", value, stderr)
    for name, elbo in (("approximation_gap", "elbo_local"), ("inference_gap", "elbo_amortised")):
        with np.errstate(invalid="ignore"):  # NaN where neither is finite
            add(columns, name, value - gaps[elbo], np.hypot(stderr, gaps[f"{elbo}_stderr"]))
    columns["log_evidence_bias"] = evidence["log_evidence_bias"]
    kept = ("pareto_k", "acceptance", "effective_sample_size", "jensen_slack")
    return columns | {f"{name}_{method}": evidence[name] for name in kept if name in evidence}


_PARAMETER = "lambda "


def parameter_columns(chunk: Chunk) -> Columns:
    """Lambda of the encoder and of the row's own guide, one line per row."""
    guides = chunk.guides(slice(None), 2)
    both = [guides.parameters(offsets) for offsets in (chunk.zeros, chunk.optimum.offsets)]
    return {
        f"{_PARAMETER}{key}": widened(torch.stack([lam[key].reshape(len(lam[key]), -1) for lam in both], 1))
        for key in both[0]
    }


def parted(found: xr.Dataset) -> tuple[xr.Dataset, xr.Dataset]:
    """The columns with one number per row, and lambda over (row, guide, element)."""
    names = [str(name) for name in found.data_vars if str(name).startswith(_PARAMETER)]
    keys = [name.removeprefix(_PARAMETER) for name in names]
    both = zip(keys, names, strict=True)
    values = {key: (("row", "guide", f"element of {key}"), found.variables[name].values) for key, name in both}
    parameters = xr.Dataset(values, coords={**found.coords, "guide": list(GUIDES)} if names else None)
    return found.drop_vars(names), parameters
