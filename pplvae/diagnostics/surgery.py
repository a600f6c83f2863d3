"""ELBO surgery: the mean rate split into what rows tell apart, and how far all rows together are from the prior.

mean KL(q(h | v_n) || p(h)) = I_q(n; h) + KL(q(h) || p(h)), with q(h) the mean of q(h | v_n) over the given rows.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
import xarray as xr
from jaxtyping import Float, Int64
from pyro.distributions.util import scale_and_mask
from torch import Tensor

from pplvae.programs.batch import Batch, tile
from pplvae.programs.elements import rows_first
from pplvae.programs.families import family_name
from pplvae.programs.noise import Stream
from pplvae.programs.reading import Given, Layout, Program, log_guide, log_model, run_guide
from pplvae.programs.sites import counted, latents_of, values_of
from pplvae.programs.widening import widened, widest

PairDensities = Float[Tensor, "draw row"]

_LOOKED_AT = 1000  # rows on which it is tried whether the split is defined
_NUMBERS_AT_ONCE = 2**22  # draws × rows × scalar latents
_ROWS_AT_ONCE = 2**14  # in a run of a program


def surgery(
    model: Program, guide: Program, layout: Layout, whole: Batch, *, draws: int, chunk_size: int, seed: int
) -> xr.Dataset:
    """Estimate I_q(n; h) and KL(q(h) || p(h)), in nats.

    Every draw is held against the mixture of all rows, q(h) = mean_j q(h | v_j): draws × rows densities, of which at
    most 2^22 numbers are in memory at once. Where the guide's distributions do not depend on what it draws, the
    encoder runs once per row and block of draws; elsewhere it runs for every pair.

    Args:
        model: p(v, h; theta).
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        whole: the rows.
        draws: in all: several for each row, or one for each of so many rows, chosen at random.
        chunk_size: rows per run.
        seed: names the noise.

    Returns:
        `mutual_information` and `marginal_kl` over the given rows; `mutual_information_upper` and `marginal_kl_lower`,
        with a draw's own row left out of the mixture: were there more rows like these, the truth would lie between the
        two, in expectation; each with `_stderr` (Monte Carlo). `log_rows` = log N. `undefined`, the reason where the
        parts do not exist (they are NaN then), else "".

    References:
        ELBO surgery: yet another way to carve up the variational evidence lower bound (Hoffman and Johnson, 2016); On
        variational bounds of mutual information (Poole et al., 2019), arXiv 1905.06922, for leaving a row out.
    """
    names = ("mutual_information", "marginal_kl", "mutual_information_upper", "marginal_kl_lower")
    reason = _why_undefined(model, guide, layout, whole) if draws else "no draws were asked for"
    found = [(np.nan, np.nan)] * 4
    if not reason:
        own, others, prior = _log_densities(model, guide, layout, whole, draws, chunk_size, seed)
        mixture = torch.logaddexp(others, own) - np.log(len(whole))
        without = others - np.log(len(whole) - 1)
        found = [_mean_and_stderr(terms) for terms in (own - mixture, mixture - prior, own - without, without - prior)]
    columns = {"log_rows": np.log(len(whole))}
    for name, (mean, stderr) in zip(names, found, strict=True):
        columns |= {name: mean, f"{name}_stderr": stderr}
    nats = {name: ((), number, {"units": "nats"}) for name, number in columns.items()}
    return xr.Dataset(nats | {"undefined": ((), reason, {})})


def _log_densities(
    model: Program, guide: Program, layout: Layout, whole: Batch, draws: int, chunk_size: int, seed: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Of draws from q(h | v_i): log q(h | v_i), log of the sum of q(h | v_j) over the other rows, and log p(h).

    Each of shape (draw of the row, row).
    """
    chosen = np.arange(len(whole))
    if draws < len(whole):
        chosen = np.sort(np.random.default_rng(seed).choice(len(whole), draws, replace=False))
    particles = max(1, draws // len(whole))
    pairs = _Pairs(guide, layout, whole, chunk_size)
    found = []
    for index in torch.from_numpy(chosen).split(chunk_size):
        batch = whole.take(index).times(particles)
        sites = run_guide(guide, batch, layout.guide, (seed, Stream.EVIDENCE))
        own = log_guide(sites, layout)
        _, prior = log_model(model, batch, values_of(sites), layout)
        values = {name: sites[name]["value"].movedim(axis, 0) for name, axis in layout.axes.items()}
        others = pairs.log_sum_of_others(values, tile(index, particles))
        found.append(torch.stack([widened(own), others, widened(prior)]).unflatten(1, (particles, -1)))
    own, others, prior = torch.cat(found, 2)
    return own, others, prior


class _Pairs:
    """Log q(h_d | v_j) for draws h_d and rows v_j.

    Args:
        guide: q(h; lambda_phi(v)).
        layout: of the pair.
        whole: the rows of the mixture.
        chunk_size: rows per run of the guide.
    """

    def __init__(self, guide: Program, layout: Layout, whole: Batch, chunk_size: int) -> None:
        self._guide, self._layout, self._whole, self._chunk_size = guide, layout, whole, chunk_size

    def log_sum_of_others(self, values: Mapping[str, Tensor], owners: Int64[Tensor, " draw"]) -> Float[Tensor, " draw"]:
        """Log of the sum of q(h_d | v_j) over all rows but the draw's own.

        Args:
            values: of the guide's sites, the draws along their first axis.
            owners: the row that each draw belongs to.
        """
        count, owners = len(owners), owners.to(self._whole.keys.device)
        total = torch.full((count,), -torch.inf, dtype=widest(owners.device), device=owners.device)
        for start in range(0, len(self._whole), self._chunk_size):
            batch = self._whole.take(slice(start, start + self._chunk_size))
            for draws, densities in self._blocks(batch, values, count):
                rows = torch.arange(start, start + len(batch), device=owners.device)
                others = widened(densities).masked_fill(owners[draws].unsqueeze(1) == rows, -torch.inf)
                total[draws] = torch.logaddexp(total[draws], others.logsumexp(1))
        return total

    def _blocks(self, batch: Batch, values: Mapping[str, Tensor], count: int) -> Iterator[tuple[slice, PairDensities]]:
        numbers = sum(value[0].numel() for value in values.values())
        size = _NUMBERS_AT_ONCE // (numbers * len(batch))
        sites = run_guide(self._guide, batch, self._layout.guide, (0,)) if self._layout.fixed else {}
        if not self._layout.fixed:
            size = min(size, _ROWS_AT_ONCE // len(batch))
        for start in range(0, count, max(1, size)):
            draws = slice(start, start + max(1, size))
            some = {name: value[draws] for name, value in values.items()}
            yield draws, self._kept(sites, some) if self._layout.fixed else self._run(batch, some)

    def _kept(self, sites: Mapping[str, Any], values: Mapping[str, Tensor]) -> PairDensities:
        """From distributions that do not change with what is drawn."""
        total = []
        for name, axis in self._layout.axes.items():
            site = sites[name]
            log_prob = scale_and_mask(site["fn"].log_prob(values[name].unsqueeze(1 + axis)), mask=site["mask"])
            log_prob = log_prob.movedim(1 + axis, 1)
            total.append(log_prob.reshape(*log_prob.shape[:2], -1).sum(2))
        return torch.stack(total).sum(0)

    def _run(self, batch: Batch, values: Mapping[str, Tensor]) -> PairDensities:
        """From the guide itself, every row with every draw given."""
        draws = len(next(iter(values.values())))
        tiled = {}
        for name, value in values.items():
            pairs = value.unsqueeze(1).expand(draws, len(batch), *value.shape[1:]).flatten(0, 1)
            tiled[name] = pairs.movedim(0, self._layout.axes[name])
        with Given(tiled):
            sites = run_guide(self._guide, batch.times(draws), self._layout.guide, (0,))
        return log_guide(sites, self._layout).reshape(draws, len(batch))


def _why_undefined(model: Program, guide: Program, layout: Layout, whole: Batch) -> str:
    """Why the rate of these programs cannot be split, or nothing."""
    some = whole.take(torch.from_numpy(np.unique(np.linspace(0, len(whole) - 1, _LOOKED_AT).astype(np.int64))))
    sites = run_guide(guide, some, layout.guide, (0,))
    values = values_of(sites)
    if any(
        family_name(s["fn"]) == "Delta" or (s["infer"] or {}).get("is_auxiliary") for s in latents_of(sites).values()
    ):
        return "the guide has auxiliary latents or point masses, so q(h) has no density that can be computed"
    for name, site in ((name, sites[name]) for name in layout.axes):
        mask = rows_first(counted(site), layout.axes[name])
        if not torch.equal(mask, mask[:1].expand_as(mask)):
            return f"the latent {name!r} is masked in some rows and not in others, so rows have no common latents"
    shifted = some.take(torch.arange(len(some)).roll(len(some) // 2))
    if not _equal(*(log_model(model, batch, values, layout)[1] for batch in (some, shifted))):
        return "the model's prior changes with the row, so there is no p(h) common to all rows"
    with Given(values):
        again = [log_guide(run_guide(guide, some, layout.guide, (0, i)), layout) for i in range(2)]
    return "" if _equal(*again) else "the guide draws noise outside its sites, so log q(h | v) is not known"


def _equal(a: Tensor, b: Tensor) -> bool:
    tolerance = 1e-3 if a.dtype == torch.float32 else 1e-6
    return torch.allclose(a, b, rtol=tolerance, atol=tolerance, equal_nan=True)


def _mean_and_stderr(terms: Float[Tensor, "particle row"]) -> tuple[float, float]:
    """Mean over draws of all rows; the rows are given, so that with several draws each only theirs vary."""
    particles, rows = terms.shape
    variance = terms.var(0).mean() if particles > 1 else terms.var()
    return float(terms.mean()), float((variance / (particles * rows)).sqrt())
