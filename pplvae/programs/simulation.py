"""Rows and latents drawn from a model, any Pyro program: (h, v) ~ p(v, h; theta).

A program is written to score rows, not to make them. It is run once on copies of the rows; at every observed site the
distribution is drawn from instead, and the draw is written into the copy through the very view that the program
observes, or to the elements that it has chosen. So a program that reads v[:, t - 1] after that site reads the draw.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from pyro.poutine.messenger import Messenger
from pyro.poutine.util import site_is_subsample
from torch import Tensor

from pplvae.errors import ProgramError
from pplvae.isolate import reseed
from pplvae.programs.batch import Batch, tile
from pplvae.programs.failures import in_users_words
from pplvae.programs.families import family_name
from pplvae.programs.keys import row_keys
from pplvae.programs.noise import Stream
from pplvae.programs.opening import one_set, opened
from pplvae.programs.reading import Layout, Program, run_guide, run_model
from pplvae.programs.selections import Selections
from pplvae.programs.sites import counted, row_log_prob, values_of

_OBSERVE_A_VIEW = (
    "To be simulated, a program must observe the rows that it is given, or some of their elements (`v`, `v[:, t]`, "
    "`v[:, [0, 3]]`, `v.flatten(1)`): transform the data before it is passed in, not inside the model."
)


@dataclass(frozen=True)
class Simulated:
    """Rows that a model has made, with the latents that it made them from.

    Attributes:
        tensors: like the rows of the template, `particles` times one after the other; what the model observes is
            drawn, everything else (covariates, masks, elements that are masked) is the template's.
        values: latent site -> value, the rows along the axis that the layout says.
        batch: the same rows as a `Batch`, one draw each. Its keys come from the templates' keys, not from the content:
            new rows may be equal to each other, and must not share what is drawn for them.
    """

    tensors: tuple[Tensor, ...]
    values: Mapping[str, Tensor]
    batch: Batch


def draw_rows(model: Program, guide: Program, rows: Any, *, seed: int = 0) -> Simulated:
    """Draw latents and rows from a model: p(v, h; theta) at the covariates and masks of the given rows.

    Args:
        model: p(v, h; theta), called as `model(*rows)`; run in eval mode, plate scales left out.
        guide: its guide; it tells which sites are latent.
        rows: templates, one simulated row for each: a tensor or array, a tuple of them, or rows from `load_data`.
        seed: names the noise.

    Returns:
        A `Simulated` with as many rows.

    Raises:
        DataError: rows that cannot be used.
        ProgramError: a pair whose rows cannot be told apart, or a model that cannot be simulated from.
    """
    tensors = one_set(rows).tensors
    with opened(model, guide, tensors, seed) as layout:
        return simulate(model, layout, told_apart(Batch.of(tensors)), (seed, Stream.SIMULATE))


def simulate(model: Program, layout: Layout, batch: Batch, address: tuple[int, ...]) -> Simulated:
    """Draw latents and rows from a model; only inside `isolated`.

    Noise is keyed by row where `RowNoise` has a keyed counterpart. Other draws (Poisson counts, say) come from torch's
    generator, which is seeded here from the address and the keys of the batch.

    Args:
        model: the model, under whatever handlers it needs.
        layout: of the pair.
        batch: templates; with several draws, every row is simulated so many times. Rows with the same key and number
            of draw are simulated alike: see `told_apart`.
        address: names the noise.

    Raises:
        ProgramError: an observed site that is no view of the rows, a `pyro.factor`, a latent outside the data plate,
            or a program that uses a row before it has drawn it.
    """
    reseed(*address, *batch.keys[:1].tolist(), int(batch.keys.sum()))
    tensors = tuple(tensor.clone(memory_format=torch.contiguous_format) for tensor in batch.tiled)
    draw = _DrawRows(tensors, batch.tiled, layout.model)

    def program(*_: Tensor) -> None:
        with draw, draw.selections:
            model(*tensors)

    with torch.no_grad(), in_users_words("model", batch.tensors):
        sites = run_guide(program, batch, layout.model, address)
        latents = values_of(sites)
        number = torch.arange(batch.copies, device=batch.keys.device).repeat_interleave(len(batch))
        made = Batch(tensors, row_keys((tile(batch.keys, batch.copies), number)), batch.index)
        _check_the_same_again(draw.log_probs, run_model(model, made, latents), layout.model)
    return Simulated(tensors, latents, made)


def told_apart(batch: Batch) -> Batch:
    """Give rows of the same content different keys, by their order: they would share their noise otherwise."""
    keys = batch.keys.cpu().numpy()
    order = np.argsort(keys, kind="stable")
    ranked = keys[order]
    first = np.searchsorted(ranked, ranked)  # where the run of equal keys starts
    again = np.empty_like(keys)
    again[order] = np.arange(len(keys)) - first
    repeats = torch.from_numpy(again).to(batch.keys.device)
    return replace(batch, keys=torch.where(repeats == 0, batch.keys, row_keys((batch.keys, repeats))))


class _DrawRows(Messenger):
    """Draw what a program observes, and write it into the rows that the program reads.

    Args:
        tensors: copies of the rows, which the program is called with.
        originals: the rows themselves.
        dims: axis of the rows in each site (`Layout.model`).
    """

    def __init__(self, tensors: Sequence[Tensor], originals: Sequence[Tensor], dims: Mapping[str, int]) -> None:
        super().__init__()
        self._tensors, self._originals, self._dims = tensors, originals, dims
        self.selections = Selections(tensors)
        self._observed: dict[str, Tensor] = {}
        # Taken as each site happens: a later draw may change the rows that a site's parameters are views of.
        self.log_probs: dict[str, Float[Tensor, " batch"]] = {}

    def _pyro_sample(self, msg: Any) -> None:
        name = msg["name"]
        if site_is_subsample(msg) or (msg["infer"] or {}).get("_deterministic"):
            return
        if name not in self._dims and msg["value"] is None:
            raise ProgramError(
                f"The latent {name!r} lies outside the data plate: it belongs to all rows at once, so rows cannot be "
                "simulated one by one. Make a parameter of it, or a constant."
            )
        if name in self._dims and msg["is_observed"] and family_name(msg["fn"]) != "Unit":
            self._observed[name] = msg["value"]
            msg["value"], msg["is_observed"] = None, False  # so that Pyro draws

    def _pyro_post_sample(self, msg: Any) -> None:
        name = msg["name"]
        if name in self._observed:
            msg["is_observed"] = True
            msg["value"] = self._write(msg, self._observed[name])
        if name not in self._dims:
            return
        self.log_probs[name] = row_log_prob(msg, self._dims[name])
        if family_name(msg["fn"]) == "Unit" and self.log_probs[name].any():
            raise ProgramError(
                f"The `pyro.factor` {name!r} of the model weights what the program draws, so that p(v, h) is not what "
                "it simulates. Write it as a distribution that can be drawn from: `pyro.sample(..., obs=v)`."
            )

    def _write(self, msg: Any, observed: Tensor) -> Tensor:
        """Put a draw where the program has its observation; the site's value, masked elements as they were."""
        name, draw = msg["name"], msg["value"]
        if draw.squeeze().shape != observed.squeeze().shape:
            raise ProgramError(
                f"The observed site {name!r} has shape {tuple(draw.shape)} and its observation "
                f"{tuple(observed.shape)}: one number is observed several times, so it cannot be drawn. Observe a "
                "tensor of the distribution's own shape."
            )
        kept = torch.where(counted(msg), draw, observed.reshape(draw.shape))
        write = self.selections.writer(observed)
        if write is not None:
            write(kept.reshape(observed.shape), counted(msg).reshape(observed.shape))
            observed.copy_(kept.reshape(observed.shape))  # the program may go on with it
            return kept
        target = self._target(name, observed)
        target.copy_(kept.reshape(target.shape))
        value = target.to(kept.dtype).reshape(kept.shape).clone()
        if not target.is_floating_point() and not torch.equal(value, kept):
            raise ProgramError(
                f"The rows that the site {name!r} observes have dtype {target.dtype}, which cannot hold the draws of "
                f"{family_name(msg['fn'])} ({kept.dtype}). Pass floating-point rows."
            )
        return value

    def _target(self, name: str, observed: Tensor) -> Tensor:
        """The observation itself if it is a view of the rows, or the rows that it is a copy of."""
        for tensor in self._tensors:
            shared = tensor.untyped_storage().data_ptr() == observed.untyped_storage().data_ptr()
            if shared and tensor.dtype == observed.dtype:
                if any(
                    stride == 0 and size > 1 for stride, size in zip(observed.stride(), observed.shape, strict=True)
                ):
                    break  # expanded: one number observed several times
                return observed
        for tensor, original in zip(self._tensors, self._originals, strict=True):
            if observed.numel() == original.numel() and bool((observed.reshape(original.shape) == original).all()):
                return tensor
        raise ProgramError(f"The site {name!r} observes something that is no view of the rows. {_OBSERVE_A_VIEW}")


def _check_the_same_again(
    drawn: Mapping[str, Float[Tensor, " batch"]], sites: Mapping[str, Any], dims: Mapping[str, int]
) -> None:
    """Check that each site was drawn with the log-probability that the program gives it on the finished rows."""
    for name, before in drawn.items():
        after = row_log_prob(sites[name], dims[name])
        tolerance = 1e-3 if before.dtype == torch.float32 else 1e-6
        if not torch.allclose(before, after, rtol=tolerance, atol=tolerance, equal_nan=True):
            odd = int((before - after).abs().nan_to_num(torch.inf).argmax())
            raise ProgramError(
                f"The model cannot be simulated from: at the site {name!r}, the log-probability of a row was "
                f"{before[odd]:.6g} when it was drawn and is {after[odd]:.6g} on the finished rows. The program looks "
                "at v before it draws it (a masked autoregressive network, say), or observes the same numbers at two "
                "sites."
            )
