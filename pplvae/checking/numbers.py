"""Log-probabilities that are no numbers, or that float32 has wrong."""

from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from pplvae.checking.finding import Finding
from pplvae.checking.pair import Pair, Sites
from pplvae.data import few
from pplvae.isolate import isolated
from pplvae.programs.families import family_name
from pplvae.programs.reading import Given, run_guide, run_model
from pplvae.programs.sites import row_log_prob, values_of
from pplvae.programs.widening import in_dtype, wide_operations

_OFF = 0.05  # nats per row, several times the tolerance of a search


def nonfinite(pair: Pair) -> Iterator[Finding]:
    """Sites whose log-probability is infinite or not a number for some rows."""
    for program, name, log_prob in _log_probs(pair, pair.run.guide, pair.run.model):
        odd = (~log_prob.isfinite()).nonzero().flatten()
        if len(odd):
            yield Finding(
                "PV262",
                f"Rows {few(odd)} (counted from 0) have the log-probability {float(log_prob[odd[0]])} at the site "
                f"{name!r} of the {program}. Look at their values, and bound what the distribution is given.",
                program,
                name,
            )


def in_single_precision(pair: Pair) -> Iterator[Finding]:
    """Sites whose log-probability in float32 is not that in float64, at the same latents."""
    if all(tensor.dtype != torch.float32 for tensor in pair.tensors):
        return
    narrow, wide = (_at_given_latents(pair, wide=wide) for wide in (False, True))
    for (program, name), log_prob in narrow.items():
        off = _difference(log_prob.double(), wide[program, name].double())
        worst = int(off.argmax())
        if off[worst] > _OFF:
            yield Finding(
                "PV263",
                f"At the site {name!r} of the {program} the log-probability of row {worst} is {log_prob[worst]:.6g} in "
                f"float32 and {wide[program, name][worst]:.6g} in float64, at the same latents. Give distributions "
                "logits or log-scales in place of probabilities, or run in float64: `rows.double()`, "
                "`network.double()`.",
                program,
                name,
            )


def _difference(one: Tensor, other: Tensor) -> Tensor:
    """In nats; infinite where one of them alone is finite."""
    both, neither = one.isfinite() & other.isfinite(), ~one.isfinite() & ~other.isfinite()
    return torch.where(both, (one - other).abs(), torch.where(neither, 0.0, torch.inf))


def _log_probs(pair: Pair, guide: Sites, model: Sites) -> Iterator[tuple[str, str, Tensor]]:
    for program, sites, dims in (("guide", guide, pair.known.guide), ("model", model, pair.known.model)):
        for name, dim in dims.items():
            yield program, name, row_log_prob(sites[name], dim).detach()


def _at_given_latents(pair: Pair, *, wide: bool) -> dict[tuple[str, str], Tensor]:
    """Log-probabilities of all sites at the latents that have been drawn; of points, which have no density, none.

    Args:
        pair: to run.
        wide: with every operation in float64.
    """
    drawn = {**values_of(pair.run.model), **values_of(pair.run.guide)}
    dtype = torch.float64 if wide else torch.float32
    values = {name: in_dtype(value.detach(), dtype) for name, value in drawn.items()}
    # The noise stays that of the rows as they are.
    batch = replace(pair.batch, tensors=tuple(in_dtype(tensor, dtype) for tensor in pair.batch.tensors))
    widening = wide_operations(pair.called) if wide else nullcontext()
    with isolated(0, dtype=dtype), torch.no_grad(), widening:
        with Given(values):
            guide = run_guide(pair.guide, batch, pair.known.guide, (0,))
        model = run_model(pair.model, batch, values)
        for site in (*guide.values(), *model.values()):
            site["value"] = values.get(site["name"], in_dtype(site["value"], dtype))
        return {
            (program, name): log_prob
            for program, name, log_prob in _log_probs(pair, guide, model)
            if family_name((guide if program == "guide" else model)[name]["fn"]) != "Delta"
        }
